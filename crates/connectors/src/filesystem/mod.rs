//! Files that rows look up. The driver reads them (`highwater_engine::files`), and no source or sink does.

use crate::api::Connector;
use crate::sink::SinkConnector;

/// The connector.
pub struct Filesystem;

impl Connector for Filesystem {
    fn name(&self) -> &'static str {
        "filesystem"
    }

    fn sink(&self) -> Option<&dyn SinkConnector> {
        None
    }
}
