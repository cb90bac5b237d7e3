//! Parses a RunTasks command: this executor's share of an attempt.
//!
//! Owns: reading the command. Does not own: running it (`worker`, `task`).

use crate::exchange::Stream;
use crate::exchange::sender::{Placement, streams_into};
use highwater_dataflow::Dataflow;
use highwater_proto::{convert, v1};
use highwater_protocol::ids::{AttemptId, BatchId, ExecutorId, ShardId, SinkId, TaskId, WriterId};
use highwater_protocol::participant::RunCommand;
use highwater_protocol::plan::{BatchPlan, TaskPlan, TaskWork, WriterPlan};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tonic::Status;

/// One attempt, from this executor's point of view.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub id: AttemptId,
    pub plan: Arc<BatchPlan>,
    pub placement: Arc<Placement>,
    pub published: Arc<BTreeSet<WriterPlan>>,
    base: Option<BatchId>,
}

impl Attempt {
    pub fn parse(me: ExecutorId, message: v1::RunTasks) -> Result<Self, Status> {
        let (id, batch) = convert::attempt(message.attempt)?;
        let plan = convert::plan_from_bytes(&message.plan)?;
        if plan.batch != batch {
            return Err(Status::invalid_argument(format!(
                "the attempt is of batch {batch}, but its plan is of batch {}",
                plan.batch
            )));
        }
        let mut tasks = BTreeMap::new();
        for placed in message.placements {
            tasks.insert(TaskId(placed.task_id), (convert::executor_id(&placed.executor_id)?, placed.address));
        }
        let published = message.published.iter().map(writer).collect();
        Ok(Self {
            id,
            plan: Arc::new(plan),
            placement: Arc::new(Placement { me, tasks }),
            published: Arc::new(published),
            base: message.base_batch_id.map(BatchId),
        })
    }

    /// The tasks that run here.
    pub fn mine(&self) -> impl Iterator<Item = &TaskPlan> {
        let is_mine = |task: &&TaskPlan| {
            self.placement.tasks.get(&task.id).is_some_and(|(executor, _)| *executor == self.placement.me)
        };
        self.plan.tasks.iter().filter(is_mine)
    }

    /// Returns the command for the participant.
    pub fn command(&self) -> RunCommand {
        let shards = self.mine().filter_map(|task| match task.work {
            TaskWork::Shards { first, end } => Some((first.0..end.0).map(ShardId)),
            TaskWork::Source { .. } => None,
        });
        RunCommand {
            attempt: self.id,
            batch: self.plan.batch,
            base: self.base,
            tasks: self.mine().map(|task| task.id).collect(),
            shards: shards.flatten().collect(),
        }
    }

    /// Returns the streams that feed the tasks that run here.
    pub fn streams(&self, dataflow: &Dataflow) -> BTreeMap<TaskId, BTreeSet<Stream>> {
        let fed = self.mine().filter(|task| matches!(task.work, TaskWork::Shards { .. }));
        fed.map(|task| (task.id, streams_into(dataflow, &self.plan, task.id))).collect()
    }
}

/// Converts a writer from the wire.
pub fn writer(message: &v1::WriterRef) -> WriterPlan {
    WriterPlan { sink: SinkId(message.sink_id), writer: WriterId(message.writer_id) }
}
