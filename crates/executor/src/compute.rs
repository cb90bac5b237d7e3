//! The computing half of one task, on a blocking thread: runs operators, sends and writes rows.
//!
//! Owns: one task's sender and writers while it runs. Does not own: where its input comes from (`task`). Invariant:
//! nothing is flushed unless the whole input arrived and the attempt is still wanted.

use crate::error::TaskError;
use crate::exchange::sender::Sender;
use crate::steps::Steps;
use crate::stopwatch::timed;
use crate::writers::{InUse, Slot, Writers};
use highwater_connector_api::source::Chunk;
use highwater_crash as crash;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::runtime::{Emit, Lanes, OnFailure, TaskOutcome, TaskRuntime};
use highwater_dataflow::state::{Growth, Overlay};
use highwater_planner::CompiledQuery;
use highwater_protocol::ids::{AttemptId, BatchId, EdgeId, SinkId, SourceId};
use highwater_protocol::metrics::{StepMetrics, TaskMetrics};
use highwater_protocol::offsets::SourcePartition;
use highwater_protocol::plan::{TaskPlan, WriterPlan};
use highwater_protocol::report::{EventTimes, PartitionReport, TaskReport, WriterReport, absent_from_both};
use highwater_sql::tables::SourceTable;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::Span;

/// Input of a source task.
pub enum Input {
    Chunk(SourcePartition, Box<Chunk>),
    /// All ranges are read. If the input ends without this, it is incomplete.
    End,
}

/// Everything a task computes with.
pub struct Compute {
    pub task: TaskPlan,
    pub attempt: AttemptId,
    pub batch: BatchId,
    pub sender: Sender,
    pub writers: Arc<Writers>,
    /// Writers that hold this batch already.
    pub published: BTreeSet<WriterPlan>,
    pub cancel: CancellationToken,
    pub steps: Steps,
    /// The table that a source task reads; `None` for tasks over shards.
    pub source: Option<SourceId>,
    /// Used to name the operator of a late row.
    pub compiled: Arc<CompiledQuery>,
    /// The task's span, for the thread that computes.
    pub span: Span,
}

/// Result of a task.
pub struct Computed {
    pub report: TaskReport,
    pub overlay: Overlay,
    /// To be awaited: it may still be sending.
    pub sender: Sender,
}

impl Compute {
    /// Computes a source task, from records of the source.
    pub fn source(self, mut runtime: TaskRuntime, mut input: mpsc::Receiver<Input>) -> Result<Computed, TaskError> {
        let mut partitions: BTreeMap<SourcePartition, PartitionReport> = BTreeMap::new();
        let compiled = self.compiled.clone();
        let table = compiled.sources.iter().find(|table| Some(table.id) == self.source);
        let table = table.ok_or_else(|| TaskError::NotInQuery("a source without a table".into()))?;
        self.run(|router| {
            let mut emitted = Vec::new();
            loop {
                let received = timed(&mut router.metrics.wait_us, || input.blocking_recv());
                match received {
                    Some(Input::Chunk(partition, chunk)) => {
                        let report = partitions.entry(partition).or_default();
                        process(table, *chunk, &mut runtime, report, &mut emitted)?;
                        router.route(&mut emitted)?;
                        runtime.settle();
                        crash::point("executor_mid_read");
                    }
                    Some(Input::End) => break,
                    None => return Err(TaskError::Cancelled),
                }
            }
            router.check()?;
            let outcome = runtime.finish(&mut emitted)?;
            router.route(&mut emitted)?;
            Ok((partitions, outcome))
        })
    }

    /// Computes a shard task, from what other tasks have sent and the memory counted for it, on as many threads as
    /// there are `slots`. All slots but one are released before rows are sent and written.
    pub fn shards(
        self,
        lanes: Lanes,
        (input, held): (Vec<(EdgeId, ChangeBatch)>, Growth),
        mut slots: Vec<OwnedSemaphorePermit>,
    ) -> Result<Computed, TaskError> {
        self.run(move |router| {
            let (cancel, steps) = (router.cancel.clone(), router.steps.clone());
            let wanted = || {
                steps.step();
                !cancel.is_cancelled()
            };
            let done = lanes.run(input, slots.len(), &wanted)?;
            drop(held);
            slots.truncate(1);
            let Some((mut emitted, outcome)) = done else { return Err(TaskError::Cancelled) };
            router.route(&mut emitted)?;
            Ok((BTreeMap::new(), outcome))
        })
    }

    fn run(
        self,
        work: impl FnOnce(&mut Router<'_>) -> Result<(BTreeMap<SourcePartition, PartitionReport>, TaskOutcome), TaskError>,
    ) -> Result<Computed, TaskError> {
        let _entered = self.span.entered();
        let slots: Vec<(WriterPlan, Arc<Slot>)> =
            self.task.writers.iter().map(|plan| (*plan, self.writers.slot(*plan))).collect();
        let mut in_use = BTreeMap::new();
        for (plan, slot) in &slots {
            let held = self.published.contains(plan);
            in_use.insert(plan.sink, slot.begin(&self.writers, *plan, self.batch, self.attempt, held)?);
        }
        let labels = Labels { batch: self.batch, compiled: self.compiled };
        let mut router = Router {
            sender: self.sender,
            in_use,
            labels,
            cancel: &self.cancel,
            steps: &self.steps,
            metrics: TaskMetrics::default(),
        };
        let (partitions, mut outcome) = work(&mut router)?;
        outcome.overlay.settle();
        router.check()?;
        crash::point("executor_before_exchange_end");
        router.sender.end()?;
        crash::point("executor_before_flush");
        let writers = router.flush()?;
        crash::point("executor_after_flush");
        let TaskOutcome { overlay, state, operators, steps } = outcome;
        let metrics = TaskMetrics { steps, ..router.metrics };
        log(&metrics);
        let report = TaskReport { task: self.task.id, partitions, writers, state, operators, metrics };
        Ok(Computed { report, overlay, sender: router.sender })
    }
}

/// Routes the rows that a task emits.
struct Router<'a> {
    sender: Sender,
    in_use: BTreeMap<SinkId, InUse<'a>>,
    labels: Labels,
    cancel: &'a CancellationToken,
    steps: &'a Steps,
    metrics: TaskMetrics,
}

