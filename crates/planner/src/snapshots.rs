//! The rows of lookup tables, as a compiled query gets them.
//!
//! Owns: the trait through which a process provides them. Does not own: reading tables (connectors), which version a batch
//! looks up (its plan), keeping the rows in memory (`plan::lookup_rows`).

use arrow::record_batch::RecordBatch;
use highwater_dataflow::error::EngineError;
use highwater_protocol::files::FileContent;
use highwater_sql::tables::SnapshotTable;

/// Provides the rows of lookup tables in one process.
pub trait SnapshotRows: Sync {
    type Error: From<EngineError>;

    /// Returns the rows of the version of `table` that consists of `contents`.
    ///
    /// # Errors
    /// If the content is not available, or does not fit the table's declaration; the message says why.
    fn rows(
        &self,
        table: &SnapshotTable,
        contents: &[FileContent],
    ) -> impl Future<Output = Result<Vec<RecordBatch>, Self::Error>> + Send;
}
