//! Calling the connector of a table: opening readers and writers, committing, and reading lookup tables.
//!
//! Owns: finding the connector of a table. Does not own: the list of connectors (`list`), the connectors.

mod committing;

pub use committing::{
    EarlierOutputs, commit_staged, delete_progress, discard_staged, guarantee, is_staged, max_attempt_ms, prepare,
    resolve_writers,
};

use crate::list::CONNECTORS;
use arrow::record_batch::RecordBatch;
use highwater_connector_api::api::Connector;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::lookup::{Lookup, Snapshot, SnapshotVersion};
use highwater_connector_api::sink::{SinkConnector, Writer, WriterConfig};
use highwater_connector_api::source::{SourceConnector, SourceEvent, SourceMonitor, SourceReader, SourceReaderConfig};
use highwater_protocol::files::FileContent;
use highwater_sql::tables::{ConnectorOptions, SinkTable, SnapshotTable, SourceTable};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// Returns the connector of a table.
///
/// # Errors
/// This build has no connector of that name.
fn connector(table: &str, options: &ConnectorOptions) -> Result<&'static dyn Connector, ConnectorError> {
    let name = options.name();
    let unknown = || ConnectorError::Config(format!("table '{table}': this build has no connector '{name}'"));
    CONNECTORS.iter().copied().find(|connector| connector.spec().name == name).ok_or_else(unknown)
}

/// Opens a monitor of a source's partitions.
///
/// # Errors
/// The table cannot be read, or its options are wrong.
pub fn monitor(table: &SourceTable) -> Result<Box<dyn SourceMonitor>, ConnectorError> {
    source_of(table)?.monitor(table)
}

/// Starts a reader of a source.
///
/// # Errors
/// As [`monitor`].
pub fn reader(
    config: SourceReaderConfig,
    events: UnboundedSender<SourceEvent>,
) -> Result<Arc<dyn SourceReader>, ConnectorError> {
    source_of(&config.table)?.reader(config, events)
}

fn source_of(table: &SourceTable) -> Result<&'static dyn SourceConnector, ConnectorError> {
    connector(&table.name, &table.connector)?.source().ok_or_else(|| {
        let (name, connector) = (&table.name, table.connector.name());
        ConnectorError::Config(format!("table '{name}' cannot be read: the connector '{connector}' has no source"))
    })
}

/// Opens a writer of a sink.
///
/// # Errors
/// The table cannot be written, or its options are wrong.
pub fn open_writer(config: WriterConfig) -> Result<Box<dyn Writer>, ConnectorError> {
    sink_of(&config.table)?.open(config)
}

fn sink_of(table: &SinkTable) -> Result<&'static dyn SinkConnector, ConnectorError> {
    connector(&table.name, &table.connector)?.sink().ok_or_else(|| {
        ConnectorError::Config(format!(
            "table '{}' cannot be written: the connector '{}' has no sink",
            table.name,
            table.connector.name()
        ))
    })
}

/// Reads the newest version of a lookup table. Returns `None` if it is the `known` one.
///
/// # Errors
/// As [`Snapshot::newest_version`], and if the table cannot be looked up.
pub async fn newest_snapshot(
    table: &SnapshotTable,
    known: Option<&[FileContent]>,
) -> Result<Option<SnapshotVersion>, ConnectorError> {
    snapshot_of(table)?.newest_version(table, known).await
}

/// Returns the rows of a version of a lookup table. `contents` are local files with the version's contents, in order.
///
/// # Errors
/// As [`Snapshot::rows`], and if the table cannot be looked up.
pub async fn snapshot_rows(table: &SnapshotTable, contents: &[PathBuf]) -> Result<Vec<RecordBatch>, ConnectorError> {
    snapshot_of(table)?.rows(table, contents).await
}

fn snapshot_of(table: &SnapshotTable) -> Result<&'static dyn Snapshot, ConnectorError> {
    match connector(&table.name, &table.connector)?.lookup() {
        Some(Lookup::Snapshot(snapshot)) => Ok(snapshot),
        None => Err(ConnectorError::Config(format!(
            "table '{}' cannot be looked up: the connector '{}' is none of lookups",
            table.name,
            table.connector.name()
        ))),
    }
}
