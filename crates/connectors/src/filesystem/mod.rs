//! Files that rows look up. The driver reads them (`planner::files`), and no source or sink does.

use crate::api::Connector;
use crate::sink::SinkConnector;
use crate::source::SourceConnector;
use highwater_connect::ConnectorSpec;

/// The connector.
pub struct Filesystem;

impl Connector for Filesystem {
    fn spec(&self) -> &'static ConnectorSpec {
        &highwater_connect::FILESYSTEM
    }

    fn source(&self) -> Option<&dyn SourceConnector> {
        None
    }

    fn sink(&self) -> Option<&dyn SinkConnector> {
        None
    }
}
