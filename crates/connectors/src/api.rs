//! What a connector is.
//!
//! Owns: the trait, and finding the connector of a table. Does not own: its declaration (crate `connect`), the list of them
//! (`list`), what sources and sinks do (`source`, `sink`). Invariants: no method has a default, so that a connector says of everything whether it does it;
//! nothing outside a connector's folder asks which one it is.

use crate::error::ConnectorError;
use crate::list::CONNECTORS;
use crate::sink::SinkConnector;
use crate::source::SourceConnector;
use highwater_connect::ConnectorSpec;
use highwater_engine::query::ConnectorOptions;

/// Something tables are stored in.
pub trait Connector: Sync {
    /// What scripts may say of it.
    fn spec(&self) -> &'static ConnectorSpec;

    /// How it is read; `None` if it is not.
    fn source(&self) -> Option<&dyn SourceConnector>;

    /// How it is written; `None` if it is not.
    fn sink(&self) -> Option<&dyn SinkConnector>;
}

/// The connector of a table.
///
/// # Errors
/// This build has none of that name.
pub fn connector(table: &str, options: &ConnectorOptions) -> Result<&'static dyn Connector, ConnectorError> {
    let name = options.name();
    let unknown = || ConnectorError::Config(format!("table '{table}': this build has no connector '{name}'"));
    CONNECTORS.iter().copied().find(|connector| connector.spec().name == name).ok_or_else(unknown)
}
