//! A driver and executors in one thread, for tables whose records replace one another and for what joins their versions.
//!
//! Owns: batches from steps, checkpoints, dropped and repeated attempts; what every batch read, and which watermark it
//! met. Does not own: what the answer should be (`answer`).

use super::records::{Record, batch_of};
use crate::harness::fold::Sink;
use highwater_core::ids::{AttemptId, AttemptNumber, BatchId, EdgeId, Epoch, ShardId, SourceId, TaskId};
use highwater_core::offsets::{OffsetRange, Ranges, SourcePartition, TopicPartition};
use highwater_core::plan::{BatchPlan, TaskPlan, TaskWork};
use highwater_core::record::SourceWatermark;
use highwater_core::report::StateDelta;
use highwater_core::watermark;
use highwater_engine::CompiledQuery;
use highwater_engine::dataflow::StageInput;
use highwater_engine::delta::DeltaBatch;
use highwater_engine::error::EngineError;
use highwater_engine::runtime::{BatchContext, Emit, TaskRuntime};
use highwater_engine::state::QueryState;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

pub const PARTITIONS: i32 = 3;
pub const DELAY_MS: i64 = 3_000;
const SHARDS: u16 = 8;

/// One micro-batch.
#[derive(Clone, Debug)]
pub struct Step {
    takes: Vec<usize>,
    executors: u16,
    chunk: usize,
    /// An attempt over fewer records is dropped first.
    dropped: bool,
    /// All executors are new, with nothing but the checkpoint.
    restarted: bool,
    /// The plan runs twice, the second time by one executor, and must give the same.
    repeated: bool,
}

pub fn step() -> impl Strategy<Value = Step> {
    let takes = prop::collection::vec(0usize..6, 2 * PARTITIONS as usize);
    let often = || prop::bool::weighted(0.25);
    (takes, 1u16..4, 1usize..5, often(), often(), often()).prop_map(
        |(takes, executors, chunk, dropped, restarted, repeated)| Step {
            takes,
            executors,
            chunk,
            dropped,
            restarted,
            repeated,
        },
    )
}

impl Step {
    pub fn of(take: usize) -> Self {
        let takes = vec![take; 2 * PARTITIONS as usize];
        Self { takes, executors: 2, chunk: 3, dropped: false, restarted: false, repeated: false }
    }
}

/// What a batch read, in order, and the watermarks its rows met.
pub struct Commit {
    pub records: Vec<usize>,
    pub late_before: Option<i64>,
}

pub struct Cluster<'a> {
    pub compiled: CompiledQuery,
    pub sink: Sink,
    records: &'a [Record],
    logs: BTreeMap<SourcePartition, Vec<usize>>,
    positions: BTreeMap<SourcePartition, i64>,
    watermarks: BTreeMap<SourceId, SourceWatermark>,
    closed: BTreeMap<SourceId, i64>,
    checkpoint: Vec<Vec<u8>>,
    executors: Vec<QueryState>,
    batch: u64,
    attempts: u64,
    pub late_rows: u64,
    /// Of all operators, after the last batch.
    pub state_rows: u64,
}

struct Done {
    attempt: AttemptId,
    written: Vec<DeltaBatch>,
    deltas: Vec<StateDelta>,
    late_rows: u64,
    state_rows: u64,
}

impl<'a> Cluster<'a> {
    /// Records of the tables with these names, by their number.
    pub fn new(script: &str, names: [&str; 2], records: &'a [Record]) -> Result<Self, String> {
        let compiled = highwater_engine::compile(script).map_err(|error| format!("{error}\n{script}"))?;
        let mut logs: BTreeMap<SourcePartition, Vec<usize>> = BTreeMap::new();
        for source in &compiled.sources {
            for partition in 0..PARTITIONS {
                let tp = TopicPartition::new(source.name.clone(), partition);
                let mine = records
                    .iter()
                    .enumerate()
                    .filter(|(_, record)| names[record.table] == source.name && record.partition() == partition);
                logs.insert(SourcePartition { source: source.id, tp }, mine.map(|(id, _)| id).collect());
            }
        }
        Ok(Self {
            sink: Sink::new(&compiled.sinks[0]),
            positions: logs.keys().map(|partition| (partition.clone(), 0)).collect(),
            compiled,
            records,
            logs,
            watermarks: BTreeMap::new(),
            closed: BTreeMap::new(),
            checkpoint: Vec::new(),
            executors: Vec::new(),
            batch: 0,
            attempts: 0,
            late_rows: 0,
            state_rows: 0,
        })
    }

