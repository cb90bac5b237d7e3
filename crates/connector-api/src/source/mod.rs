//! Sources: the traits of connectors that can be read, and the parameters and results of readers.
//!
//! Owns: the traits, the types of their parameters and results, and rows for bad records. Does not own: which ranges
//! are read (plans), processing the rows (operators), any implementation.
//! Invariants: the traits have no defaults; reading a range returns all its records in order, or an error.

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
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// A connector whose tables can be read.
pub trait SourceConnector: Sync {
    /// Opens a monitor of the table's partitions. Only the monitor's calls contact the external system.
    fn monitor(&self, table: &SourceTable) -> Result<Box<dyn SourceMonitor>, ConnectorError>;

    /// Starts a reader; nothing is read before `assign`. An event is sent when something changes, and never repeated
    /// for the same problem.
    fn reader(
        &self,
        config: SourceReaderConfig,
        events: UnboundedSender<SourceEvent>,
    ) -> Result<Arc<dyn SourceReader>, ConnectorError>;
}

/// Asks the external system about a table: its identity, its partitions, their ends. All calls block.
pub trait SourceMonitor: Send {
    /// Returns the partition numbers, ascending. A missing topic is an error.
    fn partitions(&self) -> Result<Vec<i32>, ConnectorError>;

    /// Returns name and identity of the topic. Positions belong to the identity, which changes when the topic is
    /// recreated under its name. `None` if the identity is unknown.
    fn identity(&mut self) -> Result<Option<(String, String)>, ConnectorError>;

    /// Resolves the table's `starting_offsets` to a position for every partition.
    fn resolve_start(&mut self) -> Result<Positions, ConnectorError>;

    /// Resolves `ending` to an exclusive end for every partition.
    fn resolve_end(&mut self, ending: &EndingOffsets) -> Result<Positions, ConnectorError>;

    /// Returns the ends of every partition.
    fn ends(&mut self) -> Result<BTreeMap<SourcePartition, LogEnds>, ConnectorError>;

    /// Returns the identity only.
    fn look_at_identity(&mut self) -> Result<TopicLook, ConnectorError>;

    /// Returns the identity, and the ends of every partition if they can be read.
    fn look(&mut self) -> Result<TopicLook, ConnectorError>;

    /// Returns the timestamp of the first record at or after `offset` in milliseconds; `None` if there is no such
    /// record, or it cannot be read in short time.
    fn timestamp_at(&mut self, tp: &TopicPartition, offset: i64) -> Result<Option<i64>, ConnectorError>;
}

/// Reads the partitions of one table that are assigned to this process. Dropping it closes consumers and frees buffers.
#[async_trait]
pub trait SourceReader: Send + Sync {
    /// Binds the reader to an identity permanently: it reads no topic of the same name with another identity. Returns
    /// false if it is already bound to another one; then a new reader is needed. Must be called before `assign`.
    fn bind(&self, identity: Option<&str>) -> bool;

    /// Replaces the set of partitions that are read, and where each starts. A partition that was read before keeps its
    /// prefetched records if they include the start.
    fn assign(&self, partitions: &BTreeMap<TopicPartition, Place>);

    /// Returns the partitions whose availability has changed since the last call.
    fn availability(&self) -> Vec<(TopicPartition, PartitionAvailability)>;

    /// Waits until availability may have changed; returns at once if it has since the last call.
    async fn changed(&self);

    /// Reads `range` of an assigned partition. Released records are fetched again.
    fn read(&self, tp: &TopicPartition, range: OffsetRange) -> Box<dyn RangeRead>;

    /// Allows the reader to free records below `up_to`, which are committed.
    fn release(&self, tp: &TopicPartition, up_to: i64);
}

/// A range being read.
#[async_trait]
pub trait RangeRead: Send {
    /// Returns the next chunk with records, in offset order; `None` once the range is complete.
    async fn next(&mut self) -> Result<Option<Chunk>, ConnectorError>;
}

/// Default of `SourceReaderConfig::prefetch_bytes`.
pub const DEFAULT_PREFETCH_BYTES: usize = 64 << 20;

