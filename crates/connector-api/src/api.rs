//! What a connector is.
//!
//! Owns: the trait. Does not own: its declaration (crate `connector-spec`), the list of them (`list`), finding that of a table
//! (`registry`), what sources, sinks and lookups do (`source`, `sink`, `lookup`). Invariants: no method has a default, so that a
//! connector says of everything whether it does it; nothing outside a connector's folder asks which one it is.

use crate::lookup::Lookup;
use crate::sink::SinkConnector;
use crate::source::SourceConnector;
use highwater_connector_spec::ConnectorSpec;

/// Something tables are stored in.
pub trait Connector: Sync {
    /// What scripts may say of it.
    fn spec(&self) -> &'static ConnectorSpec;

    /// How it is read; `None` if it is not.
    fn source(&self) -> Option<&dyn SourceConnector>;

    /// How it is written; `None` if it is not.
    fn sink(&self) -> Option<&dyn SinkConnector>;

    /// How rows look things up in it; `None` if they do not.
    fn lookup(&self) -> Option<Lookup<'_>>;
}
