//! The filesystem connector: files that rows look up, and a file sink that writes one file per writer and batch.
//!
//! Owns: reading files that are looked up (`snapshot`), the paths of a sink's files (`layout`), staging them (`writer`),
//! making a batch's files visible (`commit`). Does not own: when to read and to commit (protocol, driver).
//! Invariants: a flushed file is durable and hidden; only the driver makes it visible or deletes it, since only the
//! driver knows whether a checkpoint names it; a batch has at most one manifest, and its content never changes.

mod commit;
mod layout;
mod snapshot;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod tests;
mod writer;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use highwater_connector_api::api::Connector;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::lookup::{Lookup, Snapshot, SnapshotVersion};
use highwater_connector_api::sink::{Committer, EarlierOutput, SinkConnector, Staged, Writer, WriterConfig};
use highwater_connector_api::source::SourceConnector;
use highwater_connector_spec::ConnectorSpec;
use highwater_protocol::files::FileContent;
use highwater_protocol::ids::{AttemptId, BatchId, QueryId};
use highwater_protocol::report::WriterReport;
use highwater_sql::formats::CSV;
use highwater_sql::tables::{SinkTable, SnapshotTable};
use layout::Layout;
use std::path::PathBuf;
use writer::FileWriter;

/// The filesystem connector.
pub struct Filesystem;

impl Connector for Filesystem {
    fn spec(&self) -> &'static ConnectorSpec {
        &highwater_connector_spec::FILESYSTEM
    }

    fn source(&self) -> Option<&dyn SourceConnector> {
        None
    }

    fn sink(&self) -> Option<&dyn SinkConnector> {
        Some(self)
    }

    fn lookup(&self) -> Option<Lookup<'_>> {
        Some(Lookup::Snapshot(self))
    }
}

#[async_trait]
impl Snapshot for Filesystem {
    async fn newest_version(
        &self,
        table: &SnapshotTable,
        known: Option<&[FileContent]>,
    ) -> Result<Option<SnapshotVersion>, ConnectorError> {
        snapshot::newest_version(table, known).await
    }

    async fn rows(&self, table: &SnapshotTable, contents: &[PathBuf]) -> Result<Vec<RecordBatch>, ConnectorError> {
        snapshot::rows(table, contents).await
    }
}

impl SinkConnector for Filesystem {
    fn prepare(&self, table: &SinkTable, query: QueryId) -> Result<(), ConnectorError> {
        check_rows(table)?;
        Layout::of(table, query)?.create()
    }

    fn open(&self, config: WriterConfig) -> Result<Box<dyn Writer>, ConnectorError> {
        Ok(Box::new(FileWriter::open(config)?))
    }

    fn committer(&self) -> Committer<'_> {
        Committer::Staged(self)
    }
}

impl Staged for Filesystem {
    fn commit(
        &self,
        table: &SinkTable,
        (query, name): (QueryId, &str),
        batch: BatchId,
        writers: &[&WriterReport],
    ) -> Result<(), ConnectorError> {
        commit::commit(&Layout::of(table, query)?, name, batch, writers)
    }

    fn discard(
        &self,
        table: &SinkTable,
        query: QueryId,
        batch: BatchId,
        attempt: AttemptId,
    ) -> Result<(), ConnectorError> {
        commit::discard(&Layout::of(table, query)?, batch, attempt)
    }

    fn newest(&self, table: &SinkTable, query: QueryId) -> Result<Option<BatchId>, ConnectorError> {
        Layout::of(table, query)?.newest()
    }

    fn earlier_output(&self) -> Box<dyn EarlierOutput> {
        Box::new(commit::EarlierManifests)
    }

    fn delete_progress(&self, table: &SinkTable, query: QueryId) -> Result<(), ConnectorError> {
        Layout::of(table, query)?.delete()
    }
}

/// Refuses tables whose rows could be empty lines in CSV, which readers skip.
fn check_rows(table: &SinkTable) -> Result<(), ConnectorError> {
    match table.schema.fields().as_ref() {
        [only] if only.is_nullable() && table.connector.format.name() == CSV.name => {
            Err(ConnectorError::Config(format!(
                "sink '{}': a NULL in a CSV file of one column is an empty line, which readers skip; add a column, or use \
             'format' = 'json'",
                table.name
            )))
        }
        _ => Ok(()),
    }
}
