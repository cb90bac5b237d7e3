//! A driver and executors in one thread: the real dataflow, runtime, state and watermarks, and every way to disturb them.
//!
//! Owns: planning batches from a script of steps, running their tasks, checkpoints of state deltas, planted faults.
//! Does not own: what the answer should be (`batch`).

use crate::data::{DELAY_MS, PARTITIONS, Row, record_batch};
use crate::fold::Sink;
use crate::queries::{Kind, Query};
use crate::windows::in_sessions;
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::kernels::cmp::gt;
use arrow::datatypes::SchemaRef;
use highwater_core::ids::{AttemptId, AttemptNumber, BatchId, EdgeId, Epoch, ShardId, SourceId, TaskId};
use highwater_core::offsets::{OffsetRange, Ranges, SourcePartition, TopicPartition};
use highwater_core::plan::{BatchPlan, TaskPlan, TaskWork};
use highwater_core::record::SourceWatermark;
use highwater_core::report::StateDelta;
use highwater_core::watermark;
use highwater_engine::CompiledQuery;
use highwater_engine::dataflow::StageInput;
use highwater_engine::delta::DeltaBatch;
use highwater_engine::runtime::{BatchContext, Emit, TaskRuntime};
use highwater_engine::state::QueryState;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SHARDS: u16 = 8;

/// One micro-batch of a case.
#[derive(Clone, Debug)]
pub struct Step {
    /// Records read of each partition, at most; by table and partition.
    takes: Vec<usize>,
    executors: u16,
    /// Rows in one decoded batch.
    chunk: usize,
    /// An attempt over fewer records is dropped first, and all executors begin anew.
    killed: bool,
    /// After it was prepared all executors die, and others finish it by its plan.
    replayed: bool,
}

pub fn step() -> impl Strategy<Value = Step> {
    let takes = prop::collection::vec(0usize..6, 2 * PARTITIONS as usize);
    (takes, 1u16..4, 1usize..5, prop::bool::weighted(0.25), prop::bool::weighted(0.25))
        .prop_map(|(takes, executors, chunk, killed, replayed)| Step { takes, executors, chunk, killed, replayed })
}

impl Step {
    pub fn everything() -> Self {
        Self { takes: vec![usize::MAX; 2 * PARTITIONS as usize], ..Self::nothing() }
    }

    pub fn nothing() -> Self {
        Self { takes: vec![0; 2 * PARTITIONS as usize], executors: 2, chunk: 3, killed: false, replayed: false }
    }
}

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    DroppedRetraction,
    WatermarkOffByOne,
    LostDelta,
    WrongOverlay,
    LostExchange,
}

pub struct Cluster<'a> {
    compiled: CompiledQuery,
    pub rows: &'a [Row],
    pub sink: Sink,
    /// Ids of committed rows that were not late.
    pub accepted: Vec<usize>,
    /// The watermark each of those met, by id, milliseconds.
    pub met: BTreeMap<usize, i64>,
    query: Query,
    fault: Fault,
    /// Ids in each partition, in order.
    logs: BTreeMap<SourcePartition, Vec<usize>>,
    positions: BTreeMap<SourcePartition, i64>,
    watermarks: BTreeMap<SourceId, SourceWatermark>,
    closed: BTreeMap<SourceId, i64>,
    /// State deltas of all committed batches.
    checkpoint: Vec<Vec<u8>>,
    executors: Vec<QueryState>,
    batch: u64,
    attempts: u64,
}

/// What an attempt did.
struct Done {
    attempt: AttemptId,
    /// Rows per task, in order.
    written: BTreeMap<TaskId, Vec<DeltaBatch>>,
    deltas: Vec<StateDelta>,
}

