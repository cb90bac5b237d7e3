//! One task attempt: waits for its input and a slot, computes, and sends large state deltas to the driver.
//!
//! Owns: the asynchronous half. Does not own: computing (`compute`). Invariant: a task that waits for other tasks holds
//! no slot, so tasks that wait for each other cannot starve each other.

use crate::Shared;
use crate::channels::DriverClient;
use crate::compute::{Compute, Computed, Input};
use crate::error::TaskError;
use crate::exchange::AttemptInboxes;
use crate::exchange::sender::{Placement, Sender};
use crate::restore;
use crate::snapshots::Snapshots;
use crate::sources::Sources;
use crate::steps::Steps;
use crate::stopwatch::CLOCK;
use crate::writers::Writers;
use highwater_crash as crash;
use highwater_dataflow::runtime::{BatchContext, Lanes, TaskRuntime, lanes_of};
use highwater_dataflow::state::{Overlay, QueryState, TaskState};
use highwater_planner::CompiledQuery;
use highwater_protocol::ids::{AttemptId, QueryId, RunId, ShardId, SinkId, SourceId};
use highwater_protocol::offsets::Ranges;
use highwater_protocol::plan::{BatchPlan, TaskPlan, TaskWork, WriterPlan};
use highwater_protocol::report::TaskReport;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

/// Number of chunks read ahead of the computation.
const INPUT_QUEUE: usize = 2;
/// How often a task that waits for a slot counts a step.
const STEP_WHILE_WAITING: Duration = Duration::from_secs(5);

/// What the tasks of one attempt share. Cheap to clone.
#[derive(Clone)]
pub struct TaskContext {
    pub shared: Shared,
    pub query: QueryId,
    pub run: RunId,
    pub attempt: AttemptId,
    pub plan: Arc<BatchPlan>,
    pub placement: Arc<Placement>,
    pub published: Arc<BTreeSet<WriterPlan>>,
    pub compiled: Arc<CompiledQuery>,
    pub sources: Arc<Sources>,
    pub writers: Arc<Writers>,
    pub state: Arc<QueryState>,
    pub inboxes: Arc<AttemptInboxes>,
    pub client: DriverClient,
    pub snapshots: Arc<Snapshots>,
    pub cancel: CancellationToken,
    /// Steps of this task; everything else is shared by the tasks of the attempt.
    pub steps: Steps,
}

/// A completed task: its rows are exchanged and flushed, its state changes not yet promoted.
pub struct Done {
    pub report: TaskReport,
    pub overlay: Overlay,
    /// Says for each state delta whether the driver has it already.
    pub uploaded: Vec<bool>,
}

/// Runs one task to its end, or until the attempt is dropped.
pub async fn run(context: TaskContext, task: TaskPlan) -> Result<Done, TaskError> {
    let cancel = context.cancel.clone();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(TaskError::Cancelled),
        done = run_to_end(context, task) => done,
    }
}

async fn run_to_end(mut context: TaskContext, task: TaskPlan) -> Result<Done, TaskError> {
    let id = task.id;
    context.snapshots.load(&context.compiled, &context.plan.files, &context.client, &context.steps).await?;
    let mut computed = match &task.work {
        TaskWork::Source { source, ranges } => {
            let (source, ranges) = (*source, ranges.clone());
            from_source(&context, task, source, ranges).await?
        }
        TaskWork::Shards { first, end } => {
            let (first, end) = (*first, *end);
            from_shards(&context, task, first, end).await?
        }
    };
    let uploaded = restore::upload(
        &mut context.client,
        (context.query, context.run),
        context.attempt,
        context.plan.batch,
        id,
        &mut computed.report.state,
    )
    .await?;
    computed.sender.finish().await?;
    crash::point("executor_before_task_done");
    Ok(Done { report: computed.report, overlay: computed.overlay, uploaded })
}

