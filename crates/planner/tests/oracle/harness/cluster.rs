//! A driver and executors in one thread: the real dataflow, runtime, state and watermarks, and every way to disturb them.
//!
//! Owns: planning batches from steps, running their tasks, checkpoints of state deltas, planted faults.
//! Does not own: the expected answer. Invariant: a new executor has only the script and the checkpoint.

use super::fold::Sink;
use super::records::{Records, are_rows};
use super::snapshots::{Snapshots, block_on};
use arrow::array::{Array, AsArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::compute::kernels::cmp::gt;
use arrow::datatypes::{SchemaRef, TimestampMillisecondType};
use highwater_dataflow::StageInput;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::{BatchContext, Emit, Lanes, OnFailure, TaskRuntime};
use highwater_dataflow::state::QueryState;
use highwater_planner::CompiledQuery;
use highwater_protocol::ids::{
    AttemptId, AttemptNumber, BatchId, EdgeId, Epoch, OperatorId, ShardId, SinkId, SourceId, TaskId,
};
use highwater_protocol::key_conflicts::KeyConflicts;
use highwater_protocol::offsets::{OffsetRange, Ranges, SourcePartition, TopicPartition};
use highwater_protocol::plan::{BatchPlan, TaskPlan, TaskWork};
use highwater_protocol::prepare_record::SourceWatermark;
use highwater_protocol::report::{OperatorMetrics, StateDelta};
use highwater_protocol::state_delta::{self, DeltaReader};
use highwater_protocol::watermark;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// `now()` in the first batch, unless a step sets it: 2026-01-01T00:00:00Z. Later batches are a millisecond apart.
const START_MS: i64 = 1_767_225_600_000;

/// How far one micro-batch reads.
#[derive(Clone, Debug)]
pub enum Take {
    All,
    Nothing,
    /// At most so many more records of each partition, in the order of sources and partitions.
    Each(Vec<usize>),
    /// Up to these offsets, by table and partition; other partitions do not advance.
    To(BTreeMap<(String, i32), i64>),
}

/// One micro-batch of a case.
#[derive(Clone, Debug)]
pub struct Step {
    pub take: Take,
    pub executors: u16,
    /// Rows of one decoded batch.
    pub chunk: usize,
    /// True if the query is stopped before it and resumed: the script is compiled again, and all executors are new.
    pub resumed: bool,
    /// True if an attempt over fewer records is dropped first, and all executors are replaced.
    pub killed: bool,
    /// True if all executors die after it was prepared, and others finish it by its plan.
    pub replayed: bool,
    /// `now()` in milliseconds; `None` = a millisecond after the batch before.
    pub now_ms: Option<i64>,
}

impl Step {
    pub fn taking(take: Take) -> Self {
        Self { take, executors: 2, chunk: 3, resumed: false, killed: false, replayed: false, now_ms: None }
    }
}

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Rows with weight −1 are lost.
    DroppedRetraction,
    WatermarkOffByOne,
    /// One state delta of every second batch is missing in the checkpoint.
    LostDelta,
    /// The state of a dropped attempt is committed.
    WrongOverlay,
    /// The rows of one task are lost.
    LostExchange,
    /// A restore applies the deltas of the batch before the last once more, after all others.
    DeltaTwice,
    /// Tasks do not know which rows are late.
    LateAdmitted,
}

/// A committed batch.
#[derive(Clone, Debug)]
pub struct Commit {
    pub ranges: Ranges,
    /// The watermarks at which its rows were read.
    pub late_before: BTreeMap<SourceId, i64>,
}

pub struct Cluster {
    script: String,
    /// Lookup tables, in the versions that rows of the next batch look up.
    snapshots: Snapshots,
    pub compiled: CompiledQuery,
    pub sinks: BTreeMap<SinkId, Sink>,
    fault: Fault,
    logs: BTreeMap<SourcePartition, RecordBatch>,
    positions: BTreeMap<SourcePartition, i64>,
    watermarks: BTreeMap<SourceId, SourceWatermark>,
    closed: BTreeMap<SourceId, i64>,
    /// State deltas of every committed batch.
    checkpoint: Vec<Vec<Vec<u8>>>,
    executors: Vec<QueryState>,
    batch: u64,
    attempts: u64,
    now_ms: i64,
    /// Rows dropped as late in committed batches.
    pub late_rows: u64,
    /// Sums of the counters of all operators in the last batch.
    pub counts: OperatorMetrics,
    /// Keys of sinks with more than one live row, as the driver keeps them.
    pub key_conflicts: KeyConflicts,
}

