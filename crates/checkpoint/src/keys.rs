//! Every persisted name: the keys of the head store and the paths of blobs. No other module formats them.
//!
//! Owns: their text forms. Invariant: keys of one kind sort by batch, so that a scan is in batch order.

use highwater_protocol::files::ContentDigest;
use highwater_protocol::ids::{AttemptId, BatchId, Epoch, QueryId};
use std::fmt;

/// A key of the head store. Values are small, versioned and checksummed (`values`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeadKey {
    /// `format` → layout version of the whole store, decimal. Written first; its absence means a new store.
    Format,
    /// `epoch` → highest epoch ever claimed, decimal.
    Epoch,
    /// `name/NAME` → id of the query that has the name.
    Name(String),
    /// `query/ID/spec` → [`SpecEntry`](crate::values::SpecEntry): where the query's spec is.
    Spec(QueryId),
    /// `query/ID/latest` → newest prepared batch, decimal. Changes in the transaction that adds its batch key.
    Latest(QueryId),
    /// `query/ID/committed` → newest batch known to be committed, decimal. May lag behind: recovery asks the sinks.
    Committed(QueryId),
    /// `query/ID/writers` → how many writers each sink may have in use.
    Writers(QueryId),
    /// `query/ID/batch/N` → [`BatchEntry`](crate::values::BatchEntry): where record and deltas of batch N are.
    Batch(QueryId, BatchId),
    /// `query/ID/snapshot/N` → [`SnapshotEntry`](crate::values::SnapshotEntry): the whole state after batch N. At most
    /// one.
    Snapshot(QueryId, BatchId),
    /// `query/ID/files/N` → digests of the files that rows of batch N look up. Only where there are any.
    Files(QueryId, BatchId),
}

impl fmt::Display for HeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => f.write_str("format"),
            Self::Epoch => f.write_str("epoch"),
            Self::Name(name) => write!(f, "name/{name}"),
            Self::Spec(query) => write!(f, "query/{query}/spec"),
            Self::Latest(query) => write!(f, "query/{query}/latest"),
            Self::Committed(query) => write!(f, "query/{query}/committed"),
            Self::Writers(query) => write!(f, "query/{query}/writers"),
            Self::Batch(query, batch) => write!(f, "query/{query}/batch/{:020}", batch.0),
            Self::Snapshot(query, batch) => write!(f, "query/{query}/snapshot/{:020}", batch.0),
            Self::Files(query, batch) => write!(f, "query/{query}/files/{:020}", batch.0),
        }
    }
}

impl HeadKey {
    /// Parses a key; `None` if this version does not know it.
    pub fn parse(key: &str) -> Option<Self> {
        let parts: Vec<&str> = key.splitn(4, '/').collect();
        let query = |text: &str| text.parse::<QueryId>().ok();
        let batch = |text: &str| text.parse().ok().map(BatchId);
        match parts.as_slice() {
            ["format"] => Some(Self::Format),
            ["epoch"] => Some(Self::Epoch),
            ["name", ..] => Some(Self::Name(key["name/".len()..].to_string())),
            ["query", id, "spec"] => Some(Self::Spec(query(id)?)),
            ["query", id, "latest"] => Some(Self::Latest(query(id)?)),
            ["query", id, "committed"] => Some(Self::Committed(query(id)?)),
            ["query", id, "writers"] => Some(Self::Writers(query(id)?)),
            ["query", id, "batch", n] => Some(Self::Batch(query(id)?, batch(n)?)),
            ["query", id, "snapshot", n] => Some(Self::Snapshot(query(id)?, batch(n)?)),
            ["query", id, "files", n] => Some(Self::Files(query(id)?, batch(n)?)),
            _ => None,
        }
    }

    /// Prefix of every query's keys.
    pub const QUERIES: &'static str = "query/";

    /// Prefix of all keys of one query.
    pub fn of_query(query: QueryId) -> String {
        format!("query/{query}/")
    }

    /// Prefix of the batch keys of one query.
    pub fn batches_of(query: QueryId) -> String {
        format!("query/{query}/batch/")
    }

    /// Prefix of the keys that list the looked-up files of one query's batches.
    pub fn files_of(query: QueryId) -> String {
        format!("query/{query}/files/")
    }

    /// Prefix of the snapshot keys of one query.
    pub fn snapshots_of(query: QueryId) -> String {
        format!("query/{query}/snapshot/")
    }
}

/// A blob. A name is never used twice for different contents, since it contains the writer's epoch and attempt, or a
/// digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobName {
    /// `queries/ID/batch-N-EPOCH.ATTEMPT`: record and state deltas of one batch.
    Batch(QueryId, BatchId, AttemptId),
    /// `queries/ID/snapshot-N-EPOCH-PART`: state after batch N of one range of shards.
    SnapshotPart(QueryId, BatchId, Epoch, u32),
    /// `queries/ID/spec-EPOCH.VERSION`: a spec too large for the head store.
    Spec(QueryId, Epoch, u64),
    /// `queries/ID/file-DIGEST`: content of a file that rows look up. The same name always means the same bytes.
    File(QueryId, ContentDigest),
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(query, batch, attempt) => write!(f, "queries/{query}/batch-{:020}-{attempt}", batch.0),
            Self::SnapshotPart(query, batch, epoch, part) => {
                write!(f, "queries/{query}/snapshot-{:020}-{epoch}-{part:05}", batch.0)
            }
            Self::Spec(query, epoch, version) => write!(f, "queries/{query}/spec-{epoch}.{version}"),
            Self::File(query, digest) => write!(f, "queries/{query}/file-{digest}"),
        }
    }
}

impl BlobName {
    /// Prefix of all blobs.
    pub const ALL: &'static str = "queries/";

    /// The query that a blob belongs to; `None` if the name has none.
    pub fn query_of(name: &str) -> Option<QueryId> {
        name.strip_prefix(Self::ALL)?.split('/').next()?.parse().ok()
    }

    /// Prefix of the content of one query's files.
    pub fn files_of(query: QueryId) -> String {
        format!("queries/{query}/file-")
    }

    /// Prefix of all blobs of one query.
    pub fn of_query(query: QueryId) -> String {
        format!("queries/{query}/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn every_key_reads_back_and_batches_sort() {
        let id = QueryId(Uuid::from_u128(7));
        let keys = [
            HeadKey::Format,
            HeadKey::Epoch,
            HeadKey::Name("a/b".into()),
            HeadKey::Spec(id),
            HeadKey::Latest(id),
            HeadKey::Committed(id),
            HeadKey::Writers(id),
            HeadKey::Batch(id, BatchId(9)),
            HeadKey::Snapshot(id, BatchId(u64::MAX)),
            HeadKey::Files(id, BatchId(3)),
        ];
        for key in keys {
            assert_eq!(HeadKey::parse(&key.to_string()), Some(key));
        }
        assert_eq!(HeadKey::parse("something/else"), None);
        assert!(HeadKey::Batch(id, BatchId(9)).to_string() < HeadKey::Batch(id, BatchId(10)).to_string());
    }
}
