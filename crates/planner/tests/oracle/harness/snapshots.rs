//! Lookup tables, as driver and executors handle them: connectors read them, and their content is kept by digest.
//!
//! Owns: the newest versions, and the content of all versions that were read. Does not own: which version a batch looks up.

use arrow::record_batch::RecordBatch;
use highwater_connectors::registry;
use highwater_dataflow::error::EngineError;
use highwater_planner::snapshots::SnapshotRows;
use highwater_protocol::files::{FileContent, FileVersions};
use highwater_sql::tables::SnapshotTable;
use tempfile::TempDir;

/// The lookup tables of one script.
#[derive(Default)]
pub struct Snapshots {
    /// The newest versions that were read.
    pub versions: FileVersions,
    /// Files named by the digest of their content; `None` before any table was read.
    folder: Option<TempDir>,
}

impl Snapshots {
    /// Reads the newest versions of `tables`.
    pub fn read(&mut self, tables: &[SnapshotTable]) -> Result<(), String> {
        for table in tables {
            let known = self.versions.get(&table.name).map(Vec::as_slice);
            let newest = block_on(registry::newest_snapshot(table, known)).map_err(|error| error.to_string())?;
            let Some(newest) = newest else { continue };
            let folder = self.folder.get_or_insert_with(|| tempfile::tempdir().unwrap());
            for (content, bytes) in newest.contents.iter().zip(newest.bytes) {
                std::fs::write(folder.path().join(content.digest.to_string()), bytes).unwrap();
            }
            self.versions.insert(table.name.clone(), newest.contents);
        }
        Ok(())
    }
}

impl SnapshotRows for Snapshots {
    type Error = EngineError;

    async fn rows(&self, table: &SnapshotTable, contents: &[FileContent]) -> Result<Vec<RecordBatch>, EngineError> {
        let copy = |content: &FileContent| {
            let path = self.folder.as_ref().map(|folder| folder.path().join(content.digest.to_string()));
            let path = path.filter(|path| path.exists());
            path.ok_or_else(|| EngineError::Internal(format!("no content {}", content.digest)))
        };
        let copies = contents.iter().map(copy).collect::<Result<Vec<_>, _>>()?;
        let rows = registry::snapshot_rows(table, &copies).await;
        rows.map_err(|error| EngineError::Internal(error.to_string()))
    }
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
