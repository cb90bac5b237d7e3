//! The machine's state and its single entry point, [`QueryMachine::step`].

use super::cuts::Cuts;
use super::deaths::Deaths;
use super::file_state::Files;
use super::lease::Lease;
use super::pace::Pace;
use super::{Action, End, Event, ExecutorInfo, OutOfRange, RunState};
use crate::align::Mark;
use crate::assign::Assignment;
use crate::clock::{BatchClock, Now};
use crate::ids::{
    AttemptId, AttemptNumber, BatchId, Epoch, ExecutorId, OperatorId, QueryId, SinkId, SourceId, StageId, TaskId,
};
use crate::metrics::StageMetrics;
use crate::offsets::{LastRecords, LogEnds, Positions, SourcePartition};
use crate::options::{SourceSpec, Trigger};
use crate::plan::{BatchPlan, WriterPlan};
use crate::prepare_record::{PrepareRecord, SourceWatermark, Totals};
use crate::query::BatchTimings;
use crate::rate::RateLimiter;
use crate::report::{OperatorMetrics, TaskReport};
use crate::watermark::IdleTracker;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long a stop waits for the batch in flight, milliseconds. After that an unprepared batch is dropped, and a
/// prepared one is left for the next start to finish.
const STOP_GRACE_MS: i64 = 10_000;

/// What the machine must know about the query; fixed for a run.
#[derive(Clone, Debug)]
pub struct QueryConfig {
    pub query: QueryId,
    pub epoch: Epoch,
    /// Number of the first attempt of this run. No earlier run under this epoch has used this number or a higher one.
    pub first_attempt: u64,
    pub trigger: Trigger,
    pub shards: u16,
    pub sources: Vec<SourceSpec>,
    pub stages: Vec<StageTopology>,
    /// True if some operator closes windows by watermark, so that an advance of a watermark is worth a batch of its
    /// own.
    pub windowed: bool,
    /// Windows over the time of batches that emit rows when they close, each with the operator that keeps it.
    pub clock_windows: Vec<(OperatorId, ClockWindow)>,
    /// How far a partition's watermark may be ahead of the slowest one's, milliseconds; `None` means no limit.
    pub max_drift_ms: Option<i64>,
    pub start_positions: Positions,
    /// Exclusive ends, for partitions that have one. If not empty, the query finishes when all are reached.
    pub end_positions: Positions,
    /// Ids of the topics that the start positions belong to, where the brokers report them.
    pub topic_ids: BTreeMap<SourceId, String>,
    /// Ids of the topics that the end positions belong to.
    pub end_topic_ids: BTreeMap<SourceId, String>,
    /// How many writers each sink may have had in use before this run.
    pub reserved_writers: BTreeMap<SinkId, u32>,
    /// Limit of an attempt's duration, milliseconds. An attempt that exceeds it is dropped and its batch planned
    /// smaller, since transactions, and calls between executors, have a fixed timeout.
    pub max_attempt_ms: i64,
    /// True if rows look up files: then nothing is planned before the versions of these files are known.
    pub looks_up_files: bool,
}

/// A stage as planning sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageTopology {
    pub id: StageId,
    pub input: StageInput,
    pub sinks: Vec<SinkId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageInput {
    Source(SourceId),
    Shards,
}

/// Windows over the time of batches, milliseconds. All begin at `offset_ms` plus a multiple of `begin_every_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockWindow {
    /// Size of the longest window.
    pub size_ms: i64,
    pub begin_every_ms: i64,
    /// Interval between the ends of windows that begin together, up to the longest.
    pub end_every_ms: i64,
    pub offset_ms: i64,
}

impl ClockWindow {
    /// Returns the first end after `last_ms` of the windows that contain `time_ms`; `None` if all end before.
    pub fn next_end_ms(self, time_ms: i64, last_ms: i64) -> Option<i64> {
        let begin = time_ms - (time_ms - self.offset_ms).rem_euclid(self.begin_every_ms.max(1));
        let longest = begin + self.size_ms;
        let between = longest - last_ms - 1;
        (between >= 0).then(|| longest - between + between.rem_euclid(self.end_every_ms.max(1)))
    }
}

