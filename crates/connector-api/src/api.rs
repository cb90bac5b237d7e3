//! The trait of a connector.
//!
//! Owns: the trait. Does not own: a connector's declaration (crate `connector-spec`), the list of connectors and
//! finding a table's (crate `connectors`), the traits of sources, sinks and lookups (`source`, `sink`, `lookup`).
//! Invariants: no method has a default, so that a connector must decide each; nothing outside a connector's folder
//! depends on which connector it is.

use crate::lookup::Lookup;
use crate::sink::SinkConnector;
use crate::source::SourceConnector;
use highwater_connector_spec::ConnectorSpec;

/// An external system in which tables are stored.
pub trait Connector: Sync {
    /// Returns its declaration.
    fn spec(&self) -> &'static ConnectorSpec;

    /// Returns its source; `None` if its tables cannot be read.
    fn source(&self) -> Option<&dyn SourceConnector>;

    /// Returns its sink; `None` if its tables cannot be written.
    fn sink(&self) -> Option<&dyn SinkConnector>;

    /// Returns its kind of lookup; `None` if its tables cannot be looked up.
    fn lookup(&self) -> Option<Lookup<'_>>;
}
