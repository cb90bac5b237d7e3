//! The machine's state and its one entry, [`QueryMachine::step`].

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

/// How long a stop waits for the batch in flight before it is dropped (or, once prepared, left for the next
/// start to finish), milliseconds.
const STOP_GRACE_MS: i64 = 10_000;

/// What the machine needs to know of the query; fixed for a run.
#[derive(Clone, Debug)]
pub struct QueryConfig {
    pub query: QueryId,
    pub epoch: Epoch,
    /// No run of this query under this epoch has had an attempt of this number or above.
    pub first_attempt: u64,
    pub trigger: Trigger,
    pub shards: u16,
    pub sources: Vec<SourceSpec>,
    pub stages: Vec<StageTopology>,
    /// Some operator closes windows: an advance of a watermark is worth a batch of its own.
    pub windowed: bool,
    /// Windows over the time of batches whose rows come when they close, by the operators that keep them.
    pub clock_windows: Vec<(OperatorId, ClockWindow)>,
    /// How far a partition's watermark may be ahead of that of the slowest, milliseconds; `None`: any.
    pub max_drift_ms: Option<i64>,
    pub start_positions: Positions,
    /// Exclusive ends, for partitions that have one. Not empty = the query ends when all are reached.
    pub end_positions: Positions,
    /// Ids of the topics that the start positions belong to, where the brokers tell them.
    pub topic_ids: BTreeMap<SourceId, String>,
    /// Ids of the topics that the end positions belong to.
    pub end_topic_ids: BTreeMap<SourceId, String>,
    /// How many writers each sink may have had in use before this run.
    pub reserved_writers: BTreeMap<SinkId, u32>,
    /// An attempt that takes longer is dropped, and its batch planned smaller, milliseconds: transactions and calls
    /// between executors have an end that cannot be moved.
    pub max_attempt_ms: i64,
    /// Rows look up files: nothing is planned before their versions are known.
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
    /// The longest one's.
    pub size_ms: i64,
    pub begin_every_ms: i64,
    /// One ends every so often until the longest does.
    pub end_every_ms: i64,
    pub offset_ms: i64,
}

impl ClockWindow {
    /// The first end after `last_ms` of the windows that a time is in.
    pub fn next_end_ms(self, time_ms: i64, last_ms: i64) -> Option<i64> {
        let begin = time_ms - (time_ms - self.offset_ms).rem_euclid(self.begin_every_ms.max(1));
        let longest = begin + self.size_ms;
        let between = longest - last_ms - 1;
        (between >= 0).then(|| longest - between + between.rem_euclid(self.end_every_ms.max(1)))
    }
}

/// The driver's decisions about one query. See the module's invariants.
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
    /// The time of the last committed batch in which such windows may have got rows, milliseconds.
    pub(super) last_rows_ms: Option<i64>,
    pub(super) totals: Totals,
    pub(super) next_attempt: u64,
    /// Questions asked about writers.
    pub(super) questions: u64,
    pub(super) executors: BTreeMap<ExecutorId, ExecutorInfo>,
    pub(super) assignment: Assignment,
    /// The assignment no longer fits executors or partitions.
    pub(super) stale_assignment: bool,
    pub(super) available: BTreeMap<SourcePartition, Reach>,
    /// Watermark values of what waits, with `max_drift_ms`.
    pub(super) marks: BTreeMap<SourcePartition, Vec<Mark>>,
    /// When a source first had something to read since its last batch, milliseconds.
    pub(super) waiting_since: BTreeMap<SourceId, i64>,
    pub(super) limiters: BTreeMap<SourceId, RateLimiter>,
    pub(super) idle: BTreeMap<SourceId, IdleTracker>,
    pub(super) phase: Phase,
    /// Passing trouble by who sees it; `None` = the driver or a task.
    pub(super) troubles: BTreeMap<Option<ExecutorId>, String>,
    pub(super) not_before_ms: i64,
    /// Time of the last step.
    pub(super) advanced_at_ms: i64,
    pub(super) failures: u32,
    pub(super) stop_by_ms: Option<i64>,
    /// Writers of dropped attempts, with the executor that is told to abort them. Until a later attempt takes
    /// them over, no other process ends their transactions.
    pub(super) unaborted: BTreeMap<WriterPlan, ExecutorId>,
    /// Those whose executor is gone: to be fenced before anything else is planned.
    pub(super) orphans: BTreeSet<WriterPlan>,
    /// Positions found outside the log while a prepared batch was being finished.
    pub(super) deferred_out_of_range: Vec<OutOfRange>,
    /// Ids of the topics that positions belong to.
    pub(super) topic_ids: BTreeMap<SourceId, String>,
    /// Ids that a source's topic had before it was recreated.
    pub(super) former_ids: BTreeSet<(SourceId, String)>,
    /// Sources of which the brokers have not said that the topic is still the same; true: an executor doubts it.
    pub(super) unconfirmed: BTreeMap<SourceId, bool>,
    /// Topics that are gone: since when, milliseconds, and what to say of it.
    pub(super) missing: BTreeMap<SourceId, (i64, String)>,
    /// What the brokers last said of the logs.
    pub(super) log_ends: BTreeMap<SourcePartition, LogEnds>,
    /// Ends of recreated topics, in place of those of the spec.
    pub(super) new_ends: Positions,
    /// Partitions whose positions were reset since the last record.
    pub(super) reset: BTreeSet<SourcePartition>,
    /// This run has planned a batch.
    pub(super) planned: bool,
    /// Offsets were skipped or positions reset since the last record: that is recorded by a batch without tasks.
    pub(super) unrecorded: bool,
    /// The trigger `every`: the boundary last used, a time of batches.
    pub(super) last_boundary_ms: i64,
    /// How many writers each sink may have in use; durable.
    pub(super) reserved: BTreeMap<SinkId, u32>,
    /// Limits of batches after one took too long.
    pub(super) pace: Pace,
    /// The time of batches.
    pub(super) clock: BatchClock,
    /// The newest version of the files that rows look up; each batch keeps the one it was planned with.
    pub(super) files: Files,
    /// Executors that cannot reach one another.
    pub(super) cuts: Cuts,
    /// Executors that died under the query.
    pub(super) deaths: Deaths,
}