/// The driver's decisions about one query. The module docs list the invariants.
#[derive(Debug)]
pub struct QueryMachine {
    pub(super) config: QueryConfig,
    /// Positions after the last committed batch, with skips by `on_data_loss` applied.
    pub(super) positions: Positions,
    /// The last records before `positions`.
    pub(super) last_records: LastRecords,
    pub(super) watermarks: BTreeMap<SourceId, SourceWatermark>,
    /// `close_before` of the last committed batch.
    pub(super) closed: BTreeMap<SourceId, i64>,
    pub(super) committed: Option<Arc<PrepareRecord>>,
    /// The time of the last committed batch in which `clock_windows` may have got rows, milliseconds; `None` if
    /// unknown.
    pub(super) last_rows_ms: Option<i64>,
    pub(super) totals: Totals,
    pub(super) next_attempt: u64,
    /// Number of questions asked about writers; each question has a number, so that answers can be matched.
    pub(super) questions: u64,
    pub(super) executors: BTreeMap<ExecutorId, ExecutorInfo>,
    pub(super) assignment: Assignment,
    /// True if the assignment no longer fits the executors or partitions.
    pub(super) stale_assignment: bool,
    pub(super) available: BTreeMap<SourcePartition, Reach>,
    /// Watermark values of unread records; only filled with `max_drift_ms`.
    pub(super) marks: BTreeMap<SourcePartition, Vec<Mark>>,
    /// When a source first had something to read since its last batch, milliseconds.
    pub(super) waiting_since: BTreeMap<SourceId, i64>,
    pub(super) limiters: BTreeMap<SourceId, RateLimiter>,
    pub(super) idle: BTreeMap<SourceId, IdleTracker>,
    pub(super) phase: Phase,
    /// Temporary trouble, by the executor that reported it; `None` is the driver or a task.
    pub(super) troubles: BTreeMap<Option<ExecutorId>, String>,
    pub(super) not_before_ms: i64,
    /// Time of the last step.
    pub(super) advanced_at_ms: i64,
    pub(super) failures: u32,
    pub(super) stop_by_ms: Option<i64>,
    /// Writers of dropped attempts, each with the executor that was told to abort its transaction. Until a later
    /// attempt takes such a writer over, only that executor can end the transaction.
    pub(super) unaborted: BTreeMap<WriterPlan, ExecutorId>,
    /// Writers of dropped attempts whose executor is gone: they are fenced before anything else is planned.
    pub(super) orphans: BTreeSet<WriterPlan>,
    /// Positions found outside the log while a prepared batch was being finished.
    pub(super) deferred_out_of_range: Vec<OutOfRange>,
    /// Ids of the topics that the positions belong to.
    pub(super) topic_ids: BTreeMap<SourceId, String>,
    /// Ids that a source's topic had before it was recreated.
    pub(super) former_ids: BTreeSet<(SourceId, String)>,
    /// Sources whose topic the brokers have not confirmed to be the same; true if an executor has seen another id.
    pub(super) unconfirmed: BTreeMap<SourceId, bool>,
    /// Missing topics: since when, milliseconds, and the message for the user.
    pub(super) missing: BTreeMap<SourceId, (i64, String)>,
    /// What the brokers last reported about the logs.
    pub(super) log_ends: BTreeMap<SourcePartition, LogEnds>,
    /// Ends of recreated topics; they replace those of the spec.
    pub(super) new_ends: Positions,
    /// Partitions whose positions were reset since the last record.
    pub(super) reset: BTreeSet<SourcePartition>,
    /// True if this run has planned a batch.
    pub(super) planned: bool,
    /// True if offsets were skipped or positions reset since the last record; a batch without tasks then records that.
    pub(super) unrecorded: bool,
    /// For the trigger `every`: the boundary used last, in the time of batches.
    pub(super) last_boundary_ms: i64,
    /// How many writers each sink may have in use; stored durably.
    pub(super) reserved: BTreeMap<SinkId, u32>,
    /// Limits of batch sizes after an attempt took too long.
    pub(super) pace: Pace,
    /// The time of batches.
    pub(super) clock: BatchClock,
    /// The newest version of the files that rows look up; each batch keeps the version it was planned with.
    pub(super) files: Files,
    /// Pairs of executors that cannot reach one another.
    pub(super) cuts: Cuts,
    /// Executors that died while they ran this query.
    pub(super) deaths: Deaths,
}

/// How far a partition's consumer has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    pub position: i64,
    pub at_end: bool,
}

/// The state of the current batch.
#[derive(Debug)]
pub(super) enum Phase {
    /// Writers are being fenced and, if `prepared` is set, asked what they hold. `running` is the attempt whose
    /// overlays executors still hold.
    Resolving {
        /// Number of the open question.
        number: u64,
        prepared: Option<Prepared>,
        running: Option<Box<Publication>>,
    },
    /// Nothing is under way. `finish` is a prepared batch that must be executed again.
    Ready {
        finish: Option<Prepared>,
    },
    /// The numbers of writers are being made durable; `again_at_ms` is the time of the next try after a failure.
    Reserving {
        counts: BTreeMap<SinkId, u32>,
        again_at_ms: Option<i64>,
    },
    Executing(Execution),
    /// The record is being written; `again_at_ms` is the time of the next try after a failure.
    Preparing {
        record: Arc<PrepareRecord>,
        execution: Execution,
        again_at_ms: Option<i64>,
    },
    Publishing(Publication),
    Ended(End),
}

