//! Files that rows look up. The driver reads them (`planner::files`), and no source or sink does.

use highwater_connector_api::api::Connector;
use highwater_connector_api::sink::SinkConnector;
use highwater_connector_api::source::SourceConnector;
use highwater_connector_spec::ConnectorSpec;

/// The connector.
pub struct Filesystem;

impl Connector for Filesystem {
    fn spec(&self) -> &'static ConnectorSpec {
        &highwater_connector_spec::FILESYSTEM
    }

    fn source(&self) -> Option<&dyn SourceConnector> {
        None
    }

    fn sink(&self) -> Option<&dyn SinkConnector> {
        None
    }
}