/// Parameters of a reader.
#[derive(Clone, Debug)]
pub struct SourceReaderConfig {
    /// Name of the query, for group id and logs.
    pub query: String,
    pub table: SourceTable,
    /// Number of consumer threads, at least 1; partitions are distributed over them.
    pub readers: usize,
    /// Bytes of undecoded and decoded records that a thread buffers before it stops polling. A range read that needs
    /// more exceeds this limit.
    pub prefetch_bytes: usize,
    /// Whether partitions are aligned by watermark (`max_watermark_drift`): watermark values are reported, and a
    /// partition with an empty buffer is read even if others have filled the memory.
    pub aligned: bool,
}

/// The position at which reading of a partition starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First offset to read.
    pub start: i64,
    /// Exclusive end of reading; `None` if there is none.
    pub limit: Option<i64>,
    /// The last record before `start`; `None` if unknown. A log that no longer holds this record is not read.
    pub last: Option<LastRecord>,
}

/// How far a partition has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionAvailability {
    /// Next offset to read, beyond transaction markers and compaction gaps.
    pub position: i64,
    /// Whether `position` was the end of the partition (the last stable offset under `read_committed`) when it was
    /// reached, or is the limit given to `assign`.
    pub at_end: bool,
    /// Memory of the partition's buffered records in bytes.
    pub buffered_bytes: usize,
    /// Watermark values of decoded records, without those reported before; empty unless `aligned`.
    pub marks: Vec<Mark>,
}

/// Consecutive decoded records of one partition.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The rows of good records, with the columns `SourceTable.columns_used` of the schema.
    pub batch: RecordBatch,
    /// Number of records, including bad ones.
    pub records: u64,
    /// Size of the records' payloads in bytes.
    pub size_bytes: u64,
    /// Order-independent checksum of offsets and payloads; the checksums of slices add up (wrapping).
    pub checksum: u64,
    /// Highest value of the watermark expression in milliseconds; `None` if there is none.
    pub max_watermark_ms: Option<i64>,
    /// Statistics of event times; `None` if the query does not read them.
    pub event_time: Option<EventTimes>,
    /// Newest Kafka timestamp in milliseconds.
    pub max_timestamp_ms: Option<i64>,
    /// The last record of the chunk; `None` if its leader epoch is unknown.
    pub last_record: Option<LastRecord>,
    /// The records that the rows were decoded from.
    pub origins: Arc<dyn Origins>,
    /// Bad records in offset order. Always empty under `on_bad_record = 'fail'`, where reading them fails.
    pub bad: Vec<BadRecord>,
    /// Columns of the table's schema that none of the records has a field for, nor others decoded with them; `None` if
    /// nothing is known of that.
    pub absent: Option<BTreeSet<u32>>,
}

/// The records that a chunk's rows were decoded from.
pub trait Origins: Debug + Send + Sync {
    /// Returns the record of row `row` of the chunk as a bad one. It has its key and payload if `on_bad_record` is
    /// `dead_letter` and the table has no PRIMARY KEY; without either it names the place alone.
    fn bad(&self, row: usize, reason: String) -> BadRecord;
}

/// A record that could not be decoded, or on which an expression failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    pub tp: TopicPartition,
    pub offset: i64,
    /// The reason, with the column or the expression if known.
    pub reason: String,
    pub key: Option<Bytes>,
    /// `None` for a tombstone.
    pub payload: Option<Bytes>,
    /// Kafka's timestamp in milliseconds.
    pub timestamp_ms: Option<i64>,
}

/// A change in the state of a source, for the driver and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// The position is outside the log. Reading the partition fails until it is assigned at another position.
    /// `diverged` is the offset from which on the log holds other records than were read before; `None` if there is
    /// none.
    OffsetOutOfRange { tp: TopicPartition, position: i64, earliest: i64, latest: i64, diverged: Option<i64> },
    /// The topic has another id than the reader is bound to. Nothing is read until partitions are assigned again.
    TopicChanged { found: String },
    /// Brokers cannot be reached; the reader keeps trying.
    Trouble { message: String },
    /// The last reported trouble is over.
    TroubleOver,
    /// The external system refuses reads (authorization, deleted topic); they fail with this message.
    Refused { message: String },
}
