//! Lookups: how rows look things up in a connector's tables.
//!
//! Owns: the kinds of lookups, and what a connector does for each. Does not own: when a table is read and where its content
//! is kept (driver, checkpoint), which version a batch looks up (its plan), finding a row's matches (operators), how a
//! connector does it (its folder).
//! Invariants: the trait has no defaults; a version gives the same rows in the same order, wherever and whenever it is read.

use crate::error::ConnectorError;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use highwater_protocol::files::FileContent;
use highwater_sql::tables::SnapshotTable;
use std::path::PathBuf;

/// How rows look things up. The declaration of the connector names the same kind
/// ([`LookupKind`](highwater_connector_spec::LookupKind)), from which the planner decides what operator looks up.
pub enum Lookup<'a> {
    /// In a version of the whole table. The driver reads it and keeps its content, plans name it by the content's digests,
    /// and executors load its rows into memory. So a repeated batch looks up what it looked up before.
    Snapshot(&'a dyn Snapshot),
}

/// A connector whose tables are read whole.
#[async_trait]
pub trait Snapshot: Sync {
    /// Reads the table's newest version, on the driver. Returns `None` if it is `known`. Otherwise its rows have been read
    /// once, so that executors will not fail on content that is not what the table declares.
    ///
    /// # Errors
    /// The table cannot be read, is not what it declares, or has more than [`MAX_SNAPSHOT_BYTES`]; the message names the
    /// table, the cause and the remedy.
    async fn newest_version(
        &self,
        table: &SnapshotTable,
        known: Option<&[FileContent]>,
    ) -> Result<Option<SnapshotVersion>, ConnectorError>;

    /// Reads the rows of a version, on an executor. `contents`: files of this machine with the version's contents, in their
    /// order.
    ///
    /// # Errors
    /// The content is not what the table declares.
    async fn rows(&self, table: &SnapshotTable, contents: &[PathBuf]) -> Result<Vec<RecordBatch>, ConnectorError>;
}

/// Most bytes that a version may have: every executor holds its rows in memory.
pub const MAX_SNAPSHOT_BYTES: u64 = 1 << 30;

/// A version of a table, with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotVersion {
    /// Identifies the version: the same contents in the same order are the same version. Empty if the table is.
    pub contents: Vec<FileContent>,
    /// The bytes of each.
    pub bytes: Vec<Vec<u8>>,
}