/// How far a partition's consumer has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    pub position: i64,
    pub at_end: bool,
}

/// Where the current batch stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// Writers are being fenced, and asked what they hold if `prepared` is set.
    /// `running` is the attempt that executors still hold overlays of.
    Resolving {
        /// Of the question that is to be answered.
        number: u64,
        prepared: Option<Prepared>,
        running: Option<Box<Publication>>,
    },
    /// Nothing is under way; `finish` is a prepared batch that has to be executed again.
    Ready {
        finish: Option<Prepared>,
    },
    /// The numbers of writers are being made durable; `again_at_ms` is set while that failed for now.
    Reserving {
        counts: BTreeMap<SinkId, u32>,
        again_at_ms: Option<i64>,
    },
    Executing(Execution),
    /// The record is being written; `again_at_ms` is set while that failed for now.
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
    /// Set when a prepared batch is executed again.
    pub finish: Option<Prepared>,
    pub timings: BatchTimings,
    pub lease: Lease,
}

#[derive(Clone, Debug)]
pub(super) struct Publication {
    pub prepared: Prepared,
    pub attempt: AttemptId,
    pub placement: Arc<BTreeMap<TaskId, ExecutorId>>,
    /// Writers told to publish that have not answered.
    pub pending: BTreeMap<WriterPlan, ExecutorId>,
    /// Writers whose outcome is unknown.
    pub unknown: BTreeSet<WriterPlan>,
    /// Why one of them could not publish, as it says.
    pub trouble: Option<String>,
    pub operators: Vec<OperatorMetrics>,
    pub stages: Vec<StageMetrics>,
    pub timings: BatchTimings,
    /// When they were told.
    pub asked_at_ms: i64,
}

impl QueryMachine {
    /// A machine for a run that begins with what the checkpoint holds. Its first action fences every writer an
    /// earlier run may have used, and asks what the sinks hold: nothing that this checkpoint does not know of, if
    /// it is the newest.
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
            // A run of this query that was stopped a moment ago, under the same epoch, may still have messages and
            // rows on their way: no attempt of ours has the number of one of its.
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
            machine.take_up(head);
        }
        machine.unconfirmed = machine.topic_ids.keys().map(|source| (*source, false)).collect();
        // Those added since the positions were recorded.
        for partition in machine.config.end_positions.keys() {
            machine.positions.entry(partition.clone()).or_insert(0);
        }
        let mut actions = Vec::new();
        machine.resolve_everything(head, &mut actions);
        (machine, actions)
    }

    /// Takes one fact at this moment and returns what to do, in order.
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

    /// Who reads and owns what.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// Counters over the query's life, as of the last committed batch.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Things to know that are over by themselves.
    pub fn notices(&self) -> Vec<String> {
        let named = |id: &ExecutorId| match self.executors.get(id) {
            Some(info) => format!("{id} ({})", info.address),
            None => id.to_string(),
        };
        let notice = |(out, other): (ExecutorId, ExecutorId)| {
            format!(
                "executor {} does no work for this query for now: it and executor {} cannot reach one another; look at \
                 the network between them, and at --advertise",
                named(&out),
                named(&other)
            )
        };
        self.cuts.out().map(notice).collect()
    }

    /// What it is doing.
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
