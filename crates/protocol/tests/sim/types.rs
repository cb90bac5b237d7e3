//! Types of the simulation: messages, events, planted faults, counters.
//!
//! Owns: these types. Does not own: what happens when one is handled (`world`, `driver`, `executor`, `tasks`).

use highwater_protocol::ids::{AttemptId, BatchId, ExecutorId, ShardId, SinkId, TaskId};
use highwater_protocol::offsets::SourcePartition;
use highwater_protocol::plan::{BatchPlan, WriterPlan};
use highwater_protocol::prepare_record::PrepareRecord;
use highwater_protocol::query::Event;
use highwater_protocol::report::{TaskReport, WriterReport};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A record of the source topic: it adds `weight` to its key's count and `value` to its key's sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rec {
    pub key: u8,
    pub weight: i64,
    pub value: i64,
}

/// Count and sum of one key.
pub type Agg = (i64, i64);
/// Aggregates by key; keys that are all zero are absent.
pub type Answer = BTreeMap<u8, Agg>;

/// A row as a sink takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    /// The keyed sink: the row of this key; `None` is a tombstone.
    Keyed(u8, Option<Agg>),
    /// The appending sink: the record at this partition and offset.
    Append(i32, i64),
}

/// A deliberate mistake of the simulated environment, to see that the checks notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Publishing goes ahead before the prepare record is durable.
    CommitBeforePrepare,
    /// Brokers accept commits of producers that were fenced.
    NoWriterFencing,
    /// The head store accepts records of an old epoch.
    NoStoreFencing,
    /// A driver asks what writers hold before it fences them, not after.
    ProgressBeforeFencing,
    /// A driver publishes a repeated batch without checking whether its epoch is still the newest.
    NoEpochCheck,
    /// A batch that is executed again produces different rows.
    OtherRowsWhenRepeated,
    /// A checkpoint sometimes misses a task's state delta.
    LostStateDelta,
    /// A restarted driver begins one offset too low.
    OffsetRegress,
    /// A restarted driver takes a prepared batch for published.
    SkippedReplay,
    /// A changed key's tombstone comes after its upsert.
    TombstoneAfterUpsert,
    /// The overlay of an aborted attempt becomes state.
    WrongOverlay,
    /// The head store loses its newest records, of which a sink holds rows.
    HeadGoesBack,
    /// A restarted driver does not know which writers were in use.
    ForgottenWriters,
}

/// Driver to executor.
#[derive(Clone, Debug)]
pub enum Down {
    Open,
    Assign(Vec<(SourcePartition, i64, Option<i64>)>),
    Run(Box<RunTasks>),
    Abort(AttemptId),
    Publish(AttemptId, Vec<WriterPlan>),
    Committed(AttemptId),
}

#[derive(Clone, Debug)]
pub struct RunTasks {
    pub attempt: AttemptId,
    pub plan: Arc<BatchPlan>,
    pub placement: Arc<BTreeMap<TaskId, ExecutorId>>,
    pub base: Option<BatchId>,
    pub published: BTreeSet<WriterPlan>,
}

/// Executor to driver.
#[derive(Clone, Debug)]
pub enum Up {
    Available(Vec<(SourcePartition, i64, bool)>),
    TaskDone(AttemptId, Box<TaskReport>),
    /// The last field is the executor that could not be reached.
    TaskFailed(AttemptId, TaskId, String, Option<ExecutorId>),
    Published(AttemptId, WriterPlan, bool),
}

/// What a driver asks about writers.
#[derive(Clone, Debug)]
pub struct Question {
    pub number: u64,
    pub batch: Option<BatchId>,
    pub writers: Vec<WriterReport>,
    /// Also asks about writers that only the broker knows.
    pub whole: bool,
}

/// One task of one attempt in one life of an executor's worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskRef {
    pub executor: usize,
    pub life: u64,
    pub attempt: AttemptId,
    pub task: TaskId,
}

/// An event at some time.
#[derive(Clone, Debug)]
pub enum Ev {
    /// Records are appended to the source topic.
    Produce(i32, Vec<Rec>),
    /// The chaos schedule strikes.
    Chaos,
    /// Faults end and all hosts resume.
    Calm,

    /// `at` is when the bytes reach the host, which may read them later.
    ToDriver {
        link: usize,
        at: i64,
        msg: Up,
    },
    ToExecutor {
        link: usize,
        at: i64,
        msg: Down,
    },
    /// The driver's, the executor's end of a link sees that it is broken.
    DriverLost {
        link: usize,
    },
    ExecutorLost {
        link: usize,
    },
    LeaseLapsed {
        link: usize,
    },
    Registered {
        link: usize,
    },
    Join {
        executor: usize,
    },
    NewExecutor,

    DriverStart,
    /// The same driver process starts the stopped query again.
    RunStart {
        driver: usize,
    },
    Wake {
        driver: usize,
        run: u64,
    },
    Persist {
        driver: usize,
        run: u64,
        record: Arc<PrepareRecord>,
    },
    Reserve {
        driver: usize,
        run: u64,
        counts: BTreeMap<SinkId, u32>,
    },
    Fence {
        driver: usize,
        run: u64,
        question: Question,
    },
    FenceLate {
        writers: Vec<WriterReport>,
    },
    ReadProgress {
        driver: usize,
        run: u64,
        question: Question,
    },
    Tell {
        driver: usize,
        run: u64,
        event: Box<Event>,
    },

    Poll {
        executor: usize,
        life: u64,
    },
    Restored {
        executor: usize,
        life: u64,
        run: Box<RunTasks>,
        shards: BTreeSet<ShardId>,
    },
    SourceStep(TaskRef),
    Exchange {
        from: TaskRef,
        to: usize,
        task: TaskId,
        rows: Vec<Rec>,
    },
    Exchanged {
        task: TaskRef,
        ok: bool,
        /// The executor that could not be reached.
        unreachable: Option<usize>,
    },
    ShardStep(TaskRef),
    /// A writer of the task is to be opened, or to continue.
    WriteStep(TaskRef),
    BrokerInit {
        task: TaskRef,
        writer: WriterPlan,
    },
    InitDone {
        task: TaskRef,
        writer: WriterPlan,
        producer: Option<u64>,
    },
    BrokerFlush {
        task: TaskRef,
        writer: WriterPlan,
        producer: u64,
        batch: BatchId,
        rows: Vec<Row>,
    },
    FlushDone {
        task: TaskRef,
        writer: WriterPlan,
        txn: Option<usize>,
    },
    BrokerCommit {
        executor: usize,
        life: u64,
        attempt: AttemptId,
        writer: WriterPlan,
        txn: usize,
    },
    CommitDone {
        executor: usize,
        life: u64,
        attempt: AttemptId,
        writer: WriterPlan,
        known: bool,
    },
    BrokerAbort {
        txn: usize,
    },
}

/// How often each kind of thing happened.
#[derive(Clone, Debug, Default)]
pub struct Coverage(pub BTreeMap<&'static str, u64>);

impl Coverage {
    pub fn hit(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: &Coverage) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }
}
