//! Versions of the tables that rows look up.
//!
//! Owns: how a process hands their rows to a query. Does not own: reading them (connectors), which version a batch looks
//! up (its plan), what is done with the rows (`plan::lookup_rows`).

use arrow::record_batch::RecordBatch;
use highwater_dataflow::error::EngineError;
use highwater_protocol::files::FileContent;
use highwater_sql::tables::SnapshotTable;

/// Where a process gets the rows of versions from.
pub trait SnapshotRows: Sync {
    type Error: From<EngineError>;

    /// The rows of the version of `table` that has these contents.
    ///
    /// # Errors
    /// The content is not to be had, or is not what the table declares; the message says why.
    fn rows(
        &self,
        table: &SnapshotTable,
        contents: &[FileContent],
    ) -> impl Future<Output = Result<Vec<RecordBatch>, Self::Error>> + Send;
}
