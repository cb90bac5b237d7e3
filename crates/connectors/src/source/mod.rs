//! Sources: what a reader of records is started with, and what it gives.
//!
//! Owns: the types a reader's user sees, and rows of bad records. Does not own: which ranges are read (plans), what is
//! done with the rows (engine), how a connector reads (its folder).

mod dead_letters;

pub use crate::kafka::source::{RangeRead, SourceReader};
pub use dead_letters::dead_letters;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use highwater_engine::query::SourceTable;
use highwater_protocol::align::Mark;
use highwater_protocol::offsets::{LastRecord, TopicPartition};
use highwater_protocol::report::EventTimes;

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