impl<'a> Cluster<'a> {
    pub fn new(query: &Query, rows: &'a [Row], fault: Fault) -> Result<Self, String> {
        let script = query.script();
        let compiled = highwater_engine::compile(&script).map_err(|error| format!("{error}\n{script}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(compiled.load_files(0)).map_err(|error| error.to_string())?;
        let mut logs: BTreeMap<SourcePartition, Vec<usize>> = BTreeMap::new();
        for source in &compiled.sources {
            for partition in 0..PARTITIONS {
                logs.insert(place(source.id, &source.name, partition), Vec::new());
            }
        }
        for (id, row) in rows.iter().enumerate() {
            let name = ["t", "u"][row.table as usize];
            if let Some(source) = compiled.sources.iter().find(|source| source.name == name) {
                logs.get_mut(&place(source.id, name, row.partition)).unwrap().push(id);
            }
        }
        Ok(Self {
            query: query.clone(),
            sink: Sink::new(query.key_width(), query.kind == Kind::Complete),
            positions: logs.keys().map(|partition| (partition.clone(), 0)).collect(),
            compiled,
            rows,
            accepted: Vec::new(),
            met: BTreeMap::new(),
            fault,
            logs,
            watermarks: BTreeMap::new(),
            closed: BTreeMap::new(),
            checkpoint: Vec::new(),
            executors: Vec::new(),
            batch: 0,
            attempts: 0,
        })
    }

    pub fn batches(&self) -> u64 {
        self.batch
    }

    pub fn sink_schema(&self) -> SchemaRef {
        self.compiled.sinks[0].schema.clone()
    }

    /// Windows that end at or before this are closed.
    pub fn closed_before_ms(&self) -> Option<i64> {
        self.least(&self.closed).map(|closed| closed - self.query.lateness_ms)
    }

    /// No accepted row passes the query's filter: asked of the sink, which then never had a row.
    pub fn nothing_passed(&self, _query: &Query) -> bool {
        self.checkpoint.is_empty()
    }

    fn least(&self, marks: &BTreeMap<SourceId, i64>) -> Option<i64> {
        self.compiled.sources.iter().map(|source| marks.get(&source.id).copied()).min().flatten()
    }

    /// Plans, runs and commits one batch.
    pub fn commit(&mut self, step: &Step) -> Result<(), String> {
        if self.executors.len() != usize::from(step.executors) {
            self.restart(step.executors)?;
        }
        let mut dropped = None;
        if step.killed {
            let plan = self.plan(step, true);
            dropped = Some(self.run(&plan, step.chunk, step.executors)?);
            if self.fault != Fault::WrongOverlay {
                self.executors.iter().for_each(|state| state.discard(dropped.as_ref().unwrap().attempt));
                self.restart(step.executors)?;
            }
        }
        let plan = self.plan(step, false);
        let mut done = self.run(&plan, step.chunk, step.executors)?;
        if step.replayed {
            // Chunks are those of the log, tasks those of the plan; only who runs them differs.
            self.restart(1)?;
            let again = self.run(&plan, step.chunk, 1)?;
            same(&done, &again)?;
            done = again;
        }
        let promoted = match (self.fault, dropped) {
            (Fault::WrongOverlay, Some(dropped)) if !step.replayed => dropped.attempt,
            _ => done.attempt,
        };
        for state in &self.executors {
            state.promote(promoted).map_err(|error| error.to_string())?;
        }
        let lost = usize::from(self.fault == Fault::LostDelta && self.batch % 2 == 1);
        self.checkpoint.extend(done.deltas.into_iter().skip(lost).map(|delta| delta.bytes));
        self.sink.commit(&done.written.into_values().flatten().collect::<Vec<_>>())?;
        self.note(&plan);
        Ok(())
    }

    /// New executors, their state read from the checkpoint.
    fn restart(&mut self, executors: u16) -> Result<(), String> {
        self.executors.clear();
        for place in 0..executors {
            let state = QueryState::new(&self.compiled.dataflow);
            state.load(shards_of(place, executors), &self.checkpoint).map_err(|error| error.to_string())?;
            self.executors.push(state);
        }
        Ok(())
    }

    fn plan(&self, step: &Step, fewer: bool) -> BatchPlan {
        let takes = self.logs.iter().zip(&step.takes);
        let ranges: Ranges = takes
            .filter_map(|((partition, log), take)| {
                let start = self.positions[partition];
                let take = if fewer { *take / 2 } else { *take };
                let end = (start as usize).saturating_add(take).min(log.len()) as i64;
                (start < end).then(|| (partition.clone(), OffsetRange { start, end }))
            })
            .collect();
        let off_by_one = i64::from(self.fault == Fault::WatermarkOffByOne);
        let close_before = self.watermarks.iter().filter_map(|(id, mark)| Some((*id, mark.current_ms? + off_by_one)));
        let mut tasks = Vec::new();
        for stage in &self.compiled.dataflow.stages {
            for place in 0..step.executors {
                let work = match stage.input {
                    StageInput::Source(source) => {
                        let mine =
                            |partition: &SourcePartition| partition.tp.partition as u16 % step.executors == place;
                        let ranges: Ranges = ranges
                            .iter()
                            .filter(|(partition, _)| partition.source == source && mine(partition))
                            .map(|(partition, range)| (partition.clone(), *range))
                            .collect();
                        if ranges.is_empty() {
                            continue;
                        }
                        TaskWork::Source { source, ranges }
                    }
                    StageInput::Shards => {
                        let shards = shards_of(place, step.executors);
                        TaskWork::Shards { first: ShardId(shards.start), end: ShardId(shards.end) }
                    }
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
            close_before: close_before.collect(),
            tasks,
        }
    }

    /// Runs all tasks of a plan, each on one of `executors`, and stages their overlays.
    fn run(&mut self, plan: &BatchPlan, chunk: usize, executors: u16) -> Result<Done, String> {
        let failed = |error: highwater_engine::error::EngineError| error.to_string();
        self.attempts += 1;
        let attempt = AttemptId { epoch: Epoch(1), number: AttemptNumber(self.attempts) };
        let dataflow = &self.compiled.dataflow;
        self.compiled.clock.set_ms(plan.timestamp_ms);
        let context = BatchContext::of(plan, dataflow, SHARDS);
        let names = self.compiled.sinks.iter().map(|sink| (sink.id, sink.name.clone())).collect();
        // Rows for each task: by sender, in the order they were sent.
        let mut inboxes: BTreeMap<TaskId, Vec<(EdgeId, DeltaBatch)>> = BTreeMap::new();
        let mut done = Done { attempt, written: BTreeMap::new(), deltas: Vec::new() };
        for task in &plan.tasks {
            let (executor, shards) = match &task.work {
                TaskWork::Source { .. } => (0, 0..0),
                TaskWork::Shards { first, end } => {
                    let holder = (0..executors).find(|place| shards_of(*place, executors).contains(&first.0));
                    (holder.unwrap(), first.0..end.0)
                }
            };
            let state = &self.executors[usize::from(executor)];
            let task_state = state.task(task.stage, shards).map_err(failed)?;
            let mut runtime = TaskRuntime::new(dataflow, &names, task.stage, &context, task_state).map_err(failed)?;
            let mut emitted = Vec::new();
            match &task.work {
                TaskWork::Source { source, ranges } => {
                    for (partition, range) in ranges {
                        let ids = &self.logs[partition][range.start as usize..range.end as usize];
                        for (place, ids) in ids.chunks(chunk).enumerate() {
                            let table = &self.compiled.sources[source.0 as usize];
                            let mut columns = record_batch(self.rows, ids).columns().to_vec();
                            let first = range.start + (place * chunk) as i64;
                            let metadata = &table.schema.fields()[columns.len()..];
                            columns.extend(metadata.iter().map(|field| position(field.name(), partition, first, ids)));
                            let all = RecordBatch::try_new(table.schema.clone(), columns).unwrap();
                            let rows = all.project(&table.columns_used).unwrap();
                            runtime.push_source(rows, &mut emitted).map_err(failed)?;
                        }
                    }
                }
                TaskWork::Shards { .. } => {
                    for (edge, rows) in inboxes.remove(&task.id).unwrap_or_default() {
                        runtime.push_edge(edge, rows, &mut emitted).map_err(failed)?;
                    }
                }
            }
            let outcome = runtime.finish(&mut emitted).map_err(failed)?;
            state.stage(attempt, outcome.overlay);
            done.deltas.extend(outcome.state);
            for emit in emitted {
                match emit {
                    Emit::Sink { rows, .. } => done.written.entry(task.id).or_default().push(rows),
                    Emit::Exchange { edge, shard, rows } => {
                        let Some(rows) = self.carry(rows, inboxes.len()) else { continue };
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

    /// Over the wire, perhaps damaged.
    fn carry(&self, rows: DeltaBatch, seen: usize) -> Option<DeltaBatch> {
        if self.fault == Fault::LostExchange && seen == 1 {
            return None;
        }
        let mut rows = DeltaBatch::from_wire(rows.into_wire().unwrap()).unwrap();
        if let (Fault::DroppedRetraction, Some(weights)) = (self.fault, &rows.weights) {
            let keep = gt(weights, &Int64Array::new_scalar(0)).unwrap();
            rows = rows.filter(&keep).unwrap();
        }
        Some(rows)
    }

    /// Moves positions and watermarks on, and notes which rows counted.
    fn note(&mut self, plan: &BatchPlan) {
        let late_before = self.least(&plan.late_before).map(|late| late - self.query.lateness_ms);
        let mut seen: BTreeMap<SourceId, Vec<(SourcePartition, i64)>> = BTreeMap::new();
        let mut come = Vec::new();
        for (partition, range) in &plan.ranges {
            self.positions.insert(partition.clone(), range.end);
            for id in &self.logs[partition][range.start as usize..range.end as usize] {
                let row = &self.rows[*id];
                if let Some(time) = row.ts_ms(*id) {
                    seen.entry(partition.source).or_default().push((partition.clone(), time - DELAY_MS));
                }
                let over_at = self.query.over_at_ms(row, *id);
                let in_time = match (over_at, late_before) {
                    (Some(i64::MIN), _) => false,
                    (Some(over_at), Some(late)) => over_at > late,
                    _ => true,
                };
                if in_time {
                    come.push(*id);
                }
            }
        }
        if self.query.has_sessions() {
            come = in_sessions(self.rows, &self.accepted, &come, late_before);
        }
        self.met.extend(late_before.iter().flat_map(|late| come.iter().map(|id| (*id, *late))));
        self.accepted.extend(come);
        for source in &self.compiled.sources {
            let partitions: BTreeSet<_> = self.logs.keys().filter(|p| p.source == source.id).cloned().collect();
            let seen = seen.remove(&source.id).unwrap_or_default();
            watermark::advance(self.watermarks.entry(source.id).or_default(), seen, &partitions, &BTreeSet::new());
        }
        // The plan's own, without the fault.
        self.closed = plan.close_before.clone();
        if self.fault == Fault::WatermarkOffByOne {
            self.closed.values_mut().for_each(|closed| *closed -= 1);
        }
        self.batch += 1;
    }
}

fn place(source: SourceId, topic: &str, partition: i32) -> SourcePartition {
    SourcePartition { source, tp: TopicPartition::new(topic, partition) }
}

/// A metadata column of records that follow each other.
fn position(name: &str, partition: &SourcePartition, first: i64, ids: &[usize]) -> ArrayRef {
    match name {
        "_topic" => Arc::new(StringArray::from(vec![partition.tp.topic.to_string(); ids.len()])),
        "_partition" => Arc::new(Int32Array::from(vec![partition.tp.partition; ids.len()])),
        "_offset" => Arc::new(Int64Array::from_iter_values(first..first + ids.len() as i64)),
        other => panic!("no metadata column {other} here"),
    }
}

/// Shards of the executor at this place, of so many.
fn shards_of(place: u16, executors: u16) -> std::ops::Range<u16> {
    SHARDS * place / executors..SHARDS * (place + 1) / executors
}

/// Running a plan again gives the same rows per task and the same state.
fn same(first: &Done, again: &Done) -> Result<(), String> {
    let texts = |done: &Done| -> BTreeMap<TaskId, Vec<Vec<String>>> {
        let sorted = |rows: &Vec<DeltaBatch>| {
            let mut all: Vec<_> = rows.iter().flat_map(|rows| crate::fold::texts(&rows.batch)).collect();
            all.sort();
            all
        };
        done.written.iter().map(|(task, rows)| (*task, sorted(rows))).collect()
    };
    let digests = |done: &Done| {
        let mut all: Vec<_> =
            done.deltas.iter().map(|d| (d.operator, d.first_shard, d.end_shard, d.keys, d.digest)).collect();
        all.sort();
        all
    };
    if texts(first) != texts(again) || digests(first) != digests(again) {
        return Err("the same plan gave other rows or state when it ran again".into());
    }
    Ok(())
}
