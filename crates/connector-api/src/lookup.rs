//! The traits of lookup tables.
//!
//! Owns: the kinds of lookup, and a trait for each. Does not own: when a table is read and where its content is kept
//! (driver, checkpoint), which version a batch looks up (its plan), finding the matches of a row (operators), how a
//! connector reads a table (its folder).
//! Invariants: no method has a default; a version has the same rows in the same order, wherever and whenever it is read.

use crate::error::ConnectorError;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use highwater_protocol::files::FileContent;
use highwater_sql::tables::SnapshotTable;
use std::path::PathBuf;

/// The kind of a connector's lookups. Its declaration has the same kind for the planner
/// ([`LookupKind`](highwater_connector_spec::LookupKind)).
pub enum Lookup<'a> {
    /// The driver reads a table whole and keeps its content, plans name the version by digests of the content, and
    /// executors load its rows into memory. So a repeated batch looks up the same rows.
    Snapshot(&'a dyn Snapshot),
}

/// A connector whose lookup tables are read whole.
#[async_trait]
pub trait Snapshot: Sync {
    /// Reads the newest version of a table, on the driver. Returns `None` if it is the `known` one. The rows of a version
    /// that is returned have been decoded once, so that executors do not fail on them.
    ///
    /// # Errors
    /// If the table cannot be read, does not fit its declaration, or has more than [`MAX_SNAPSHOT_BYTES`]. The message
    /// names the table, the cause and the remedy.
    async fn newest_version(
        &self,
        table: &SnapshotTable,
        known: Option<&[FileContent]>,
    ) -> Result<Option<SnapshotVersion>, ConnectorError>;

    /// Returns the rows of a version, on an executor. `contents` are local files with the version's contents, in order.
    ///
    /// # Errors
    /// If the content does not fit the table's declaration.
    async fn rows(&self, table: &SnapshotTable, contents: &[PathBuf]) -> Result<Vec<RecordBatch>, ConnectorError>;
}

/// Greatest size of a version, in bytes. Every executor holds its rows in memory.
pub const MAX_SNAPSHOT_BYTES: u64 = 1 << 30;

/// A version of a lookup table, with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotVersion {
    /// Identity of the version: equal contents in equal order are the same version. Empty if the table is empty.
    pub contents: Vec<FileContent>,
    /// Bytes of each of `contents`.
    pub bytes: Vec<Vec<u8>>,
}
