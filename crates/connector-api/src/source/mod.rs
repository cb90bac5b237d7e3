//! Sources: what a connector that is read does, what a reader of records is started with, and what it gives.
//!
//! Owns: the traits, the types a reader's user sees, and rows of bad records. Does not own: which ranges are read (plans),
//! what is done with the rows (operators), how a connector reads (its folder).
//! Invariants: the traits have no defaults; a range is delivered whole and in order, or an error is.

mod dead_letters;

pub use dead_letters::dead_letters;

use crate::error::ConnectorError;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use highwater_protocol::align::Mark;
use highwater_protocol::offsets::{LastRecord, LogEnds, OffsetRange, Positions, SourcePartition, TopicPartition};
use highwater_protocol::options::EndingOffsets;
use highwater_protocol::query::TopicLook;
use highwater_protocol::report::EventTimes;
use highwater_sql::tables::SourceTable;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// A connector that is read.
pub trait SourceConnector: Sync {
    /// Makes what looks at the table's partitions. The far side is asked by its calls, not here.
    fn monitor(&self, table: &SourceTable) -> Result<Box<dyn SourceMonitor>, ConnectorError>;

    /// Starts a reader; nothing is read before `assign`. Events come when something changes, never repeatedly for the same
    /// trouble.
    fn reader(
        &self,
        config: SourceReaderConfig,
        events: UnboundedSender<SourceEvent>,
    ) -> Result<Arc<dyn SourceReader>, ConnectorError>;
}

/// Looks at what a table is read from: what it is, its partitions, their ends. All calls block.
pub trait SourceMonitor: Send {
    /// Partition numbers, ascending. What does not exist is an error that says so.
    fn partitions(&self) -> Result<Vec<i32>, ConnectorError>;

    /// Name and identity of what is read. Positions belong to the identity: it changes when what is read is made anew under
    /// its name. `None`: it cannot be told.
    fn identity(&mut self) -> Result<Option<(String, String)>, ConnectorError>;

    /// Where the table's `starting_offsets` begin: a position for every partition.
    fn resolve_start(&mut self) -> Result<Positions, ConnectorError>;

    /// Where `ending` ends: an exclusive end for every partition.
    fn resolve_end(&mut self, ending: &EndingOffsets) -> Result<Positions, ConnectorError>;

    /// Both ends of every partition.
    fn ends(&mut self) -> Result<BTreeMap<SourcePartition, LogEnds>, ConnectorError>;

    /// The identity alone.
    fn look_at_identity(&mut self) -> Result<TopicLook, ConnectorError>;

    /// The identity, and both ends of every partition; where those cannot be had, the identity alone.
    fn look(&mut self) -> Result<TopicLook, ConnectorError>;

    /// When the first record at or after `offset` was written, milliseconds; `None` if there is none or it does not come
    /// soon.
    fn timestamp_at(&mut self, tp: &TopicPartition, offset: i64) -> Result<Option<i64>, ConnectorError>;
}

/// Reads the partitions of one table that are assigned to this process. What it holds ends with it.
#[async_trait]
pub trait SourceReader: Send + Sync {
    /// Binds the reader to this identity, for good: of another one of the same name it reads nothing. False: it is bound to
    /// another already, and a new reader is needed. To be called before `assign`.
    fn bind(&self, identity: Option<&str>) -> bool;

    /// Makes these the partitions read, and where. Those that go on keep what is prefetched, if it serves their start.
    fn assign(&self, partitions: &BTreeMap<TopicPartition, Place>);

    /// Partitions whose availability changed since the last call.
    fn availability(&self) -> Vec<(TopicPartition, PartitionAvailability)>;

    /// Resolves when availability may have changed; at once if it did since the last call.
    async fn changed(&self);

    /// Reads `range` of an assigned partition. What was released is fetched again.
    fn read(&self, tp: &TopicPartition, range: OffsetRange) -> Box<dyn RangeRead>;