    /// What is before this is final.
    pub fn closed_ms(&self) -> Option<i64> {
        self.least(&self.closed)
    }

    fn least(&self, marks: &BTreeMap<SourceId, i64>) -> Option<i64> {
        self.compiled.sources.iter().map(|source| marks.get(&source.id).copied()).min().flatten()
    }

    pub fn commit(&mut self, step: &Step) -> Result<Commit, String> {
        if step.restarted || self.executors.len() != usize::from(step.executors) {
            self.restart(step.executors)?;
        }
        if step.dropped {
            let plan = self.plan(step, true);
            let dropped = self.run(&plan, step.chunk, step.executors)?;
            self.executors.iter().for_each(|state| state.discard(dropped.attempt));
        }
        let plan = self.plan(step, false);
        let mut done = self.run(&plan, step.chunk, step.executors)?;
        if step.repeated {
            self.restart(1)?;
            let again = self.run(&plan, step.chunk, 1)?;
            if texts(&done.written) != texts(&again.written) || digests(&done.deltas) != digests(&again.deltas) {
                return Err("the same plan gave other rows or state when it ran again".into());
            }
            done = again;
        }
        for state in &self.executors {
            state.promote(done.attempt).map_err(text)?;
        }
        self.checkpoint.extend(done.deltas.into_iter().map(|delta| delta.bytes));
        self.late_rows += done.late_rows;
        self.state_rows = done.state_rows;
        self.sink.commit(&done.written)?;
        Ok(self.note(&plan))
    }

    fn restart(&mut self, executors: u16) -> Result<(), String> {
        self.executors.clear();
        for place in 0..executors {
            let state = QueryState::new(&self.compiled.dataflow);
            state.load(shards_of(place, executors), &self.checkpoint).map_err(text)?;
            self.executors.push(state);
        }
        Ok(())
    }

    fn plan(&self, step: &Step, fewer: bool) -> BatchPlan {
        let mut ranges = Ranges::new();
        for ((partition, log), take) in self.logs.iter().zip(&step.takes) {
            let start = self.positions[partition];
            let take = if fewer { *take / 2 } else { *take };
            let end = (start as usize).saturating_add(take).min(log.len()) as i64;
            if start < end {
                ranges.insert(partition.clone(), OffsetRange { start, end });
            }
        }
        let mut tasks = Vec::new();
        for stage in &self.compiled.dataflow.stages {
            for place in 0..step.executors {
                let shards = shards_of(place, step.executors);
                let work = match stage.input {
                    StageInput::Source(source) => {
                        let mine = |partition: &SourcePartition| {
                            partition.source == source && partition.tp.partition as u16 % step.executors == place
                        };
                        let ranges = ranges.iter().filter(|(p, _)| mine(p)).map(|(p, r)| (p.clone(), *r)).collect();
                        TaskWork::Source { source, ranges }
                    }
                    StageInput::Shards => TaskWork::Shards { first: ShardId(shards.start), end: ShardId(shards.end) },
                };
                let id = TaskId(tasks.len() as u32);
                tasks.push(TaskPlan { id, stage: stage.id, work, writers: Vec::new() });
            }
        }
        BatchPlan {
            batch: BatchId(self.batch),
            timestamp_ms: 1_000_000 + self.batch as i64,
            ranges,
            late_before: self.closed.clone(),
            close_before: self.watermarks.iter().filter_map(|(id, mark)| Some((*id, mark.current_ms?))).collect(),
            tasks,
        }
    }

