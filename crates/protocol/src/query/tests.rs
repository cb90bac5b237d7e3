//! Tests of the query machine: given a machine in some state, when it is told an event, then it returns these actions.
//!
//! Owns: the machine under test, and short names for events. The cases are in the modules below: a batch's life, what
//! can go wrong in it, and when batches are planned.

mod align;
mod clock;
mod cluster;
mod failure;
mod files;
mod last_records;
mod life;
mod loss;
mod recovery;
mod schedule;
mod topics;

use super::{
    Action, End, Event, ExecutorInfo, OutOfRange, PublishOutcome, QueryConfig, QueryMachine, Resolution, StageInput,
    StageTopology, TopicLook,
};
use crate::clock::Now;
use crate::ids::{
    AttemptId, BatchId, Epoch, ExecutorId, OperatorId, QueryId, SinkId, SourceId, StageId, TaskId, WriterId,
};
use crate::offsets::{LogEnds, OffsetRange, SourcePartition, TopicPartition};
use crate::options::{SourceOptions, SourceSpec, Trigger};
use crate::plan::{BatchPlan, TaskPlan, TaskWork, WriterPlan};
use crate::prepare_record::PrepareRecord;
use crate::report::{PartitionReport, StateDelta, TaskReport, WriterReport};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

fn e(number: u128) -> ExecutorId {
    ExecutorId(Uuid::from_u128(number))
}

fn p(number: i32) -> SourcePartition {
    SourcePartition { source: SourceId(0), tp: TopicPartition::new("t", number) }
}

fn w(number: u32) -> WriterPlan {
    WriterPlan { sink: SinkId(0), writer: WriterId(number) }
}

/// Live executors, each in the session of this number.
fn executors(list: &[(u128, u64)]) -> Event {
    let info = |(id, session): &(u128, u64)| ExecutorInfo {
        id: e(*id),
        address: format!("host-{id}:1"),
        slots: 1,
        session: *session,
    };
    Event::Executors(list.iter().map(info).collect())
}

fn available(executor: u128, partitions: &[(i32, i64)]) -> Event {
    let partitions = partitions.iter().map(|(number, position)| (p(*number), *position, true)).collect();
    Event::Available { executor: e(executor), partitions, marks: BTreeMap::new() }
}

/// The brokers' answer about the topic: its id (empty: not reported), and per partition its earliest offset and log
/// end.
fn topic(id: &str, partitions: &[(i32, i64, i64)]) -> Event {
    let ends = |(number, earliest, latest): &(i32, i64, i64)| {
        (p(*number), LogEnds { earliest: *earliest, latest: *latest, log_end: *latest })
    };
    let id = (!id.is_empty()).then(|| id.to_string());
    Event::Topic(TopicLook { source: SourceId(0), id, ends: partitions.iter().map(ends).collect() })
}

/// The consumer of partition 0 was at `position`, but the log goes from `earliest` to `latest`.
fn out_of_range(position: i64, earliest: i64, latest: i64, diverged: Option<i64>) -> Event {
    Event::OutOfRange(OutOfRange { partition: p(0), position, earliest, latest, diverged })
}

fn assign(executor: u128, partitions: Vec<(SourcePartition, i64, Option<i64>)>) -> Action {
    Action::Assign { executor: e(executor), partitions, topic_ids: BTreeMap::new(), last_records: BTreeMap::new() }
}

/// A query that counts: a source stage over two partitions, and a shard stage of four shards that writes one sink.
fn config() -> QueryConfig {
    QueryConfig {
        query: QueryId(Uuid::nil()),
        epoch: Epoch(3),
        first_attempt: 1,
        trigger: Trigger::Asap,
        shards: 4,
        sources: vec![SourceSpec {
            id: SourceId(0),
            table: "t".into(),
            topic: "t".into(),
            options: SourceOptions::default(),
            has_watermark: false,
        }],
        stages: vec![
            StageTopology { id: StageId(0), input: StageInput::Source(SourceId(0)), sinks: vec![] },
            StageTopology { id: StageId(1), input: StageInput::Shards, sinks: vec![SinkId(0)] },
        ],
        windowed: false,
        clock_windows: Vec::new(),
        max_drift_ms: None,
        start_positions: [(p(0), 0), (p(1), 0)].into(),
        end_positions: BTreeMap::new(),
        topic_ids: BTreeMap::new(),
        end_topic_ids: BTreeMap::new(),
        reserved_writers: [(SinkId(0), 2)].into(),
        // Longer than any lease.
        max_attempt_ms: 10_000_000,
        looks_up_files: false,
    }
}