async fn from_source(
    context: &TaskContext,
    task: TaskPlan,
    source: SourceId,
    ranges: Ranges,
) -> Result<Computed, TaskError> {
    let reader = context.sources.reader(source).ok_or_else(|| TaskError::NotInQuery(format!("source {source}")))?;
    let id = task.id;
    let permit = slot(context).await?;
    let (batch, names, state) = parts(context, &task, 0..0)?;
    let runtime = TaskRuntime::new(&context.compiled.dataflow, &names, task.stage, &batch, state)?;
    let compute = compute(context, task)?;
    let (sender, input) = mpsc::channel(INPUT_QUEUE);
    let computing = tokio::task::spawn_blocking(move || {
        let _slot = permit;
        compute.source(runtime, input)
    });
    let feeding = async {
        for (partition, range) in &ranges {
            let mut read = reader.read(&partition.tp, *range);
            while let Some(chunk) = read.next().await? {
                if sender.send(Input::Chunk(partition.clone(), Box::new(chunk))).await.is_err() {
                    return Ok(());
                }
            }
        }
        // If the receiver is gone, the computation has failed and returns its own error.
        let _ = sender.send(Input::End).await;
        Ok::<(), TaskError>(())
    };
    let fed = feeding.await;
    drop(sender);
    let computed = computing.await.map_err(|error| TaskError::panicked(id, error))?;
    fed.and(computed)
}

async fn from_shards(
    context: &TaskContext,
    task: TaskPlan,
    first: ShardId,
    end: ShardId,
) -> Result<Computed, TaskError> {
    let id = task.id;
    let (input, held) = context.inboxes.take(id).await?;
    let slots = &context.shared.slots;
    let mut permits = vec![slot(context).await?];
    let (batch, names, state) = parts(context, &task, first.0..end.0)?;
    let count = lanes_of(&state, &input);
    let lanes = Lanes::new(&context.compiled.dataflow, &names, task.stage, &batch, state, count)?;
    // More slots are used if they are free.
    while permits.len() < lanes.count()
        && let Ok(more) = slots.clone().try_acquire_owned()
    {
        permits.push(more);
    }
    let compute = compute(context, task)?;
    let computing = tokio::task::spawn_blocking(move || compute.shards(lanes, (input, held), permits));
    computing.await.map_err(|error| TaskError::panicked(id, error))?
}

/// Waits for a slot. Counts steps meanwhile, since waiting while others compute is not a standstill.
async fn slot(context: &TaskContext) -> Result<OwnedSemaphorePermit, TaskError> {
    let permit = context.shared.slots.clone().acquire_owned();
    tokio::pin!(permit);
    loop {
        match tokio::time::timeout(STEP_WHILE_WAITING, &mut permit).await {
            Ok(permit) => return permit.map_err(|_| TaskError::Cancelled),
            Err(_) => context.steps.step(),
        }
    }
}

/// Returns what a runtime is built from: the batch, the names of sinks, the task's state.
fn parts(
    context: &TaskContext,
    task: &TaskPlan,
    shards: std::ops::Range<u16>,
) -> Result<(BatchContext, BTreeMap<SinkId, String>, TaskState), TaskError> {
    let compiled = &context.compiled;
    let names = compiled.sinks.iter().map(|table| (table.id, table.name.clone())).collect();
    let state = context.state.task(task.stage, shards)?;
    let batch = BatchContext::of(&context.plan, &compiled.dataflow, compiled.options.shards);
    Ok((BatchContext { clock: CLOCK, ..batch }, names, state))
}

fn compute(context: &TaskContext, task: TaskPlan) -> Result<Compute, TaskError> {
    let compiled = &context.compiled;
    let source = match &task.work {
        TaskWork::Source { source, .. } => Some(*source),
        TaskWork::Shards { .. } => None,
    };
    let channels = context.shared.channels.clone();
    let sender = Sender::new(
        context.query,
        context.attempt,
        &context.plan,
        &compiled.dataflow,
        task.id,
        &context.placement,
        context.inboxes.clone(),
        &|address| channels.get(address),
    )?;
    Ok(Compute {
        task,
        attempt: context.attempt,
        batch: context.plan.batch,
        sender,
        writers: context.writers.clone(),
        published: (*context.published).clone(),
        cancel: context.cancel.clone(),
        steps: context.steps.clone(),
        source,
        compiled: compiled.clone(),
        span: tracing::Span::current(),
    })
}