    fn run(&mut self, plan: &BatchPlan, chunk: usize, executors: u16) -> Result<Done, String> {
        self.attempts += 1;
        let attempt = AttemptId { epoch: Epoch(1), number: AttemptNumber(self.attempts) };
        let dataflow = &self.compiled.dataflow;
        let context = BatchContext::of(plan, dataflow, SHARDS);
        let names = self.compiled.sinks.iter().map(|sink| (sink.id, sink.name.clone())).collect();
        let mut inboxes: BTreeMap<TaskId, Vec<(EdgeId, DeltaBatch)>> = BTreeMap::new();
        let mut done = Done { attempt, written: Vec::new(), deltas: Vec::new(), late_rows: 0, state_rows: 0 };
        for task in &plan.tasks {
            let (executor, shards) = match &task.work {
                TaskWork::Source { .. } => (0, 0..0),
                TaskWork::Shards { first, end } => {
                    let holder = (0..executors).find(|place| shards_of(*place, executors).contains(&first.0));
                    (holder.unwrap(), first.0..end.0)
                }
            };
            let state = &self.executors[usize::from(executor)];
            let task_state = state.task(task.stage, shards).map_err(text)?;
            let mut runtime = TaskRuntime::new(dataflow, &names, task.stage, &context, task_state).map_err(text)?;
            let mut emitted = Vec::new();
            if let TaskWork::Source { source, ranges } = &task.work {
                let layout = self.compiled.sources[source.0 as usize].layout();
                for (partition, range) in ranges {
                    let ids = &self.logs[partition][range.start as usize..range.end as usize];
                    for ids in ids.chunks(chunk) {
                        let rows = batch_of(self.records, ids, &layout);
                        runtime.push_source(rows, &mut emitted).map_err(text)?;
                    }
                }
            }
            let mut inbox = inboxes.remove(&task.id).unwrap_or_default();
            // Edge after edge, as the exchange hands them out.
            inbox.sort_by_key(|(edge, _)| *edge);
            for (edge, rows) in inbox {
                runtime.push_edge(edge, rows, &mut emitted).map_err(text)?;
            }
            let outcome = runtime.finish(&mut emitted).map_err(text)?;
            state.stage(attempt, outcome.overlay);
            done.deltas.extend(outcome.state);
            done.late_rows += outcome.operators.iter().map(|operator| operator.late_rows).sum::<u64>();
            done.state_rows += outcome.operators.iter().map(|operator| operator.state_rows).sum::<u64>();
            for emit in emitted {
                match emit {
                    Emit::Sink { rows, .. } => done.written.push(rows),
                    Emit::Late { .. } => return Err("nobody asked for late rows".into()),
                    Emit::Exchange { edge, shard, rows } => {
                        let rows = DeltaBatch::from_wire(rows.into_wire().unwrap()).unwrap();
                        let consumer = dataflow.consumer(edge).unwrap().id;
                        let owner = plan.tasks_of(consumer).find(|task| match task.work {
                            TaskWork::Shards { first, end } => (first..end).contains(&shard),
                            TaskWork::Source { .. } => false,
                        });
                        inboxes.entry(owner.unwrap().id).or_default().push((edge, rows));
                    }
                }
            }
        }
        Ok(done)
    }

    fn note(&mut self, plan: &BatchPlan) -> Commit {
        let late_before = self.least(&plan.late_before);
        let mut seen: BTreeMap<SourceId, Vec<(SourcePartition, i64)>> = BTreeMap::new();
        let mut records = Vec::new();
        for (partition, range) in &plan.ranges {
            self.positions.insert(partition.clone(), range.end);
            for id in &self.logs[partition][range.start as usize..range.end as usize] {
                let record = &self.records[*id];
                // A deletion says nothing about event time.
                if let (Some(time), false) = (record.ts_ms, record.deleted) {
                    seen.entry(partition.source).or_default().push((partition.clone(), time - DELAY_MS));
                }
                records.push(*id);
            }
        }
        for source in self.compiled.sources.iter().filter(|source| source.watermark.is_some()) {
            let partitions: BTreeSet<_> = self.logs.keys().filter(|p| p.source == source.id).cloned().collect();
            let seen = seen.remove(&source.id).unwrap_or_default();
            watermark::advance(self.watermarks.entry(source.id).or_default(), seen, &partitions, &BTreeSet::new());
        }
        self.closed = plan.close_before.clone();
        self.batch += 1;
        Commit { records, late_before }
    }
}

fn text(error: EngineError) -> String {
    error.to_string()
}

fn texts(rows: &[DeltaBatch]) -> Vec<Vec<String>> {
    let mut all: Vec<_> = rows.iter().flat_map(|rows| crate::harness::fold::texts(&rows.batch)).collect();
    all.sort();
    all
}

fn digests(deltas: &[StateDelta]) -> Vec<String> {
    let of = |d: &StateDelta| format!("{:?}", (d.operator, d.first_shard, d.end_shard, d.keys, d.digest));
    let mut all: Vec<String> = deltas.iter().map(of).collect();
    all.sort();
    all
}

fn shards_of(place: u16, executors: u16) -> std::ops::Range<u16> {
    SHARDS * place / executors..SHARDS * (place + 1) / executors
}