fn with_options(options: SourceOptions) -> QueryConfig {
    let mut config = config();
    config.sources[0].options = options;
    config
}

/// A machine, its time, the attempt it runs, and the number of its last question about writers.
struct Query {
    machine: QueryMachine,
    now_ms: i64,
    running: Option<Run>,
    asked: u64,
    /// How far the wall clock is ahead.
    skew_ms: i64,
}

#[derive(Clone)]
struct Run {
    attempt: AttemptId,
    plan: Arc<BatchPlan>,
    placement: Arc<BTreeMap<TaskId, ExecutorId>>,
    base: Option<BatchId>,
    published: BTreeSet<WriterPlan>,
}

impl Query {
    /// A query that never ran.
    fn new(config: QueryConfig) -> Self {
        let (mut machine, actions) = QueryMachine::recover(config, None, 0);
        assert_eq!(names(&actions), ["resolve"], "nobody may have written for this query yet");
        assert_eq!(machine.step(Event::Resolved { number: 1, found: BTreeMap::new() }, 0), vec![]);
        Self { machine, now_ms: 0, running: None, asked: 1, skew_ms: 0 }
    }

    /// A run that begins with this record; every writer of it is found in state `found`.
    fn restarted(config: QueryConfig, record: &PrepareRecord, now_ms: i64, found: Resolution) -> Self {
        let (machine, _) = QueryMachine::recover(config, Some(record.clone()), now_ms);
        let mut query = Self { machine, now_ms, running: None, asked: 1, skew_ms: 0 };
        query.resolved(record.writers.iter().map(|writer| (writer.plan, found)));
        query
    }

    /// Two executors are there, and one has read three records of its partition: the first batch runs.
    fn executing() -> Self {
        let mut query = Self::new(config());
        query.tell(executors(&[(1, 1), (2, 2)]));
        // Both in one go would be one batch as well; the second report finds the first batch running.
        query.now_ms = 1_000;
        query.tell(available(1, &[(0, 3)]));
        query
    }

    /// As `executing`, with all tasks done and the record about to be written.
    fn preparing() -> (Self, Arc<PrepareRecord>) {
        let mut query = Self::executing();
        let actions = query.finish_tasks();
        let record = actions.iter().find_map(|action| match action {
            Action::Persist { record } => Some(record.clone()),
            _ => None,
        });
        (query, record.expect("the checkpoint is to be written"))
    }

    /// As `preparing`, with the record durable and the writers told to publish.
    fn publishing() -> (Self, Arc<PrepareRecord>) {
        let (mut query, record) = Self::preparing();
        query.tell(Event::Persisted { batch: record.batch() });
        (query, record)
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        self.now_ms += 1;
        let now = Now { ms: self.now_ms, wall_ms: self.now_ms + self.skew_ms };
        let actions = self.machine.step(event, now);
        for action in &actions {
            if let Action::Resolve { number, .. } = action {
                self.asked = *number;
            }
            if let Action::Run { attempt, plan, placement, base, published } = action {
                self.running = Some(Run {
                    attempt: *attempt,
                    plan: plan.clone(),
                    placement: placement.clone(),
                    base: *base,
                    published: published.clone(),
                });
            }
        }
        actions
    }

    /// Answers the last question about writers.
    fn resolved(&mut self, found: impl IntoIterator<Item = (WriterPlan, Resolution)>) -> Vec<Action> {
        self.tell(Event::Resolved { number: self.asked, found: found.into_iter().collect() })
    }

    fn tick_at(&mut self, now_ms: i64) -> Vec<Action> {
        self.now_ms = now_ms - 1;
        self.tell(Event::Tick)
    }

    fn run(&self) -> Run {
        self.running.clone().expect("an attempt runs")
    }

