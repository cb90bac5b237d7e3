//! Actions of the query machine: all that it asks the driver to do.

use crate::files::FileVersions;
use crate::ids::{AttemptId, BatchId, ExecutorId, SinkId, SourceId, TaskId};
use crate::offsets::{LastRecords, SourcePartition};
use crate::plan::{BatchPlan, WriterPlan};
use crate::prepare_record::PrepareRecord;
use crate::query::End;
use crate::report::WriterReport;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One effect. The shell carries them out in order; each answers with an event where one is named.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Tell an executor to compile the query and get ready.
    Open { executor: ExecutorId },
    /// Tell an executor which partitions to read, from where, and where to end; and the ids of the topics those
    /// positions belong to: of a topic with another id nothing may be read. Nor may anything be read of a log that does
    /// not hold the last record before the position any more, where that is told.
    Assign {
        executor: ExecutorId,
        partitions: Vec<(SourcePartition, i64, Option<i64>)>,
        topic_ids: BTreeMap<SourceId, String>,
        last_records: LastRecords,
    },
    /// Look at the source's topic now, not at the next interval. Answers: `Topic` or `TopicMissing`.
    LookAtTopic { source: SourceId },
    /// Execute the plan's tasks where `placement` says. Answers: `TaskDone` or `TaskFailed` per task.
    Run {
        attempt: AttemptId,
        plan: Arc<BatchPlan>,
        placement: Arc<BTreeMap<TaskId, ExecutorId>>,
        /// State the tasks start from; `None` before the first batch.
        base: Option<BatchId>,
        /// Writers that hold this batch already: they compute and write nothing.
        published: BTreeSet<WriterPlan>,
    },
    /// Drop an attempt on these executors.
    Abort { attempt: AttemptId, batch: BatchId, executors: BTreeSet<ExecutorId> },
    /// Write the checkpoint durably. Answers: `Persisted` or `PersistFailed`.
    Persist { record: Arc<PrepareRecord> },
    /// Commit these writers' transactions. Answers: `Published` per writer.
    Publish { attempt: AttemptId, batch: BatchId, executor: ExecutorId, writers: Vec<WriterPlan> },
    /// Note durably how many writers each sink may have in use, before one of them is used for the first time: after
    /// a crash of everything nobody else knows whose transactions are open. Answers: `WritersReserved` or
    /// `ReserveFailed`.
    ReserveWriters { counts: BTreeMap<SinkId, u32> },
    /// No batch to come looks up versions of files from before these: of their content, only what prepared batches need is
    /// kept.
    ReleaseFiles { before: FileVersions },
    /// Fence these writers (initialise their transactional ids), then find out what they hold.
    /// `batch` is the prepared batch asked about; `None` when only fencing is wanted, or nothing is prepared. `whole`:
    /// every writer that a sink has progress of is fenced and told of, known or not. Answers: `Resolved` of the same
    /// number.
    Resolve { number: u64, batch: Option<BatchId>, writers: Vec<WriterReport>, whole: bool },
    /// The batch is committed: note it, tell the executors to promote, report progress.
    Committed(Box<CommittedBatch>),
    /// The run is over; executors are to forget the query. Nothing follows.
    Ended(End),
}

/// A committed batch with what is worth reporting of it.
#[derive(Clone, Debug, PartialEq)]
pub struct CommittedBatch {
    pub record: Arc<PrepareRecord>,
    /// The attempt whose overlays become state. It differs from the record's after a recovery.
    pub attempt: AttemptId,
    pub executors: BTreeSet<ExecutorId>,
    /// Who executed what, for the counts per executor.
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
