//! Turns ranges into a plan with tasks, and plans into running attempts.

use super::lease::Lease;
use super::machine::{Execution, Phase, Prepared, QueryMachine, StageInput, StageTopology};
use super::{Action, BatchTimings};
use crate::ids::{BatchId, ExecutorId, SinkId, SourceId, TaskId, WriterId};
use crate::offsets::{Ranges, SourcePartition};
use crate::plan::{BatchPlan, TaskPlan, TaskWork, WriterPlan};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl QueryMachine {
    /// Plans the next batch over `ranges` and dispatches it.
    pub(super) fn run_new(&mut self, ranges: Ranges, now_ms: i64, out: &mut Vec<Action>) {
        let batch = self.last_committed().map_or(BatchId(0), BatchId::next);
        let close_before: BTreeMap<SourceId, i64> =
            self.watermarks.iter().filter_map(|(id, w)| Some((*id, w.current_ms?))).collect();
        let (tasks, placement) = self.split(&ranges);
        let timestamp_ms = self.clock.now_ms();
        let late_before = self.closed.clone();
        let files = self.files.known().cloned().unwrap_or_default();
        let plan = BatchPlan { batch, timestamp_ms, ranges, late_before, close_before, files, tasks };
        // Records beyond its ranges wait for the next batch.
        self.waiting_since.retain(|id, _| !plan.ranges.keys().any(|partition| partition.source == *id));
        self.dispatch(Arc::new(plan), placement, None, now_ms, out);
    }

    /// Executes a prepared batch again: the same plan, with whole tasks placed on the executors that are there now.
    pub(super) fn run_again(&mut self, prepared: Prepared, now_ms: i64, out: &mut Vec<Action>) {
        let mut plan = prepared.record.plan.clone();
        if plan.files.is_empty() {
            // Its rows look up no files, or it was planned by a version of Highwater that did not record their
            // versions.
            let Some(known) = self.files.known() else { return };
            plan.files = known.clone();
        }
        let plan = Arc::new(plan);
        let executors: Vec<ExecutorId> = self.usable().into_iter().collect();
        let mut seen: BTreeMap<_, usize> = BTreeMap::new();
        let mut placement = BTreeMap::new();
        for task in &plan.tasks {
            let index = seen.entry(task.stage).or_default();
            placement.insert(task.id, executors[*index % executors.len()]);
            *index += 1;
        }
        for executor in &executors {
            let mine = plan.tasks.iter().filter(|task| placement.get(&task.id) == Some(executor));
            let ranges = mine.filter_map(|task| match &task.work {
                TaskWork::Source { ranges, .. } => Some(ranges),
                TaskWork::Shards { .. } => None,
            });
            let partitions =
                ranges.flatten().map(|(partition, range)| (partition.clone(), range.start, None)).collect();
            out.push(self.assign_action(*executor, partitions, prepared.record.topic_ids.clone()));
        }
        self.stale_assignment = true;
        self.available.clear();
        self.marks.clear();
        self.dispatch(plan, placement, Some(prepared), now_ms, out);
    }

    fn dispatch(
        &mut self,
        plan: Arc<BatchPlan>,
        placement: BTreeMap<TaskId, ExecutorId>,
        finish: Option<Prepared>,
        now_ms: i64,
        out: &mut Vec<Action>,
    ) {
        let attempt = self.new_attempt();
        self.planned = true;
        // The task that opens one of these writers now ends what an earlier attempt left open.
        plan.writers().for_each(|writer| {
            self.unaborted.remove(&writer);
        });
        let placement = Arc::new(placement);
        let published = finish.as_ref().map(|prepared| prepared.published.clone()).unwrap_or_default();
        out.push(Action::Run {
            attempt,
            plan: plan.clone(),
            placement: placement.clone(),
            base: plan.batch.0.checked_sub(1).map(BatchId),
            published,
        });
        let timings = BatchTimings { planned_at_ms: now_ms, ..BatchTimings::default() };
        let (reports, no_tasks) = (BTreeMap::new(), plan.tasks.is_empty());
        let lease = Lease::new(now_ms);
        self.phase = Phase::Executing(Execution { attempt, plan, placement, reports, finish, timings, lease });
        if no_tasks {
            // A batch that only records skipped offsets.
            self.gather(now_ms, out);
        }
    }

    /// Splits a batch into tasks: per source stage one for each executor with something to read, per shard stage one
    /// for each executor. A writer's number is its executor's place in the assignment, so that writers stay on their
    /// executors from batch to batch. If several stages write one sink, each has its own writer there, since a task
    /// begins and flushes its writers by itself.
    fn split(&self, ranges: &Ranges) -> (Vec<TaskPlan>, BTreeMap<TaskId, ExecutorId>) {
        let mut tasks = Vec::new();
        let mut placement = BTreeMap::new();
        for stage in &self.config.stages {
            for (place, executor) in self.assignment.order.iter().enumerate() {
                let Some(work) = self.work_of(stage, executor, ranges) else { continue };
                let id = TaskId(tasks.len() as u32);
                let writers = stage.sinks.iter().map(|sink| self.writer(stage, *sink, place)).collect();
                tasks.push(TaskPlan { id, stage: stage.id, work, writers });
                placement.insert(id, *executor);
            }
        }
        (tasks, placement)
    }

    fn writer(&self, stage: &StageTopology, sink: SinkId, place: usize) -> WriterPlan {
        let writing = self.config.stages.iter().filter(|stage| stage.sinks.contains(&sink));
        let among = writing.clone().take_while(|other| other.id != stage.id).count();
        WriterPlan { sink, writer: WriterId((place * writing.count() + among) as u32) }
    }

    fn work_of(&self, stage: &StageTopology, executor: &ExecutorId, ranges: &Ranges) -> Option<TaskWork> {
        match stage.input {
            StageInput::Source(source) => {
                let mine: BTreeSet<&SourcePartition> = self.assignment.partitions.get(executor)?.iter().collect();
                let ranges: Ranges = ranges
                    .iter()
                    .filter(|(partition, _)| partition.source == source && mine.contains(partition))
                    .map(|(partition, range)| (partition.clone(), *range))
                    .collect();
                (!ranges.is_empty()).then_some(TaskWork::Source { source, ranges })
            }
            StageInput::Shards => {
                let (first, end) = *self.assignment.shards.get(executor)?;
                (first < end).then_some(TaskWork::Shards { first, end })
            }
        }
    }
}
