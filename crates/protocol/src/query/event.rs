//! Events of the query machine: everything it learns from outside.

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
    /// Number of its connection. If it changes, the executor was away in between and has dropped its attempts.
    pub session: u64,
}

/// What a writer was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The batch asked about.
    Published,
    /// Not that batch; its transaction, if any, is aborted.
    NotPublished,
    /// A batch that the checkpoint does not know: a later one, or a different one of the same number.
    Ahead { batch: BatchId },
}

/// The brokers' answer about a source's topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLook {
    pub source: SourceId,
    /// Changes when the topic is deleted and created again; `None` if the brokers do not report it.
    pub id: Option<String>,
    /// Log ends of all partitions of the topic with this id; empty if they are not known yet.
    pub ends: BTreeMap<SourcePartition, LogEnds>,
}

/// A position at which a consumer could not continue reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    pub partition: SourcePartition,
    /// The consumer's position, which may be far ahead of the committed one.
    pub position: i64,
    pub earliest: i64,
    pub latest: i64,
    /// Offset from which on the log holds different records than were read before; `None` if there is none.
    pub diverged: Option<i64>,
}

/// The answer of a writer that was told to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    Published,
    /// The commit may or may not have happened: the sink is asked.
    Unknown,
    /// Not everything was published. `Fix` and `Fatal` stop the query: the sink would refuse the same rows again.
    Failed {
        kind: ErrorKind,
        message: String,
    },
}

/// One event. Events may arrive late, twice or out of order; stale ones have no effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// The complete set of live executors.
    Executors(Vec<ExecutorInfo>),
    /// How far an executor's consumers have read: partition, position, and whether that is the end of the log.
    Available {
        executor: ExecutorId,
        partitions: Vec<(SourcePartition, i64, bool)>,
        /// Watermark values of unread records, without those reported before. Only needed with `max_drift_ms`.
        marks: BTreeMap<SourcePartition, Vec<Mark>>,
    },
    /// What the brokers report about a source's topic.
    Topic(TopicLook),
    /// The newest version of the files that rows look up. Their content is durable.
    Files(FileVersions),
    /// The files cannot be read. The message names the cause and the remedy.
    FilesUnreadable {
        message: String,
    },
    /// A consumer was told a topic id other than the one its positions belong to. It reads nothing from that topic.
    TopicChanged {
        source: SourceId,
        found: String,
    },
    /// The brokers know no topic of this name.
    TopicMissing {
        source: SourceId,
        message: String,
    },
    /// A task attempt has read all its records, and its output is exchanged or flushed.
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
        /// The executor that could not be reached; `None` if the failure has another cause.
        unreachable: Option<ExecutorId>,
    },
    /// The tasks of an attempt that run on an executor, each with the number of steps it has made. `attempt` is `None`
    /// while the executor is still opening the query.
    Heartbeat {
        executor: ExecutorId,
        attempt: Option<AttemptId>,
        tasks: BTreeMap<TaskId, u64>,
    },
    /// An executor ends, or has ended, because it was told to: this is not a death.
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
    /// The numbers of writers per sink are durable.
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
    /// What the writers asked about hold; all of them are fenced. `number` is that of the question.
    Resolved {
        number: u64,
        found: BTreeMap<WriterPlan, Resolution>,
    },
    /// Fencing, or reading progress, failed permanently.
    ResolveFailed {
        number: u64,
        kind: ErrorKind,
        message: String,
    },
    /// A consumer's position is outside the log, or in a log that was rewritten below it.
    OutOfRange(OutOfRange),
    /// Trouble that stops the query (`Fix`, `Fatal`), or is shown until it is over (`Retry`).
    Trouble {
        executor: Option<ExecutorId>,
        kind: ErrorKind,
        message: String,
    },
    /// A user asked to stop the query.
    Stop,
}