/// Labels of late rows.
struct Labels {
    batch: BatchId,
    compiled: Arc<CompiledQuery>,
}

impl Router<'_> {
    fn check(&self) -> Result<(), TaskError> {
        if self.cancel.is_cancelled() { Err(TaskError::Cancelled) } else { Ok(()) }
    }

    fn route(&mut self, emitted: &mut Vec<Emit>) -> Result<(), TaskError> {
        self.steps.step();
        let Self { sender, in_use, labels, steps, metrics, .. } = self;
        timed(&mut metrics.output_us, || route(sender, in_use, labels, steps, emitted))
    }

    /// Flushes all writers, and returns what each holds.
    fn flush(&mut self) -> Result<Vec<WriterReport>, TaskError> {
        let Self { in_use, steps, metrics, .. } = self;
        let flush = |writer: &mut InUse<'_>| {
            let report = writer.flush()?;
            steps.step();
            Ok(report)
        };
        timed(&mut metrics.output_us, || in_use.values_mut().map(flush).collect())
    }
}

/// Routes rows to their exchange or sink.
fn route(
    sender: &mut Sender,
    in_use: &mut BTreeMap<SinkId, InUse<'_>>,
    labels: &Labels,
    steps: &Steps,
    emitted: &mut Vec<Emit>,
) -> Result<(), TaskError> {
    for emit in emitted.drain(..) {
        steps.step();
        let (sink, rows) = match emit {
            Emit::Exchange { edge, shard, rows } => {
                sender.send(edge, shard, rows)?;
                continue;
            }
            Emit::Sink { sink, rows } => (sink, rows),
            Emit::Late { sink, late } => {
                let info = labels.compiled.dataflow.operators.iter().find(|info| info.id == late.operator);
                (sink, highwater_connector_api::sink::late_rows(&late, info, labels.batch)?)
            }
        };
        match in_use.get_mut(&sink) {
            Some(writer) => writer.write(&rows)?,
            None => return Err(TaskError::NotInQuery(format!("a writer of sink {sink}"))),
        }
    }
    Ok(())
}

/// Logs what each step of a task did, in the task's span.
fn log(metrics: &TaskMetrics) {
    for (pipeline, steps) in metrics.steps.iter().enumerate() {
        for (step, counters) in steps.iter().enumerate() {
            let StepMetrics { input_rows, output_rows, retracted_rows, time_us } = counters;
            tracing::debug!(pipeline, step, input_rows, output_rows, retracted_rows, time_us, "step");
        }
    }
    tracing::debug!(wait_us = metrics.wait_us, output_us = metrics.output_us, "task computed");
}

/// Processes a chunk, and emits its bad records as dead letters: those that do not decode, and those on which an expression
/// fails, each once.
fn process(
    table: &SourceTable,
    mut chunk: Chunk,
    runtime: &mut TaskRuntime,
    report: &mut PartitionReport,
    emitted: &mut Vec<Emit>,
) -> Result<(), TaskError> {
    let on_failure = OnFailure::of(&table.options.on_bad_record);
    let failed = runtime.push_source(chunk.batch.clone(), on_failure, emitted)?;
    for (row, error) in failed {
        let record = chunk.origins.bad(row, error.reason());
        if on_failure == OnFailure::Stop {
            return Err(TaskError::BadRecord { table: table.name.clone(), record: Box::new(record) });
        }
        chunk.bad.push(record);
    }
    add(report, &chunk);
    if let (Some(sink), false) = (table.dead_letters, chunk.bad.is_empty()) {
        crash::point("executor_dead_letters");
        let rows = highwater_connector_api::source::dead_letters(&chunk.bad)?;
        emitted.push(Emit::Sink { sink, rows });
    }
    Ok(())
}

fn add(report: &mut PartitionReport, chunk: &Chunk) {
    report.records += chunk.records;
    report.size_bytes += chunk.size_bytes;
    report.checksum = report.checksum.wrapping_add(chunk.checksum);
    report.max_watermark_ms = report.max_watermark_ms.max(chunk.max_watermark_ms);
    report.event_time = EventTimes::all([report.event_time, chunk.event_time].into_iter());
    report.max_timestamp_ms = report.max_timestamp_ms.max(chunk.max_timestamp_ms);
    report.bad_records += chunk.bad.len() as u64;
    report.absent = absent_from_both(report.absent.take(), chunk.absent.clone());
    if chunk.records > 0 {
        report.last_record = chunk.last_record;
    }
}