    /// Reports every task of the running attempt as done. Returns the actions of the last report.
    fn finish_tasks(&mut self) -> Vec<Action> {
        self.finish_tasks_with(report)
    }

    fn finish_tasks_with(&mut self, report: impl Fn(&TaskPlan) -> TaskReport) -> Vec<Action> {
        let run = self.run();
        let mut actions = Vec::new();
        for task in &run.plan.tasks {
            assert_eq!(actions, vec![], "nothing happens before the last task is done");
            let (attempt, executor) = (run.attempt, run.placement[&task.id]);
            actions = self.tell(Event::TaskDone { attempt, executor, report: Box::new(report(task)) });
        }
        actions
    }

    /// Reports every writer as published. Returns the actions of the last answer.
    fn publish_all(&mut self) -> Vec<Action> {
        let run = self.run();
        let mut actions = Vec::new();
        for writer in run.plan.writers().filter(|writer| !run.published.contains(writer)) {
            actions = self.published(writer, true);
        }
        actions
    }

    fn published(&mut self, writer: WriterPlan, known: bool) -> Vec<Action> {
        let outcome = if known { PublishOutcome::Published } else { PublishOutcome::Unknown };
        self.tell(Event::Published { attempt: self.run().attempt, writer, outcome })
    }

    /// Takes the running batch through to its commit. Returns the actions of the last step.
    fn complete(&mut self) -> Vec<Action> {
        let batch = self.run().plan.batch;
        self.finish_tasks();
        self.tell(Event::Persisted { batch });
        self.publish_all()
    }
}

/// The report of a task: each record counted, two rows per writer, one changed key.
fn report(task: &TaskPlan) -> TaskReport {
    let mut report = TaskReport { task: task.id, ..TaskReport::default() };
    match &task.work {
        TaskWork::Source { ranges, .. } => {
            let read = |range: &OffsetRange| PartitionReport {
                records: range.len() as u64,
                checksum: 7,
                ..PartitionReport::default()
            };
            report.partitions = ranges.iter().map(|(partition, range)| (partition.clone(), read(range))).collect();
        }
        TaskWork::Shards { first, end } => report.state.push(StateDelta {
            operator: OperatorId(0),
            first_shard: *first,
            end_shard: *end,
            keys: 1,
            digest: 11,
            bytes: vec![1],
        }),
    }
    report.writers = task.writers.iter().map(|plan| writer_report(*plan, 2)).collect();
    report
}

fn writer_report(plan: WriterPlan, rows: u64) -> WriterReport {
    WriterReport { plan, rows, digest: u128::from(rows) * 13, token: None }
}

/// The report of a writer about which nothing is known.
fn unwritten(number: u32) -> WriterReport {
    WriterReport { digest: 0, ..writer_report(w(number), 0) }
}

/// The names of actions, in order.
fn names(actions: &[Action]) -> Vec<&'static str> {
    actions
        .iter()
        .map(|action| match action {
            Action::Open { .. } => "open",
            Action::Assign { .. } => "assign",
            Action::LookAtTopic { .. } => "look",
            Action::Run { .. } => "run",
            Action::Abort { .. } => "abort",
            Action::Persist { .. } => "persist",
            Action::Publish { .. } => "publish",
            Action::ReserveWriters { .. } => "reserve",
            Action::ReleaseFiles { .. } => "release",
            Action::Resolve { .. } => "resolve",
            Action::Committed(_) => "committed",
            Action::Ended(_) => "ended",
        })
        .collect()
}

/// How the run ended, according to the last action.
fn end(actions: &[Action]) -> &End {
    match actions.last() {
        Some(Action::Ended(end)) => end,
        other => panic!("not an end: {other:?}"),
    }
}

fn failure(actions: &[Action]) -> &str {
    match end(actions) {
        End::Failed(message) => message,
        other => panic!("not a failure: {other:?}"),
    }
}

/// The batch whose commit is among the actions.
fn committed(actions: &[Action]) -> &super::CommittedBatch {
    let found = actions.iter().find_map(|action| match action {
        Action::Committed(batch) => Some(batch.as_ref()),
        _ => None,
    });
    found.expect("a commit")
}
