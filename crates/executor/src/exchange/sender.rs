//! The sending side of one task: rows to the tasks that own their shards, here or on other executors.
//!
//! Owns: routing by shard, encoding, one call per receiving executor. Invariants: rows for a task on this executor are
//! never encoded; every receiving task gets an end marker from this task for every edge, even without rows; queues are
//! bounded, so a slow receiver slows the sender.

use super::call::Call;
use super::{AttemptInboxes, Stream};
use crate::error::TaskError;
use arrow_ipc::writer::StreamWriter;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::{Dataflow, PipelineOutput};
use highwater_proto::v1::PushBatchesRequest;
use highwater_proto::{MAX_MESSAGE_BYTES, convert};
use highwater_protocol::ids::{AttemptId, BatchId, EdgeId, ExecutorId, QueryId, ShardId, TaskId};
use highwater_protocol::plan::{BatchPlan, TaskWork};
use highwater_security::credentials::Authenticated;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Upper bound of the size of a message without its rows.
const ENVELOPE_BYTES: usize = 1024;

/// Where the tasks of an attempt run.
#[derive(Clone, Debug)]
pub struct Placement {
    pub me: ExecutorId,
    /// Executor and the address of its exchange service, per task.
    pub tasks: BTreeMap<TaskId, (ExecutorId, String)>,
}

/// A receiving task and its shards.
#[derive(Clone, Copy, Debug)]
struct Receiver {
    task: TaskId,
    first: ShardId,
    end: ShardId,
}

/// Rows and messages sent so far to one task over one edge.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    rows: u64,
    messages: u64,
}

/// Sends the rows of one task. Used on a blocking thread, then finished on an async one.
pub struct Sender {
    query: QueryId,
    attempt: AttemptId,
    batch: BatchId,
    from: TaskId,
    local: Arc<AttemptInboxes>,
    receivers: BTreeMap<EdgeId, Vec<Receiver>>,
    /// The executor of each receiving task that does not run here.
    remote: BTreeMap<TaskId, ExecutorId>,
    calls: BTreeMap<ExecutorId, Call>,
    sent: BTreeMap<(EdgeId, TaskId), Sent>,
}

/// Returns the streams that task `to` receives: an edge and a sending task each.
pub fn streams_into(dataflow: &Dataflow, plan: &BatchPlan, to: TaskId) -> BTreeSet<Stream> {
    let Some(task) = plan.tasks.get(to.0 as usize) else { return BTreeSet::new() };
    let Some(stage) = dataflow.stages.get(task.stage.0 as usize) else { return BTreeSet::new() };
    let edges = stage.input_edges();
    let senders = |edge: EdgeId| {
        dataflow.producers(edge).flat_map(|stage| plan.tasks_of(stage.id)).map(move |sender| (edge, sender.id))
    };
    edges.into_iter().flat_map(senders).collect()
}