/// The result of an attempt.
struct Done {
    attempt: AttemptId,
    /// Rows per task and sink, in order.
    written: BTreeMap<TaskId, Vec<(SinkId, ChangeBatch)>>,
    deltas: Vec<StateDelta>,
    counts: OperatorMetrics,
    /// Number of late rows that were emitted to sinks.
    given_late: u64,
}

impl Cluster {
    pub fn new(script: &str, records: &Records, fault: Fault) -> Result<Self, String> {
        let compiled = highwater_planner::compile(script).map_err(|error| format!("{error}\n{script}"))?;
        let mut logs: BTreeMap<SourcePartition, RecordBatch> = BTreeMap::new();
        for source in &compiled.sources {
            for (partition, rows) in records.of(source) {
                let tp = TopicPartition::new(source.name.clone(), partition);
                logs.insert(SourcePartition { source: source.id, tp }, rows);
            }
        }
        Ok(Self {
            script: script.to_string(),
            snapshots: Snapshots::default(),
            sinks: compiled.sinks.iter().map(|sink| (sink.id, Sink::new(sink))).collect(),
            positions: logs.keys().map(|partition| (partition.clone(), 0)).collect(),
            compiled,
            fault,
            logs,
            watermarks: BTreeMap::new(),
            closed: BTreeMap::new(),
            checkpoint: Vec::new(),
            executors: Vec::new(),
            batch: 0,
            attempts: 0,
            now_ms: START_MS - 1,
            late_rows: 0,
            counts: OperatorMetrics::default(),
            key_conflicts: KeyConflicts::default(),
        })
    }

    pub fn batches(&self) -> u64 {
        self.batch
    }

    /// Returns the script's first sink.
    pub fn sink(&self) -> &Sink {
        &self.sinks[&SinkId(0)]
    }

    pub fn sink_schema(&self) -> SchemaRef {
        self.compiled.sinks[0].schema.clone()
    }

    /// True if no batch has changed any state.
    pub fn kept_nothing(&self) -> bool {
        self.checkpoint.iter().all(Vec::is_empty)
    }

