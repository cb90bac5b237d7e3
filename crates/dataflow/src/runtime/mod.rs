//! Runs one task of one micro-batch of a dataflow.
//!
//! Owns: the operators of a task and the order in which rows go through them. Does not own: the source of input and
//! the destination of output (the executor), state between batches (`state`).
//! Invariants: output is a function of plan, state and input in its given order; nothing waits, and clocks are read only
//! for counters; late rows are counted, never silently dropped.

pub mod changes;
pub mod exchange;
mod failing;
pub mod keyed;
pub mod keyed_state;
pub mod keys;
mod lanes;
pub mod late;
pub mod operator;
pub mod pipeline;
pub mod portions;
mod profile;
mod row_check;
pub mod split;
pub mod state_reader;
pub mod stateful;
pub mod stored_row;
mod ttl;

pub use failing::{FailedRows, OnFailure, apply_to_good};
pub use keyed::Keyed;
pub use keyed_state::KeyedState;
pub use keys::shard_of;
pub use lanes::{Lanes, lanes_of};
pub use late::LateRows;
pub use pipeline::{batch, evaluate};
pub use profile::Clock;
pub use stateful::{Counts, Keeps, Stateful};

use crate::changelog::ChangeBatch;
use crate::error::{EngineError, Fault};
use crate::state::{Overlay, TaskState};
use crate::{CLOCK, Dataflow, PipelineInput, PipelineOutput, Upstream};
use arrow::array::RecordBatch;
use exchange::Router;
use highwater_protocol::files::FileVersions;
use highwater_protocol::ids::{BatchId, EdgeId, OperatorId, ShardId, SinkId, SourceId, StageId};
use highwater_protocol::metrics::StepMetrics;
use highwater_protocol::plan::{BatchPlan, TaskWork};
use highwater_protocol::report::{OperatorMetrics, StateDelta};
use pipeline::Chain;
use profile::Profile;
use std::collections::BTreeMap;

/// The facts that all tasks of a micro-batch share.
#[derive(Clone, Debug, Default)]
pub struct BatchContext {
    pub batch: BatchId,
    /// The result of `now()`, in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// By source: rows of windows ending at or before this time are late. Without an entry no row is.
    pub late_before: BTreeMap<SourceId, i64>,
    /// By source: windows ending at or before this time close at the end of the batch.
    pub close_before: BTreeMap<SourceId, i64>,
    /// Number of shards of the query.
    pub shards: u16,
    /// First shard of every task that receives from an edge, ascending.
    pub receivers: BTreeMap<EdgeId, Vec<ShardId>>,
    /// `state_ttl` by operator, in milliseconds; state of operators without an entry does not expire.
    pub ttl: BTreeMap<OperatorId, i64>,
    /// Versions of the files that rows look up, which are loaded already.
    pub files: FileVersions,
    /// Measures where time goes; nothing else depends on it.
    pub clock: Clock,
}

impl BatchContext {
    pub fn of(plan: &BatchPlan, dataflow: &Dataflow, shards: u16) -> Self {
        let receivers = dataflow.edges.iter().filter_map(|edge| {
            let consumer = dataflow.consumer(edge.id)?;
            let first = |work: &TaskWork| match work {
                TaskWork::Shards { first, .. } => Some(*first),
                TaskWork::Source { .. } => None,
            };
            let mut firsts: Vec<ShardId> = plan.tasks_of(consumer.id).filter_map(|task| first(&task.work)).collect();
            firsts.sort_unstable();
            Some((edge.id, firsts))
        });
        Self {
            batch: plan.batch,
            timestamp_ms: plan.timestamp_ms,
            late_before: plan.late_before.clone(),
            // Rows of this and later batches have this timestamp or a later one, so windows that end by then close.
            close_before: plan
                .close_before
                .iter()
                .map(|(id, time)| (*id, *time))
                .chain([(CLOCK, plan.timestamp_ms)])
                .collect(),
            shards,
            receivers: receivers.collect(),
            ttl: dataflow.operators.iter().filter_map(|info| Some((info.id, info.ttl_ms?))).collect(),
            files: plan.files.clone(),
            clock: Clock::default(),
        }
    }