impl Sender {
    /// `connect` returns the channel to an address; tasks share channels.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        query: QueryId,
        attempt: AttemptId,
        plan: &BatchPlan,
        dataflow: &Dataflow,
        from: TaskId,
        placement: &Placement,
        local: Arc<AttemptInboxes>,
        connect: &dyn Fn(&str) -> Result<Authenticated, TaskError>,
    ) -> Result<Self, TaskError> {
        let mut sender = Self {
            query,
            attempt,
            batch: plan.batch,
            from,
            local,
            receivers: BTreeMap::new(),
            remote: BTreeMap::new(),
            calls: BTreeMap::new(),
            sent: BTreeMap::new(),
        };
        let stage = plan.tasks.get(from.0 as usize).and_then(|task| dataflow.stages.get(task.stage.0 as usize));
        let edges = stage.iter().flat_map(|stage| &stage.pipelines).filter_map(|pipeline| match pipeline.output {
            PipelineOutput::Exchange(edge) => Some(edge),
            PipelineOutput::Sink(_) => None,
        });
        for edge in edges.collect::<BTreeSet<_>>() {
            let Some(consumer) = dataflow.consumer(edge) else { continue };
            for task in plan.tasks_of(consumer.id) {
                let TaskWork::Shards { first, end } = task.work else { continue };
                sender.receivers.entry(edge).or_default().push(Receiver { task: task.id, first, end });
                let (executor, address) = placement
                    .tasks
                    .get(&task.id)
                    .ok_or_else(|| TaskError::NotInQuery(format!("a placement of task {}", task.id)))?;
                if *executor == placement.me {
                    continue;
                }
                if !sender.calls.contains_key(executor) {
                    sender.calls.insert(*executor, Call::open(connect(address)?, *executor, address));
                }
                sender.remote.insert(task.id, *executor);
            }
        }
        Ok(sender)
    }

    /// Routes rows of one shard to the task that owns it. Blocks while the receiver is behind.
    pub fn send(&mut self, edge: EdgeId, shard: ShardId, rows: ChangeBatch) -> Result<(), TaskError> {
        let receivers = self.receivers.get(&edge).map_or(&[][..], Vec::as_slice);
        let to = receivers
            .iter()
            .find(|receiver| receiver.first <= shard && shard < receiver.end)
            .map(|receiver| receiver.task)
            .ok_or_else(|| TaskError::NotInQuery(format!("a task for shard {shard} of edge {edge}")))?;
        let sent = self.sent.entry((edge, to)).or_default();
        sent.rows += rows.num_rows() as u64;
        if !self.remote.contains_key(&to) {
            return self.local.push(to, (edge, self.from), rows);
        }
        let sequence = sent.messages;
        sent.messages += 1;
        let ipc = encode(rows)?;
        // Batches are split into parts far smaller than that, unless they are a single row.
        if ipc.len() + ENVELOPE_BYTES > MAX_MESSAGE_BYTES {
            return Err(TaskError::RowTooLarge { bytes: ipc.len() });
        }
        self.post(self.message(edge, to, sequence, ipc, None))
    }

    fn post(&mut self, message: PushBatchesRequest) -> Result<(), TaskError> {
        let call = self.remote.get(&TaskId(message.to_task)).and_then(|executor| self.calls.get_mut(executor));
        call.ok_or_else(|| TaskError::NotInQuery(format!("a call for task {}", message.to_task)))?.send(message)
    }

    fn message(
        &self,
        edge: EdgeId,
        to: TaskId,
        sequence: u64,
        ipc: Vec<u8>,
        end_rows: Option<u64>,
    ) -> PushBatchesRequest {
        PushBatchesRequest {
            query_id: self.query.to_string(),
            attempt: Some(convert::attempt_to_proto(self.attempt, self.batch)),
            edge_id: edge.0,
            from_task: self.from.0,
            to_task: to.0,
            sequence,
            arrow_ipc: ipc.into(),
            end_rows,
        }
    }

    /// Sends the end marker to every receiver. Blocks like [`Sender::send`].
    pub fn end(&mut self) -> Result<(), TaskError> {
        let receivers = std::mem::take(&mut self.receivers);
        for (edge, to) in receivers.iter().flat_map(|(edge, all)| all.iter().map(|receiver| (*edge, receiver.task))) {
            let sent = self.sent.get(&(edge, to)).copied().unwrap_or_default();
            if self.remote.contains_key(&to) {
                self.post(self.message(edge, to, sent.messages, Vec::new(), Some(sent.rows)))?;
            } else {
                self.local.end(to, (edge, self.from), sent.rows)?;
            }
        }
        Ok(())
    }

    /// Waits until the other executors have taken all rows.
    pub async fn finish(mut self) -> Result<(), TaskError> {
        futures::future::try_join_all(self.calls.values_mut().map(Call::finish)).await.map(drop)
    }
}

fn encode(rows: ChangeBatch) -> Result<Vec<u8>, TaskError> {
    let batch = rows.into_wire()?;
    let failed = |error: arrow::error::ArrowError| TaskError::Engine(error.into());
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    writer.into_inner().map_err(failed)
}
