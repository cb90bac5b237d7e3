//! Runs one task over shards on several threads: each lane has some of the task's shards, and their rows.
//!
//! Owns: the number of a task's lanes, routing rows to them, and merging their outcomes. Does not own: the number of
//! threads (the executor). Invariant: the outcome does not depend on the number of threads. It does depend on the number
//! of lanes, which changes the order of rows, and so the state of later stages. So that number is a function of rows and
//! state alone, and is the same when a batch is repeated.

use super::exchange::Router;
use super::{BatchContext, Emit, TaskOutcome, TaskRuntime, add};
use crate::Dataflow;
use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use crate::state::{Overlay, TaskState};
use highwater_protocol::ids::{EdgeId, OperatorId, ShardId, SinkId, StageId};
use highwater_protocol::metrics::add_steps;
use highwater_protocol::parallel::in_parallel;
use highwater_protocol::report::{OperatorMetrics, StateDelta};
use std::collections::BTreeMap;
use std::ops::Range;

type Input = Vec<(EdgeId, ChangeBatch)>;

/// Rows and entries of state per lane; fewer are not worth another one.
const ENTRIES_OF_A_LANE: usize = 10_000;
/// Most lanes of a task.
const MAX_LANES: usize = 16;

/// Returns the number of lanes of a task with this state and input.
pub fn lanes_of(state: &TaskState, input: &[(EdgeId, ChangeBatch)]) -> usize {
    let entries = state.entries() + input.iter().map(|(_, rows)| rows.num_rows()).sum::<usize>();
    (entries / ENTRIES_OF_A_LANE).clamp(1, MAX_LANES)
}

/// A task with all its lanes.
pub struct Lanes {
    runtimes: Vec<TaskRuntime>,
    /// Routers of rows to lanes, by edge; empty if there is only one lane.
    routers: BTreeMap<EdgeId, Router>,
    firsts: Vec<ShardId>,
    /// Shards of the whole task.
    shards: Range<ShardId>,
}

impl Lanes {
    /// Returns a task with `wanted` lanes, or with one for each shard if those are fewer. `sinks` has names for messages.
    pub fn new(
        dataflow: &Dataflow,
        sinks: &BTreeMap<SinkId, String>,
        stage: StageId,
        context: &BatchContext,
        state: TaskState,
        wanted: usize,
    ) -> Result<Self, EngineError> {
        let shards = state.range();
        let states = state.split(wanted);
        let ranges = states.iter().map(TaskState::range).filter(|range| range.start < range.end);
        let firsts: Vec<ShardId> = ranges.map(|range| range.start).collect();
        let runtime = |state| TaskRuntime::new(dataflow, sinks, stage, context, state);
        let runtimes = states.into_iter().map(runtime).collect::<Result<Vec<_>, _>>()?;
        let stage = dataflow.stages.get(stage.0 as usize).filter(|_| firsts.len() > 1);
        let edges = stage.map(|stage| stage.input_edges()).unwrap_or_default();
        let router = |edge: EdgeId| {
            let spec = dataflow.edges.get(edge.0 as usize).ok_or(EngineError::UnknownEdge(edge))?;
            Ok((edge, Router::to(spec, context.shards, firsts.clone())?))
        };
        let routers = edges.into_iter().map(router).collect::<Result<_, EngineError>>()?;
        Ok(Self { runtimes, routers, firsts, shards })
    }

    pub fn count(&self) -> usize {
        self.runtimes.len()
    }

    /// Runs the task on all of its input, in order, on `threads` threads. `None`: `wanted` has returned false meanwhile,
    /// since the attempt was abandoned.
    pub fn run(
        self,
        input: Input,
        threads: usize,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<(Vec<Emit>, TaskOutcome)>, EngineError> {
        let inputs = match self.runtimes.len() {
            1 => vec![input],
            _ => self.spread(input, threads)?,
        };
        let Self { runtimes, shards, .. } = self;
        let run = |(runtime, input): (TaskRuntime, Input)| run_lane(runtime, input, wanted);
        let done = in_parallel(runtimes.into_iter().zip(inputs).collect(), threads, run)?;
        let Some(done) = done.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        Ok(Some(merged(done, &shards)))
    }

    /// Returns the rows of each lane, in the order of the input.
    fn spread(&self, input: Input, threads: usize) -> Result<Vec<Input>, EngineError> {
        let (routers, firsts) = (&self.routers, &self.firsts);
        let size = input.len().div_ceil(firsts.len()).max(1);
        let mut rest = input.into_iter();
        let parts: Vec<Input> = firsts.iter().map(|_| rest.by_ref().take(size).collect()).collect();
        let spread = in_parallel(parts, threads, |part| {
            let mut lanes: Vec<Input> = vec![Vec::new(); firsts.len()];
            let mut routed = Vec::new();
            for (edge, rows) in part {
                let router = routers.get(&edge).ok_or(EngineError::UnknownEdge(edge))?;
                router.route(&rows, &mut routed)?;
                for emit in routed.drain(..) {
                    let Emit::Exchange { edge, shard, rows } = emit else { continue };
                    let lane = firsts.partition_point(|first| *first <= shard).saturating_sub(1);
                    lanes[lane].push((edge, rows));
                }
            }
            Ok::<_, EngineError>(lanes)
        })?;
        let mut lanes: Vec<Input> = vec![Vec::new(); firsts.len()];
        for part in spread {
            lanes.iter_mut().zip(part).for_each(|(lane, more)| lane.extend(more));
        }
        Ok(lanes)
    }
}

/// Runs one lane; `None` if `wanted` has returned false meanwhile.
fn run_lane(
    mut runtime: TaskRuntime,
    input: Input,
    wanted: &(dyn Fn() -> bool + Sync),
) -> Result<Option<(Vec<Emit>, TaskOutcome)>, EngineError> {
    let mut emitted = Vec::new();
    for (edge, rows) in input {
        if !wanted() {
            return Ok(None);
        }
        runtime.push_edge(edge, rows, &mut emitted)?;
    }
    let outcome = runtime.finish(&mut emitted)?;
    Ok(Some((emitted, outcome)))
}

/// Merges the outcomes of all lanes into one for all shards of the task.
fn merged(done: Vec<(Vec<Emit>, TaskOutcome)>, shards: &Range<ShardId>) -> (Vec<Emit>, TaskOutcome) {
    let mut emitted = Vec::new();
    let mut overlay = Overlay::default();
    let mut state: BTreeMap<OperatorId, StateDelta> = BTreeMap::new();
    let mut operators: BTreeMap<OperatorId, OperatorMetrics> = BTreeMap::new();
    let mut steps = Vec::new();
    for (rows, outcome) in done {
        emitted.extend(rows);
        overlay.extend(outcome.overlay);
        for mut delta in outcome.state {
            (delta.first_shard, delta.end_shard) = (shards.start, shards.end);
            match state.get_mut(&delta.operator) {
                Some(before) => before.append(&delta),
                None => drop(state.insert(delta.operator, delta)),
            }
        }
        for metrics in outcome.operators {
            add(operators.entry(metrics.operator).or_default(), metrics);
        }
        add_steps(&mut steps, &outcome.steps);
    }
    let (state, operators) = (state.into_values().collect(), operators.into_values().collect());
    (emitted, TaskOutcome { overlay, state, operators, steps })
}