    /// Returns an operator's state in the checkpoint: shards, keys and values.
    pub fn kept(&self, operator: OperatorId) -> Vec<(ShardId, Vec<u8>, Vec<u8>)> {
        let deltas = self.checkpoint.iter().flatten().map(Vec::as_slice);
        let own: Vec<&[u8]> = deltas.filter(|d| DeltaReader::new(d).unwrap().operator() == operator).collect();
        let whole = state_delta::merge(&own, |_| true, true).unwrap();
        let entries = DeltaReader::new(&whole).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.shard, entry.key.to_vec(), entry.value.unwrap().to_vec())).collect()
    }

    /// Returns the lowest watermark of all sources in the last committed plan.
    pub fn closed_ms(&self) -> Option<i64> {
        self.least(&self.closed)
    }

    pub fn least(&self, marks: &BTreeMap<SourceId, i64>) -> Option<i64> {
        self.compiled.sources.iter().map(|source| marks.get(&source.id).copied()).min().flatten()
    }

    /// Returns the committed offsets of a table, by partition.
    pub fn committed(&self, table: &str) -> BTreeMap<i32, i64> {
        let source = self.compiled.sources.iter().find(|source| source.name == table);
        let mine = self.positions.iter().filter(|(partition, _)| Some(partition.source) == source.map(|one| one.id));
        mine.map(|(partition, position)| (partition.tp.partition, *position)).collect()
    }

    fn shards(&self) -> u16 {
        self.compiled.options.shards
    }

    /// Plans, runs and commits one batch.
    pub fn commit(&mut self, step: &Step) -> Result<Commit, String> {
        self.now_ms = step.now_ms.unwrap_or(self.now_ms + 1);
        self.snapshots.read(&self.compiled.snapshot_tables())?;
        if step.resumed {
            let anew = highwater_planner::compile(&self.script).map_err(|error| error.to_string())?;
            if anew.fingerprint() != self.compiled.fingerprint() {
                let plans = [&self.compiled, &anew].map(|compiled| format!("{:#?}", compiled.dataflow));
                let differs = plans[0].lines().zip(plans[1].lines()).find(|(one, other)| one != other);
                return Err(format!("the script compiled to another plan: {differs:?}"));
            }
            self.compiled = anew;
        }
        if step.resumed || self.executors.len() != usize::from(step.executors) {
            self.restart(step.executors)?;
        }
        let mut dropped = None;
        if step.killed {
            let plan = self.plan(step, true);
            dropped = Some(self.run(&plan, step.chunk, step.executors)?);
            if self.fault != Fault::WrongOverlay {
                self.executors.iter().for_each(|state| drop(state.discard(dropped.as_ref().unwrap().attempt)));
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
        self.checkpoint.push(done.deltas.into_iter().skip(lost).map(|delta| delta.bytes).collect());
        let wanted = self.compiled.sources.iter().all(|source| source.options.late_topic.is_some());
        if wanted && done.given_late != done.counts.late_rows {
            return Err(format!("{} rows are given as late, {} are counted", done.given_late, done.counts.late_rows));
        }
        self.late_rows += done.counts.late_rows;
        self.key_conflicts.apply(&done.counts.key_conflicts);
        self.counts = done.counts;
        let written: Vec<(SinkId, ChangeBatch)> = done.written.into_values().flatten().collect();
        for (id, sink) in &mut self.sinks {
            sink.commit(written.iter().filter(|(to, _)| to == id).map(|(_, rows)| rows))?;
        }
        self.advance(&plan);
        Ok(Commit { ranges: plan.ranges, late_before: plan.late_before })
    }

    /// Replaces all executors; the new ones load their state from the checkpoint.
    fn restart(&mut self, executors: u16) -> Result<(), String> {
        self.executors.clear();
        let mut deltas: Vec<Vec<u8>> = self.checkpoint.iter().flatten().cloned().collect();
        if let (Fault::DeltaTwice, [.., old, _]) = (self.fault, self.checkpoint.as_slice()) {
            deltas.extend(old.iter().cloned());
        }
        for place in 0..executors {
            let state = QueryState::new(&self.compiled.dataflow);
            state
                .load(shards_of(self.shards(), place, executors), &deltas)
                .map_err(|error: EngineError| error.to_string())?;
            self.executors.push(state);
        }
        Ok(())
    }

    /// Returns the offset ranges of the next batch; with `fewer`, half as long.
    fn ranges(&self, take: &Take, fewer: bool) -> Ranges {
        let mut ranges = Ranges::new();
        for (index, (partition, log)) in self.logs.iter().enumerate() {
            let start = self.positions[partition];
            let rest = (log.num_rows() as i64 - start).max(0);
            let most = match take {
                Take::All => rest,
                Take::Nothing => 0,
                Take::Each(takes) => takes.get(index).map_or(0, |take| *take as i64).min(rest),
                Take::To(ends) => {
                    let table = &self.compiled.sources[partition.source.0 as usize].name;
                    let end = ends.get(&(table.clone(), partition.tp.partition)).copied().unwrap_or(start);
                    (end - start).clamp(0, rest)
                }
            };
            let end = start + if fewer { most / 2 } else { most };
            if start < end {
                ranges.insert(partition.clone(), OffsetRange { start, end });
            }
        }
        ranges
    }

    fn plan(&self, step: &Step, fewer: bool) -> BatchPlan {
        let ranges = self.ranges(&step.take, fewer);
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
                        let shards = shards_of(self.shards(), place, step.executors);
                        TaskWork::Shards { first: ShardId(shards.start), end: ShardId(shards.end) }
                    }
                };
                let id = TaskId(tasks.len() as u32);
                tasks.push(TaskPlan { id, stage: stage.id, work, writers: Vec::new() });
            }
        }
        BatchPlan {
            batch: BatchId(self.batch),
            timestamp_ms: self.now_ms,
            ranges,
            late_before: self.closed.clone(),
            close_before: close_before.collect(),
            files: self.snapshots.versions.clone(),
            tasks,
        }
    }

    /// Runs all tasks of a plan, each on one of `executors`, and stages their overlays.
    fn run(&mut self, plan: &BatchPlan, chunk: usize, executors: u16) -> Result<Done, String> {
        self.attempts += 1;
        let attempt = AttemptId { epoch: Epoch(1), number: AttemptNumber(self.attempts) };
        self.compiled.clock.set_ms(plan.timestamp_ms);
        if !self.compiled.lookups.is_empty() {
            block_on(self.compiled.load_snapshots(&plan.files, &self.snapshots, u64::MAX))
                .map_err(|error| error.to_string())?;
        }
        let mut context = BatchContext::of(plan, &self.compiled.dataflow, self.shards());
        if self.fault == Fault::LateAdmitted {
            context.late_before.clear();
        }
        // Rows for each task: by sender, in the order they were sent.
        let mut inboxes: BTreeMap<TaskId, Vec<(EdgeId, ChangeBatch)>> = BTreeMap::new();
        let counts = OperatorMetrics::default();
        let mut done = Done { attempt, written: BTreeMap::new(), deltas: Vec::new(), counts, given_late: 0 };
        for task in &plan.tasks {
            let inbox = inboxes.remove(&task.id).unwrap_or_default();
            let emitted = self
                .run_task(task, &context, inbox, (chunk, executors), &mut done)
                .map_err(|error| error.to_string())?;
            for emit in emitted {
                match emit {
                    Emit::Late { sink, late } => {
                        assert!(self.compiled.dataflow.stages[task.stage.0 as usize].sinks.contains(&sink));
                        assert_eq!(late.rows.num_rows(), late.over_at.len());
                        let weights = (0..late.rows.num_rows()).map(|row| late.rows.weight(row).unsigned_abs());
                        done.given_late += weights.sum::<u64>();
                    }
                    Emit::Sink { sink, rows } => done.written.entry(task.id).or_default().push((sink, rows)),
                    Emit::Exchange { edge, shard, rows } => {
                        let Some(rows) = self.carry(rows, inboxes.len()) else { continue };
                        let owner = self.owner(plan, edge, shard);
                        inboxes.entry(owner).or_default().push((edge, rows));
                    }
                }
            }
        }
        Ok(done)
    }

    fn run_task(
        &self,
        task: &TaskPlan,
        context: &BatchContext,
        mut inbox: Vec<(EdgeId, ChangeBatch)>,
        (chunk, executors): (usize, u16),
        done: &mut Done,
    ) -> Result<Vec<Emit>, EngineError> {
        let (executor, shards) = match &task.work {
            TaskWork::Source { .. } => (0, 0..0),
            TaskWork::Shards { first, end } => {
                let mut places = 0..executors;
                let holds = |place: &u16| shards_of(self.shards(), *place, executors).contains(&first.0);
                (places.find(holds).unwrap(), first.0..end.0)
            }
        };
        let state = &self.executors[usize::from(executor)];
        let names = self.compiled.sinks.iter().map(|sink| (sink.id, sink.name.clone())).collect();
        let task_state = state.task(task.stage, shards)?;
        let dataflow = &self.compiled.dataflow;
        let (emitted, outcome) = if let TaskWork::Source { source, ranges } = &task.work {
            let mut runtime = TaskRuntime::new(dataflow, &names, task.stage, context, task_state)?;
            let mut emitted = Vec::new();
            let table = &self.compiled.sources[source.0 as usize];
            let (layout, on_failure) = (table.layout(), OnFailure::of(&table.options.on_bad_record));
            for (partition, range) in ranges {
                let rows = in_layout(&self.slice(partition, range), &layout);
                for first in (0..rows.num_rows()).step_by(chunk) {
                    let rows = rows.slice(first, chunk.min(rows.num_rows() - first));
                    let failed = runtime.push_source(rows, on_failure, &mut emitted)?;
                    if let (OnFailure::Stop, Some((_, error))) = (on_failure, failed.into_iter().next()) {
                        return Err(error);
                    }
                }
            }
            let outcome = runtime.finish(&mut emitted)?;
            (emitted, outcome)
        } else {
            // Edge after edge, as the exchange hands them out.
            inbox.sort_by_key(|(edge, _)| *edge);
            let lanes = 1 + (self.batch + u64::from(task.id.0)) as usize % 3;
            let lanes = Lanes::new(dataflow, &names, task.stage, context, task_state, lanes)?;
            lanes.run(inbox, 2, &|| true)?.ok_or_else(|| EngineError::Internal("it stopped by itself".into()))?
        };
        state.stage(done.attempt, outcome.overlay);
        done.deltas.extend(outcome.state);
        for operator in outcome.operators {
            done.counts.state_rows += operator.state_rows;
            done.counts.late_rows += operator.late_rows;
            done.counts.expired_rows += operator.expired_rows;
            done.counts.ignored_rows += operator.ignored_rows;
            done.counts.key_conflicts.append(operator.key_conflicts);
        }
        Ok(emitted)
    }

    fn slice(&self, partition: &SourcePartition, range: &OffsetRange) -> RecordBatch {
        self.logs[partition].slice(range.start as usize, (range.end - range.start) as usize)
    }

    /// Returns the task that owns a shard of an edge's consumer.
    fn owner(&self, plan: &BatchPlan, edge: EdgeId, shard: ShardId) -> TaskId {
        let consumer = self.compiled.dataflow.consumer(edge).unwrap().id;
        let owner = plan.tasks_of(consumer).find(|task| match task.work {
            TaskWork::Shards { first, end } => (first..end).contains(&shard),
            TaskWork::Source { .. } => false,
        });
        owner.unwrap().id
    }

    /// Sends rows through the wire format, with the planted fault, if any; `None` = they are lost.
    fn carry(&self, rows: ChangeBatch, seen: usize) -> Option<ChangeBatch> {
        if self.fault == Fault::LostExchange && seen == 1 {
            return None;
        }
        let mut rows = ChangeBatch::from_wire(rows.into_wire().unwrap()).unwrap();
        if let (Fault::DroppedRetraction, Some(weights)) = (self.fault, &rows.weights) {
            let keep = gt(weights, &Int64Array::new_scalar(0)).unwrap();
            rows = rows.filter(&keep).unwrap();
        }
        Some(rows)
    }

    /// Advances offsets and watermarks.
    fn advance(&mut self, plan: &BatchPlan) {
        let mut seen: BTreeMap<SourceId, Vec<(SourcePartition, i64)>> = BTreeMap::new();
        for (partition, range) in &plan.ranges {
            self.positions.insert(partition.clone(), range.end);
            if let Some(greatest) = self.greatest_mark(partition, range) {
                seen.entry(partition.source).or_default().push((partition.clone(), greatest));
            }
        }
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

    /// Returns the greatest value of the source's WATERMARK among these records, as the source's reader computes it.
    fn greatest_mark(&self, partition: &SourcePartition, range: &OffsetRange) -> Option<i64> {
        let watermark = self.compiled.sources[partition.source.0 as usize].watermark.as_ref()?;
        let rows = self.slice(partition, range);
        // A deletion says nothing about event time.
        let rows = filter_record_batch(&rows, &are_rows(&rows)).unwrap();
        let marks = watermark.evaluate(&rows).unwrap().into_array(rows.num_rows()).unwrap();
        let marks = marks.as_primitive::<TimestampMillisecondType>();
        (0..marks.len()).filter(|row| marks.is_valid(*row)).map(|row| marks.value(row)).max()
    }
}