    /// Returns for each operator with a watermark the times at or before which rows are late, and keys close, in
    /// milliseconds; `None` = no row is late, or no key closes.
    pub fn watermarks(&self, dataflow: &Dataflow) -> BTreeMap<OperatorId, [Option<i64>; 2]> {
        let ops = dataflow.stages.iter().flat_map(|stage| &stage.pipelines).flat_map(|pipeline| &pipeline.ops);
        let of = |(id, upstream)| (id, [&self.late_before, &self.close_before].map(|all| Self::least(all, upstream)));
        ops.filter_map(|op| op.watermark()).map(of).collect()
    }

    /// Returns the watermark of an operator in milliseconds: the lowest of its sources; `None` until all have one.
    pub fn least(watermarks: &BTreeMap<SourceId, i64>, upstream: &[Upstream]) -> Option<i64> {
        let of = |upstream: &Upstream| Some(watermarks.get(&upstream.source)?.saturating_sub(upstream.delay_ms));
        upstream.iter().map(of).min().flatten()
    }
}

/// Rows that leave a task.
#[derive(Debug)]
pub enum Emit {
    /// Rows for the task that owns this shard; all of them belong to that task's shards.
    Exchange {
        edge: EdgeId,
        shard: ShardId,
        rows: ChangeBatch,
    },
    Sink {
        sink: SinkId,
        rows: ChangeBatch,
    },
    /// Rows that an operator dropped as late, for their sink.
    Late {
        sink: SinkId,
        late: LateRows,
    },
}

/// The result of a task besides its rows.
#[derive(Debug)]
pub struct TaskOutcome {
    /// State changes, to be kept on this executor.
    pub overlay: Overlay,
    /// The same changes, for the checkpoint.
    pub state: Vec<StateDelta>,
    pub operators: Vec<OperatorMetrics>,
    /// Counters by pipeline, then by step.
    pub steps: Vec<Vec<StepMetrics>>,
}

/// A running task.
pub struct TaskRuntime {
    pipelines: Vec<RunningPipeline>,
    state: TaskState,
}

struct RunningPipeline {
    inputs: Vec<PipelineInput>,
    late: Vec<Option<SinkId>>,
    chain: Chain,
    output: Output,
}

enum Output {
    Exchange(Router),
    Sink(SinkId),
}

impl TaskRuntime {
    /// Starts a task. `sinks` has the sinks' names, for messages.
    pub fn new(
        dataflow: &Dataflow,
        sinks: &BTreeMap<SinkId, String>,
        stage: StageId,
        context: &BatchContext,
        state: TaskState,
    ) -> Result<Self, EngineError> {
        let stage = dataflow.stages.get(stage.0 as usize).ok_or(Fault::NoStage(stage))?;
        let mut pipelines = Vec::with_capacity(stage.pipelines.len());
        for pipeline in &stage.pipelines {
            let (output, name) = match pipeline.output {
                PipelineOutput::Sink(sink) => (Output::Sink(sink), sinks.get(&sink).cloned().unwrap_or_default()),
                PipelineOutput::Exchange(edge) => {
                    let spec = dataflow.edges.get(edge.0 as usize).ok_or(EngineError::UnknownEdge(edge))?;
                    (Output::Exchange(Router::new(spec, context)?), String::new())
                }
            };
            let mut chain = Chain::new(&pipeline.ops, context, &name)?;
            let late = pipeline.late.clone();
            if !late.is_empty() {
                chain.want_late(&late.iter().map(Option::is_some).collect::<Vec<_>>());
            }
            pipelines.push(RunningPipeline { inputs: pipeline.inputs.clone(), late, chain, output });
        }
        Ok(Self { pipelines, state })
    }

    /// Processes decoded records of the stage's source. Returns the rows on which an expression fails between the source
    /// and the first exchange, sink or operator with state. Such a row is left out of the pipelines where it fails, and of no
    /// other; under [`OnFailure::Stop`] only the first is returned, and the task must not go on.
    pub fn push_source(
        &mut self,
        rows: RecordBatch,
        on_failure: OnFailure,
        out: &mut Vec<Emit>,
    ) -> Result<FailedRows, EngineError> {
        let rows = ChangeBatch::inserts(rows);
        let mut failed = FailedRows::new();
        for pipeline in &mut self.pipelines {
            let RunningPipeline { inputs, chain, output, .. } = &mut *pipeline;
            let ports = inputs.iter().enumerate().filter(|(_, input)| **input == PipelineInput::Source);
            for (port, _) in ports {
                let mut done = Vec::new();
                let push = &mut |rows| chain.push_all_or_none(port, rows, &mut self.state, &mut done);
                if !apply_to_good(&rows, on_failure, &mut failed, push)? {
                    return Ok(failed);
                }
                output.route(&mut chain.profile, done, out)?;
            }
            pipeline.lead_late(out);
        }
        Ok(failed)
    }