    /// Records below `up_to` are committed and may be forgotten.
    fn release(&self, tp: &TopicPartition, up_to: i64);
}

/// A range being read.
#[async_trait]
pub trait RangeRead: Send {
    /// The next chunk with records, in offset order; `None` when the range is complete.
    async fn next(&mut self) -> Result<Option<Chunk>, ConnectorError>;
}

/// Memory a reader thread may hold by default, in bytes.
pub const DEFAULT_PREFETCH_BYTES: usize = 64 << 20;

/// What a reader is started with.
#[derive(Clone, Debug)]
pub struct SourceReaderConfig {
    /// Name of the query, for group id and logs.
    pub query: String,
    pub table: SourceTable,
    /// Consumer threads; partitions are spread over them. At least 1.
    pub readers: usize,
    /// Undecoded and decoded records one thread holds before it stops polling. A read that needs
    /// more goes beyond it.
    pub prefetch_bytes: usize,
    /// Partitions are read side by side by their watermarks: those are told, and a partition with much that waits does not
    /// keep the others from being read on.
    pub aligned: bool,
}

/// Where a partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First offset wanted.
    pub start: i64,
    /// Exclusive end, where it has one.
    pub limit: Option<i64>,
    /// The last record that was read before `start`: nothing is read of a log that does not hold it any more.
    pub last: Option<LastRecord>,
}

/// How far the consumer of a partition is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionAvailability {
    /// Next offset to be read, past transaction markers and compaction gaps.
    pub position: i64,
    /// `position` was the end of the partition (the last stable offset under `read_committed`),
    /// or the end given to `assign`, when it was reached.
    pub at_end: bool,
    /// Memory held for the partition.
    pub buffered_bytes: usize,
    /// Watermark values of what is decoded, those told before left out; empty unless `aligned`.
    pub marks: Vec<Mark>,
}

/// Consecutive decoded records of one partition.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The rows that decoded; columns are `SourceTable.columns_used` of its schema.
    pub batch: RecordBatch,
    /// Records, bad ones included.
    pub records: u64,
    /// Payload bytes of those records.
    pub size_bytes: u64,
    /// Order-independent checksum of (offset, payload); checksums of slices add up (wrapping).
    pub checksum: u64,
    /// Highest value of the watermark expression, milliseconds.
    pub max_watermark_ms: Option<i64>,
    /// Event times of those records, where the query reads them.
    pub event_time: Option<EventTimes>,
    /// Newest Kafka timestamp, milliseconds.
    pub max_timestamp_ms: Option<i64>,
    /// The last of those records, where its leader epoch is known.
    pub last_record: Option<LastRecord>,
    /// Records that did not decode, by offset. Empty under `on_bad_record = 'fail'`: reading them fails.
    pub bad: Vec<BadRecord>,
    /// Columns of the table's schema that none of the records has a field for, nor others decoded with them; `None` if
    /// nothing is known of that.
    pub absent: Option<BTreeSet<u32>>,
}

/// A record that did not decode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    pub tp: TopicPartition,
    pub offset: i64,
    /// What is wrong, with the column if known.
    pub reason: String,
    pub key: Option<Bytes>,
    /// `None` for a tombstone.
    pub payload: Option<Bytes>,
    /// Kafka's timestamp, milliseconds.
    pub timestamp_ms: Option<i64>,
}

/// Something people should know about a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// The position is outside the log. Reading the partition fails until it is assigned elsewhere.
    /// `diverged`: from here on the log holds other records than those that were read.
    OffsetOutOfRange { tp: TopicPartition, position: i64, earliest: i64, latest: i64, diverged: Option<i64> },
    /// The topic has another id than the one that was asked for. Nothing of it is read until it is assigned again.
    TopicChanged { found: String },
    /// Brokers cannot be reached; the reader keeps trying.
    Trouble { message: String },
    /// Data flows again.
    TroubleOver,
    /// Kafka refuses (authorization, deleted topic): reads fail with this message.
    Refused { message: String },
}