/// Returns the columns of a source's layout.
fn in_layout(rows: &RecordBatch, layout: &SchemaRef) -> RecordBatch {
    let columns = layout.fields().iter().map(|field| rows.column_by_name(field.name()).unwrap().clone());
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(layout.clone(), columns.collect(), &options).unwrap()
}

/// Returns the shards of one of `executors` executors.
fn shards_of(shards: u16, place: u16, executors: u16) -> Range<u16> {
    shards * place / executors..shards * (place + 1) / executors
}

/// Checks that a repeated plan gave the same rows per task and the same state.
fn same(first: &Done, again: &Done) -> Result<(), String> {
    let texts = |done: &Done| -> BTreeMap<TaskId, Vec<(SinkId, Vec<String>)>> {
        let sorted = |rows: &Vec<(SinkId, ChangeBatch)>| {
            let texts = rows
                .iter()
                .flat_map(|(sink, rows)| super::fold::texts(&rows.batch).into_iter().map(move |text| (*sink, text)));
            let mut all: Vec<_> = texts.collect();
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
    if texts(first) != texts(again) {
        let (first, again) = (texts(first), texts(again));
        return Err(format!("the same plan gave other rows when it ran again: {first:?}, then {again:?}"));
    }
    if digests(first) != digests(again) {
        let (first, again) = (digests(first), digests(again));
        return Err(format!("the same plan gave other state when it ran again: {first:?}, then {again:?}"));
    }
    Ok(())
}