/// A batch that is durable and not known to be committed.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub record: Arc<PrepareRecord>,
    pub published: BTreeSet<WriterPlan>,
}

#[derive(Clone, Debug)]
pub(super) struct Execution {
    pub attempt: AttemptId,
    pub plan: Arc<BatchPlan>,
    pub placement: Arc<BTreeMap<TaskId, ExecutorId>>,
    pub reports: BTreeMap<TaskId, TaskReport>,
    /// The prepared batch that this execution repeats; `None` for a new batch.
    pub finish: Option<Prepared>,
    pub timings: BatchTimings,
    pub lease: Lease,
}

#[derive(Clone, Debug)]
pub(super) struct Publication {
    pub prepared: Prepared,
    pub attempt: AttemptId,
    pub placement: Arc<BTreeMap<TaskId, ExecutorId>>,
    /// Writers told to publish that have not answered yet, each with its executor.
    pub pending: BTreeMap<WriterPlan, ExecutorId>,
    /// Writers whose outcome is unknown.
    pub unknown: BTreeSet<WriterPlan>,
    /// Why a writer could not publish, in its own words.
    pub trouble: Option<String>,
    pub operators: Vec<OperatorMetrics>,
    pub stages: Vec<StageMetrics>,
    pub timings: BatchTimings,
    /// When the writers were told to publish.
    pub asked_at_ms: i64,
}

impl QueryMachine {
    /// Creates the machine of a run that begins with the checkpoint's newest record, `head`. Its first action fences
    /// every writer that an earlier run may have used, and asks what the sinks hold: if `head` is really the newest
    /// record, nothing that it does not know.
    pub fn recover(config: QueryConfig, head: Option<PrepareRecord>, now: impl Into<Now>) -> (Self, Vec<Action>) {
        let now = now.into();
        let now_ms = now.ms;
        let clock = BatchClock::new(now, head.as_ref().map(|head| head.plan.timestamp_ms));
        let limiters = config
            .sources
            .iter()
            .filter_map(|source| Some((source.id, RateLimiter::new(source.options.max_records_per_second?, now_ms))))
            .collect();
        let idle =
            config.sources.iter().map(|source| (source.id, IdleTracker::new(source.options.idle_timeout_ms))).collect();
        let mut machine = Self {
            positions: config.start_positions.clone(),
            last_records: LastRecords::new(),
            watermarks: BTreeMap::new(),
            closed: BTreeMap::new(),
            committed: None,
            last_rows_ms: None,
            totals: Totals::default(),
            // An earlier run of this query under the same epoch may still have messages and rows in flight: no attempt
            // of this run may have the number of one of its attempts.
            next_attempt: config.first_attempt,
            questions: 0,
            executors: BTreeMap::new(),
            assignment: Assignment::default(),
            stale_assignment: true,
            available: BTreeMap::new(),
            marks: BTreeMap::new(),
            waiting_since: BTreeMap::new(),
            limiters,
            idle,
            phase: Phase::Ready { finish: None },
            troubles: BTreeMap::new(),
            not_before_ms: 0,
            advanced_at_ms: now_ms,
            failures: 0,
            stop_by_ms: None,
            unaborted: BTreeMap::new(),
            orphans: BTreeSet::new(),
            deferred_out_of_range: Vec::new(),
            topic_ids: config.topic_ids.clone(),
            former_ids: BTreeSet::new(),
            unconfirmed: BTreeMap::new(),
            missing: BTreeMap::new(),
            log_ends: BTreeMap::new(),
            new_ends: Positions::new(),
            reset: BTreeSet::new(),
            planned: false,
            unrecorded: false,
            last_boundary_ms: clock.now_ms(),
            clock,
            files: Files::new(config.looks_up_files),
            cuts: Cuts::default(),
            deaths: Deaths::default(),
            reserved: config.reserved_writers.clone(),
            pace: Pace::default(),
            config,
        };
        if let Some(head) = &head {
            machine.restore_positions(head);
        }
        machine.unconfirmed = machine.topic_ids.keys().map(|source| (*source, false)).collect();
        // Partitions added since the positions were recorded.
        for partition in machine.config.end_positions.keys() {
            machine.positions.entry(partition.clone()).or_insert(0);
        }
        let mut actions = Vec::new();
        machine.resolve_everything(head, &mut actions);
        (machine, actions)
    }

