//! Actions of the query machine: everything it asks the driver to do.

use crate::files::FileVersions;
use crate::ids::{AttemptId, BatchId, ExecutorId, SinkId, SourceId, TaskId};
use crate::offsets::{LastRecords, SourcePartition};
use crate::plan::{BatchPlan, WriterPlan};
use crate::prepare_record::PrepareRecord;
use crate::query::End;
use crate::report::WriterReport;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One action. The driver carries actions out in order; the docs of each name the event that answers it, if any.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Tell an executor to compile the query and get ready.
    Open { executor: ExecutorId },
    /// Tell an executor which partitions to read, from which position, and up to which end (`None`: no end). Nothing
    /// may be read from a topic whose id is not the one in `topic_ids`, nor from a log that no longer holds the last
    /// record before the position, if `last_records` has one.
    Assign {
        executor: ExecutorId,
        partitions: Vec<(SourcePartition, i64, Option<i64>)>,
        topic_ids: BTreeMap<SourceId, String>,
        last_records: LastRecords,
    },
    /// Ask the brokers about the source's topic now, not at the next interval. Answers: `Topic` or `TopicMissing`.
    LookAtTopic { source: SourceId },
    /// Execute the plan's tasks where `placement` says. Answers: `TaskDone` or `TaskFailed` per task.
    Run {
        attempt: AttemptId,
        plan: Arc<BatchPlan>,
        placement: Arc<BTreeMap<TaskId, ExecutorId>>,
        /// State the tasks start from; `None` before the first batch.
        base: Option<BatchId>,
        /// Writers that hold this batch already: their tasks compute but do not write.
        published: BTreeSet<WriterPlan>,
    },
    /// Drop an attempt on these executors.
    Abort { attempt: AttemptId, batch: BatchId, executors: BTreeSet<ExecutorId>, discard: bool },
    /// Write the checkpoint durably. Answers: `Persisted` or `PersistFailed`.
    Persist { record: Arc<PrepareRecord> },
    /// Commit these writers' transactions. Answers: `Published` per writer.
    Publish { attempt: AttemptId, batch: BatchId, executor: ExecutorId, writers: Vec<WriterPlan> },
    /// Record durably how many writers each sink may have in use, before one of them is used for the first time: after
    /// a crash of all processes nothing else knows whose transactions are open. Answers: `WritersReserved` or
    /// `ReserveFailed`.
    ReserveWriters { counts: BTreeMap<SinkId, u32> },
    /// No later batch looks up versions of files older than these. Of their content, only what prepared batches need
    /// must be kept.
    ReleaseFiles { before: FileVersions },
    /// Fence these writers (initialise their transactional ids), then find out what they hold. `batch` is the prepared
    /// batch asked about; `None` if writers are only to be fenced, or nothing is prepared. If `whole`, every writer
    /// that a sink has progress of is fenced and reported, whether listed here or not. Answers: `Resolved` with the
    /// same `number`.
    Resolve { number: u64, batch: Option<BatchId>, writers: Vec<WriterReport>, whole: bool },
    /// The batch is committed: record that, tell the executors to promote their overlays, report progress.
    Committed(Box<CommittedBatch>),
    /// The run is over: executors must drop the query. No action follows.
    Ended(End),
}

/// A committed batch and what is reported about it.
#[derive(Clone, Debug, PartialEq)]
pub struct CommittedBatch {
    pub record: Arc<PrepareRecord>,
    /// The attempt whose overlays become state. It differs from the record's after a recovery.
    pub attempt: AttemptId,
    pub executors: BTreeSet<ExecutorId>,
    /// Which executor ran each task, for the counts per executor.
    pub placement: Arc<BTreeMap<TaskId, ExecutorId>>,
    pub timings: BatchTimings,
    /// State of each stateful operator in each task. Empty for a batch adopted from an earlier run.
    pub operators: Vec<crate::report::OperatorMetrics>,
    /// What the tasks of each stage did. Empty for a batch adopted from an earlier run.
    pub stages: Vec<crate::metrics::StageMetrics>,
    /// Positions before the batch.
    pub previous: crate::offsets::Positions,
}

/// Milliseconds spent per phase of one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTimings {
    pub planned_at_ms: i64,
    pub executed_at_ms: i64,
    pub prepared_at_ms: i64,
    pub committed_at_ms: i64,
}