    /// Processes rows that have come over an edge.
    pub fn push_edge(&mut self, edge: EdgeId, rows: ChangeBatch, out: &mut Vec<Emit>) -> Result<(), EngineError> {
        if !self.pipelines.iter().any(|pipeline| pipeline.inputs.contains(&PipelineInput::Edge(edge))) {
            return Err(EngineError::UnknownEdge(edge));
        }
        let input = PipelineInput::Edge(edge);
        for pipeline in &mut self.pipelines {
            let ports = pipeline.inputs.iter().enumerate().filter(|(_, mine)| **mine == input);
            for (port, _) in ports {
                let mut done = Vec::new();
                pipeline.chain.push(port, rows.clone(), &mut self.state, &mut done)?;
                pipeline.output.route(&mut pipeline.chain.profile, done, out)?;
            }
            pipeline.lead_late(out);
        }
        Ok(())
    }

    /// Stops counting the memory of rows emitted so far, since they have been handed on.
    pub fn settle(&mut self) {
        self.state.settle();
    }

    /// Completes the input: aggregates emit their rows, windows close, changelogs are consolidated.
    pub fn finish(mut self, out: &mut Vec<Emit>) -> Result<TaskOutcome, EngineError> {
        let mut operators: BTreeMap<OperatorId, OperatorMetrics> = BTreeMap::new();
        for pipeline in &mut self.pipelines {
            let mut done = Vec::new();
            let finished = pipeline.chain.finish(&mut self.state, &mut done);
            // Exceeded memory is checked first, since it is the cause of errors that follow.
            self.state.check()?;
            finished?;
            pipeline.output.route(&mut pipeline.chain.profile, done, out)?;
            pipeline.lead_late(out);
            for metrics in pipeline.chain.metrics(&self.state) {
                add(operators.entry(metrics.operator).or_default(), metrics);
            }
        }
        let steps = self.pipelines.iter().map(|pipeline| pipeline.chain.steps()).collect();
        let (overlay, state) = self.state.finish();
        Ok(TaskOutcome { overlay, state, operators: operators.into_values().collect(), steps })
    }
}

impl RunningPipeline {
    /// Emits late rows for their sinks.
    fn lead_late(&mut self, out: &mut Vec<Emit>) {
        if self.late.is_empty() {
            return;
        }
        // Late rows of later operators may come from any input; they go to the first sink.
        let any = self.late.iter().flatten().next().copied();
        for (place, input, late) in self.chain.take_late() {
            let sink = if place == 0 { self.late.get(input).copied().flatten() } else { any };
            out.extend(sink.map(|sink| Emit::Late { sink, late }));
        }
    }
}

impl Output {
    /// Emits rows; the time counts for the output's step.
    fn route(&mut self, profile: &mut Profile, rows: Vec<ChangeBatch>, out: &mut Vec<Emit>) -> Result<(), EngineError> {
        let outer = profile.enter(profile.output());
        let routed = self.hand_on(rows, out);
        profile.leave(outer);
        routed
    }

    fn hand_on(&mut self, rows: Vec<ChangeBatch>, out: &mut Vec<Emit>) -> Result<(), EngineError> {
        for rows in rows.into_iter().filter(|rows| rows.num_rows() > 0) {
            match self {
                Output::Sink(sink) => out.push(Emit::Sink { sink: *sink, rows }),
                Output::Exchange(router) => router.route(&rows, out)?,
            }
        }
        Ok(())
    }
}

fn add(sum: &mut OperatorMetrics, more: OperatorMetrics) {
    sum.operator = more.operator;
    sum.state_rows += more.state_rows;
    sum.state_bytes += more.state_bytes;
    sum.rows_updated += more.rows_updated;
    sum.rows_removed += more.rows_removed;
    sum.late_rows += more.late_rows;
    sum.expired_rows += more.expired_rows;
    sum.ignored_rows += more.ignored_rows;
    sum.key_conflicts.append(more.key_conflicts);
}
