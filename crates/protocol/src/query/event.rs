//! Events of the query machine: all that it learns from outside.

use crate::align::Mark;
use crate::error::ErrorKind;
use crate::files::FileVersions;
use crate::ids::{AttemptId, BatchId, ExecutorId, SinkId, SourceId, TaskId};
use crate::offsets::{LogEnds, SourcePartition};
use crate::plan::WriterPlan;
use crate::report::TaskReport;
use std::collections::BTreeMap;

/// A live executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorInfo {
    pub id: ExecutorId,
    /// HOST:PORT of its exchange service.
    pub address: String,
    pub slots: u32,
    /// Number of its connection. Another one for the same executor: it was away in between, and has dropped
    /// its attempts.
    pub session: u64,
}

/// What a writer is found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The batch asked about.
    Published,
    /// Not that batch; its transaction, if any, is aborted.
    NotPublished,
    /// A batch the checkpoint does not know of: a later one, or another one of the same number.
    Ahead { batch: BatchId },
}

/// One look at a source's topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLook {
    pub source: SourceId,
    /// Changes when the topic is deleted and created again; `None` if the brokers do not tell.
    pub id: Option<String>,
    /// Of all partitions, or empty where they are not known yet. They belong to the topic of this id.
    pub ends: BTreeMap<SourcePartition, LogEnds>,
}

/// A position that a consumer could not read on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    pub partition: SourcePartition,
    /// The consumer's position, perhaps far ahead of what is committed.
    pub position: i64,
    pub earliest: i64,
    pub latest: i64,
    /// From here on the log holds other records than those that were read before.
    pub diverged: Option<i64>,
}

/// What a writer that was told to publish knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    Published,
    /// Perhaps: the sink is asked.
    Unknown,
    /// Not all of it. `Fix` and `Fatal` stop the query: the sink would refuse the same rows again.
    Failed {
        kind: ErrorKind,
        message: String,
    },
}

/// One fact. Facts may come late, twice or out of order; stale ones change nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// The set of live executors, whole.
    Executors(Vec<ExecutorInfo>),
    /// How far an executor's consumers have read.
    Available {
        executor: ExecutorId,
        partitions: Vec<(SourcePartition, i64, bool)>,
        /// Watermark values of records that wait, those told before left out. Only wanted with `max_drift_ms`.
        marks: BTreeMap<SourcePartition, Vec<Mark>>,
    },
    /// What the brokers say of a source's topic.
    Topic(TopicLook),
    /// The newest version of the files that rows look up. Their content is durable.
    Files(FileVersions),
    /// Why those files cannot be read: the cause and the remedy.
    FilesUnreadable {
        message: String,
    },
    /// A consumer was told another id of its topic than the one its positions belong to. It reads nothing of it.
    TopicChanged {
        source: SourceId,
        found: String,
    },
    /// The brokers know no topic of this name.
    TopicMissing {
        source: SourceId,
        message: String,
    },
    /// All records of one task attempt are read, its output exchanged or flushed.
    TaskDone {
        attempt: AttemptId,
        executor: ExecutorId,
        report: Box<TaskReport>,
    },
    TaskFailed {
        attempt: AttemptId,
        task: TaskId,
        kind: ErrorKind,
        message: String,
        /// The executor that could not be reached, if that is why.
        unreachable: Option<ExecutorId>,
    },
    /// The tasks of an attempt that run on an executor, with the steps each has made. Without an attempt: the executor is
    /// still opening the query.
    Heartbeat {
        executor: ExecutorId,
        attempt: Option<AttemptId>,
        tasks: BTreeMap<TaskId, u64>,
    },
    /// An executor ends, or has ended, because it was told to: it did not die.
    Left {
        executor: ExecutorId,
    },
    /// The checkpoint of the batch is durable.
    Persisted {
        batch: BatchId,
    },
    PersistFailed {
        batch: BatchId,
        kind: ErrorKind,
        message: String,
    },
    /// The sinks' numbers of writers are durable.
    WritersReserved(BTreeMap<SinkId, u32>),
    ReserveFailed {
        kind: ErrorKind,
        message: String,
    },
    /// A writer that was told to publish has answered.
    Published {
        attempt: AttemptId,
        writer: WriterPlan,
        outcome: PublishOutcome,
    },
    /// What the writers asked about hold; all of them are fenced. `number` is the question's.
    Resolved {
        number: u64,
        found: BTreeMap<WriterPlan, Resolution>,
    },
    /// Fencing or reading progress failed for good.
    ResolveFailed {
        number: u64,
        kind: ErrorKind,
        message: String,
    },
    /// A consumer's position is outside the log, or in a log that was rewritten below it.
    OutOfRange(OutOfRange),
    /// Trouble that stops the query (`Fix`, `Fatal`), or that is shown until it is over (`Retry`).
    Trouble {
        executor: Option<ExecutorId>,
        kind: ErrorKind,
        message: String,
    },
    /// A user wants it stopped.
    Stop,
}