    /// Takes one event at this time and returns what to do, in order.
    pub fn step(&mut self, event: Event, now: impl Into<Now>) -> Vec<Action> {
        let now = now.into();
        let now_ms = now.ms;
        self.clock.advance(now);
        let mut out = Vec::new();
        if matches!(self.phase, Phase::Ended(_)) {
            return out;
        }
        match event {
            Event::Tick => {}
            Event::Executors(executors) => self.on_executors(executors, now_ms, &mut out),
            Event::Available { executor, partitions, marks } => {
                self.on_available(executor, partitions, marks, now_ms);
            }
            Event::Topic(look) => self.on_topic(look, now_ms, &mut out),
            Event::Files(versions) => self.on_files(versions, &mut out),
            Event::FilesUnreadable { message } => self.files.unreadable(message),
            Event::TopicChanged { source, found } => self.on_topic_changed(source, &found, &mut out),
            Event::TopicMissing { source, message } => self.on_topic_missing(source, message, now_ms, &mut out),
            Event::TaskDone { attempt, executor, report } => {
                self.on_task_done(attempt, executor, *report, now_ms, &mut out);
            }
            Event::TaskFailed { attempt, task, kind, message, unreachable } => {
                if let Some(peer) = unreachable {
                    self.on_unreachable(attempt, task, peer, now_ms);
                }
                self.on_task_failed(attempt, task, kind, message, now_ms, &mut out);
            }
            Event::WritersReserved(counts) => self.on_reserved(counts),
            Event::ReserveFailed { kind, message } => self.on_reserve_failed(kind, message, now_ms, &mut out),
            Event::Heartbeat { executor, attempt, tasks } => self.on_heartbeat(executor, attempt, tasks, now_ms),
            Event::Left { executor } => self.deaths.leaves(executor, self.executors.contains_key(&executor)),
            Event::Persisted { batch } => self.on_persisted(batch, now_ms, &mut out),
            Event::PersistFailed { batch, kind, message } => {
                self.on_persist_failed(batch, kind, message, now_ms, &mut out);
            }
            Event::Published { attempt, writer, outcome } => {
                self.on_published(attempt, writer, outcome, now_ms, &mut out);
            }
            Event::Resolved { number, found } => self.on_resolved(number, found, now_ms, &mut out),
            Event::ResolveFailed { number, kind, message } => self.on_resolve_failed(number, kind, message, &mut out),
            Event::OutOfRange(found) => self.on_out_of_range(found, &mut out),
            Event::Trouble { executor, kind, message } => self.on_trouble(executor, kind, message, &mut out),
            Event::Stop => self.stop_by_ms = self.stop_by_ms.or(Some(now_ms + STOP_GRACE_MS)),
        }
        self.advance(now_ms, &mut out);
        out
    }

    /// Last committed batch.
    pub fn last_committed(&self) -> Option<BatchId> {
        self.committed.as_ref().map(|record| record.batch())
    }

    /// Positions after the last committed batch.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Which executor reads which partitions and owns which shards.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// Counters over the query's life, as of the last committed batch.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Warnings that go away by themselves.
    pub fn notices(&self) -> Vec<String> {
        let named = |id: &ExecutorId| match self.executors.get(id) {
            Some(info) => format!("{id} ({})", info.address),
            None => id.to_string(),
        };
        let notice = |(out, other): (ExecutorId, ExecutorId)| {
            format!(
                "executor {} gets no tasks of this query for now: it and executor {} cannot reach one another; check \
                 the network between them, and at --advertise",
                named(&out),
                named(&other)
            )
        };
        self.cuts.out().map(notice).collect()
    }

    /// What the run is doing.
    pub fn state(&self) -> RunState {
        if let Phase::Ended(end) = &self.phase {
            return RunState::Ended(end.clone());
        }
        if self.executors.is_empty() {
            return RunState::Waiting("no executor is connected; start one with `highwater executor`".into());
        }
        if let Some(quarantined) = self.deaths.waiting(self.advanced_at_ms) {
            return RunState::Waiting(quarantined);
        }
        if let Some(trouble) = self.troubles.values().chain(self.missing.values().map(|(_, message)| message)).next() {
            return RunState::Waiting(trouble.clone());
        }
        if let Files::Awaited(Some(reason)) = &self.files {
            return RunState::Waiting(reason.clone());
        }
        match self.phase {
            Phase::Resolving { .. } => RunState::Starting,
            Phase::Ready { .. } if self.files.known().is_none() => RunState::Starting,
            Phase::Ready { .. } if self.unconfirmed.values().any(|doubted| !doubted) => RunState::Starting,
            _ => RunState::Running,
        }
    }

    pub(super) fn new_attempt(&mut self) -> AttemptId {
        let number = AttemptNumber(self.next_attempt);
        self.next_attempt += 1;
        AttemptId { epoch: self.config.epoch, number }
    }

    pub(super) fn source(&self, id: SourceId) -> Option<&SourceSpec> {
        self.config.sources.iter().find(|source| source.id == id)
    }
}
