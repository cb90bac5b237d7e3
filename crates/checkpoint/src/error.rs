//! What can go wrong with a checkpoint, and what to do about it.
//!
//! Owns: the one error type of this crate. Every text names the file or key, the cause and the remedy.

use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{BatchId, Epoch, QueryId};
use highwater_protocol::offsets::SourcePartition;
use highwater_protocol::state_delta::DeltaError;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why the checkpoint store refused or failed.
#[derive(Debug, Error)]
pub enum CheckpointError {
    #[error("cannot {action} {path}: {source}; check free space, permissions and the disk")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{dir} has {free_bytes} bytes of free space left; free some, and the write is retried automatically")]
    Full { dir: PathBuf, free_bytes: u64 },
    #[error(
        "cannot make {path} durable: {source}; it is unknown how much of it is on the disk. Check the disk and \
         restart the driver; until then nothing more is written"
    )]
    Sync { path: PathBuf, source: std::io::Error },
    #[error("the checkpoint store refuses writes until the driver is restarted, because a write failed: {cause}")]
    Poisoned { cause: String },
    #[error("the head store failed to {action}: {message}; check free space and the disk, then restart the driver")]
    Head { action: &'static str, message: String },
    #[error(
        "the checkpoint folder {dir} is in use by {holder}; stop that driver, ask it over gRPC instead, or choose \
         another --data-dir"
    )]
    Locked { dir: PathBuf, holder: String },
    #[error("epoch {yours} is stale: a newer driver has claimed epoch {current}; this one must stop")]
    Fenced { yours: Epoch, current: Epoch },
    #[error(
        "batch {batch} would move the offset of {}-{} back from {from} to {to}; nothing was written",
        partition.tp.topic, partition.tp.partition
    )]
    Regress { batch: BatchId, partition: SourcePartition, from: i64, to: i64 },
    #[error("batch {got} cannot be prepared: the next one of query {query} is {expected}; nothing was written")]
    OutOfOrder { query: QueryId, expected: BatchId, got: BatchId },
    #[error("the checkpoint of query {query} was changed by another process meanwhile; nothing was written")]
    Conflict { query: QueryId },
    #[error("a query named `{name}` exists already; choose another name, or replace it")]
    AlreadyExists { name: String },
    #[error("there is no query {query} in the checkpoint store; it was dropped")]
    NoQuery { query: QueryId },
    #[error("batch {batch} of query {query} is not in the checkpoint store: it was never prepared, or compacted away")]
    NoBatch { query: QueryId, batch: BatchId },
    #[error(
        "the checkpoint is damaged: {file}: {reason}. Restore that file from a backup of the data folder; or drop the \
         query and submit it again with --new-output"
    )]
    Damaged { file: String, reason: String },
    #[error(
        "{file} has format version {found}; this binary reads version {supported}. Use the version of Highwater that \
         wrote it"
    )]
    UnknownVersion { file: String, found: u32, supported: u32 },
    #[error(
        "{dir} holds checkpoint files but its head store is empty or missing; restore {dir}/head from a backup, or \
         choose another --data-dir"
    )]
    HeadMissing { dir: PathBuf },
    #[error(
        "the checkpoint of query {query} went back: batch {marked} was prepared, but the head store {}. Its \
         newest writes were lost: the disk is damaged, or `head` was restored from an older copy. Restore the whole \
         data folder from one copy; or drop the query and submit it again with --new-output. If its sinks hold \
         nothing newer, removing {mark} lets it start, after it has compared them with the checkpoint",
        found.map_or("has no batch".to_string(), |batch| format!("ends at batch {batch}"))
    )]
    WentBack { query: QueryId, marked: BatchId, found: Option<BatchId>, mark: PathBuf },
    #[error(
        "the head store in {dir} went back: epoch {marked} was claimed, but it ends at epoch {found}. Its newest writes \
         were lost: the disk is damaged, or `head` was restored from an older copy. Restore the whole data folder \
         from one copy; or remove {mark} to continue with what it holds: each query that is behind is then refused \
         by itself"
    )]
    EpochWentBack { dir: PathBuf, marked: Epoch, found: Epoch, mark: PathBuf },
    #[error("cannot export to {0}: it is not empty; choose another folder")]
    NotEmpty(PathBuf),
    #[error("internal: cannot encode a checkpoint: {0}")]
    Encode(String),
}

impl CheckpointError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } | Self::Full { .. } => ErrorKind::Retry,
            Self::Fenced { .. } => ErrorKind::Fenced,
            Self::Locked { .. }
            | Self::AlreadyExists { .. }
            | Self::NoQuery { .. }
            | Self::NoBatch { .. }
            | Self::UnknownVersion { .. }
            | Self::HeadMissing { .. }
            | Self::WentBack { .. }
            | Self::EpochWentBack { .. }
            | Self::NotEmpty(_) => ErrorKind::Fix,
            // After a failed head write it is unknown which writes are durable, until a restart reads them back.
            Self::Head { .. }
            | Self::Sync { .. }
            | Self::Poisoned { .. }
            | Self::Regress { .. }
            | Self::OutOfOrder { .. }
            | Self::Conflict { .. }
            | Self::Damaged { .. }
            | Self::Encode(_) => ErrorKind::Fatal,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn sync(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Sync { path, source }
    }

    /// True if it is unknown after this error which writes are durable. A failed sync is never retried: the kernel may
    /// have dropped the pages it could not write, and a second sync would then succeed.
    pub(crate) fn poisons(&self) -> bool {
        matches!(self, Self::Sync { .. } | Self::Head { .. })
    }

    pub(crate) fn damaged(file: impl Into<String>, reason: impl ToString) -> Self {
        Self::Damaged { file: file.into(), reason: reason.to_string() }
    }

    pub(crate) fn delta(file: &str, error: DeltaError) -> Self {
        match error {
            DeltaError::UnknownVersion(found) => Self::UnknownVersion {
                file: format!("a state delta in {file}"),
                found: found.into(),
                supported: highwater_protocol::state_delta::VERSION.into(),
            },
            other => Self::damaged(file, other),
        }
    }
}
