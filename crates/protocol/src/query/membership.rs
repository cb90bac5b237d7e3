//! Executors and partitions: which executors are there, what each reads, and how far it has read.

use super::deaths::Verdict;
use super::machine::{Execution, Phase, QueryMachine, Reach};
use super::{Action, End, ExecutorInfo};
use crate::align::Mark;
use crate::assign::{AssignProblem, solve};
use crate::ids::{AttemptId, BatchId, ExecutorId, SourceId, TaskId};
use crate::offsets::SourcePartition;
use std::collections::{BTreeMap, BTreeSet};

/// How long an executor may take to report the outcome of writers that it was told to publish, milliseconds.
const PUBLISH_MS: i64 = 180_000;

/// Executors with tasks that have neither reported nor failed.
fn waited_for(execution: &Execution) -> BTreeSet<ExecutorId> {
    let open = execution.placement.iter().filter(|(task, _)| !execution.reports.contains_key(task));
    open.map(|(_, executor)| *executor).collect()
}

impl QueryMachine {
    pub(super) fn on_executors(&mut self, list: Vec<ExecutorInfo>, now_ms: i64, out: &mut Vec<Action>) {
        let new: BTreeMap<ExecutorId, ExecutorInfo> = list.into_iter().map(|info| (info.id, info)).collect();
        let same = |a: Option<&ExecutorInfo>, b: Option<&ExecutorInfo>| a.map(|a| a.session) == b.map(|b| b.session);
        let gone: BTreeSet<ExecutorId> =
            self.executors.keys().filter(|id| !same(self.executors.get(id), new.get(id))).copied().collect();
        for id in new.keys().filter(|id| !same(self.executors.get(id), new.get(id))) {
            out.push(Action::Open { executor: *id });
            self.stale_assignment = true;
        }
        self.executors = new;
        self.deaths.are_here(&self.executors);
        if gone.is_empty() {
            return;
        }
        self.cuts.forget(&gone);
        self.forget_readers(&gone);
        let dead: Vec<ExecutorId> = gone.iter().filter(|id| !self.executors.contains_key(id)).copied().collect();
        let verdict = self.blame(&dead, now_ms);
        self.on_executors_gone(&gone, now_ms, out);
        if verdict == Verdict::GiveUp {
            self.end(End::Failed(self.deaths.gave_up()), out);
        }
    }

    /// Counts the deaths of executors that ran a batch of this query, or published it.
    fn blame(&mut self, dead: &[ExecutorId], now_ms: i64) -> Verdict {
        let (batch, at_work): (BatchId, BTreeSet<ExecutorId>) = match &self.phase {
            Phase::Executing(execution) => (execution.plan.batch, waited_for(execution)),
            Phase::Publishing(publication) => {
                (publication.prepared.record.batch(), publication.pending.values().copied().collect())
            }
            _ => return Verdict::Continue,
        };
        self.deaths.lost(batch, dead.iter().filter(|id| at_work.contains(id)).copied(), now_ms)
    }

    /// Forgets what these executors have read.
    fn forget_readers(&mut self, gone: &BTreeSet<ExecutorId>) {
        self.stale_assignment = true;
        self.troubles.retain(|who, _| who.is_none_or(|id| !gone.contains(&id)));
        for (id, partitions) in &self.assignment.partitions {
            if gone.contains(id) {
                for partition in partitions {
                    self.available.remove(partition);
                    self.marks.remove(partition);
                    if let Some(idle) = self.idle.get_mut(&partition.source) {
                        idle.forget(partition);
                    }
                }
            }
        }
    }

    /// Notes that one executor could not reach another. If that repeats, one of the two gets no tasks for a while.
    pub(super) fn on_unreachable(&mut self, attempt: AttemptId, task: TaskId, peer: ExecutorId, now_ms: i64) {
        let Phase::Executing(execution) = &self.phase else { return };
        let Some(from) = execution.placement.get(&task).filter(|_| execution.attempt == attempt) else { return };
        if self.executors.contains_key(&peer) && self.cuts.failed(*from, peer, now_ms) {
            self.stale_assignment = true;
        }
    }

    /// Executors that tasks may be placed on.
    pub(super) fn usable(&self) -> BTreeSet<ExecutorId> {
        self.cuts.usable(self.executors.keys().copied())
    }

    pub(super) fn on_heartbeat(
        &mut self,
        executor: ExecutorId,
        attempt: Option<AttemptId>,
        tasks: BTreeMap<TaskId, u64>,
        now_ms: i64,
    ) {
        let Phase::Executing(execution) = &mut self.phase else { return };
        match attempt {
            None => return execution.lease.opens(executor, now_ms),
            Some(attempt) if attempt != execution.attempt => return,
            Some(_) => {}
        }
        let open =
            execution.placement.iter().filter(|(task, id)| **id == executor && !execution.reports.contains_key(task));
        let open = open.map(|(task, _)| *task).collect();
        execution.lease.heard(executor, tasks, &open, now_ms);
    }

    /// Time at which the attempt is dropped without further reports, milliseconds; `None` if no attempt is waited for.
    pub(super) fn lapses_at_ms(&self) -> Option<i64> {
        match &self.phase {
            Phase::Executing(execution) => execution.lease.lapses_at_ms(&waited_for(execution)),
            Phase::Publishing(publication) => Some(publication.asked_at_ms + PUBLISH_MS),
            _ => None,
        }
    }

    /// Ends an attempt whose lease has lapsed or that publishes for too long. The executors it waits for reopen the
    /// query as if they had just joined, which discards hanging tasks.
    pub(super) fn end_lapsed(&mut self, now_ms: i64, out: &mut Vec<Action>) {
        let hung: BTreeSet<ExecutorId> = match &self.phase {
            Phase::Executing(execution) => execution.lease.lapsed(&waited_for(execution), now_ms),
            Phase::Publishing(publication) if now_ms - publication.asked_at_ms >= PUBLISH_MS => {
                publication.pending.values().copied().collect()
            }
            _ => return,
        };
        if hung.is_empty() {
            return;
        }
        let named: Vec<String> = hung.iter().map(ToString::to_string).collect();
        self.retry_later(
            format!("tasks make no progress on executor {}; they are run again", named.join(", ")),
            now_ms,
        );
        self.forget_readers(&hung);
        self.on_executors_gone(&hung, now_ms, out);
        out.extend(
            hung.into_iter().filter(|id| self.executors.contains_key(id)).map(|executor| Action::Open { executor }),
        );
    }

    /// Handles the loss of executors for the batch under way.
    fn on_executors_gone(&mut self, gone: &BTreeSet<ExecutorId>, now_ms: i64, out: &mut Vec<Action>) {
        let orphans = self.unaborted.extract_if(.., |_, executor| gone.contains(executor));
        self.orphans.extend(orphans.map(|(writer, _)| writer));
        match &mut self.phase {
            Phase::Executing(execution) if execution.placement.values().any(|id| gone.contains(id)) => {
                self.abort_execution(gone, now_ms, out);
            }
            Phase::Publishing(publication) => {
                let lost: Vec<_> =
                    publication.pending.iter().filter(|(_, id)| gone.contains(id)).map(|(w, _)| *w).collect();
                for writer in lost {
                    publication.pending.remove(&writer);
                    publication.unknown.insert(writer);
                }
                self.settle_publication(now_ms, out);
            }
            _ => {}
        }
    }

    pub(super) fn on_available(
        &mut self,
        executor: ExecutorId,
        partitions: Vec<(SourcePartition, i64, bool)>,
        mut marks: BTreeMap<SourcePartition, Vec<Mark>>,
        now_ms: i64,
    ) {
        let Some(assigned) = self.assignment.partitions.get(&executor) else { return };
        let assigned: BTreeSet<&SourcePartition> = assigned.iter().collect();
        let mut marked = Vec::new();
        for (partition, position, at_end) in partitions {
            let Some(committed) = self.positions.get(&partition).copied() else { continue };
            if !assigned.contains(&partition) || position < committed {
                continue;
            }
            if position > committed {
                self.waiting_since.entry(partition.source).or_insert(now_ms);
            }
            if let Some(idle) = self.idle.get_mut(&partition.source).filter(|_| position > committed) {
                idle.forget(&partition);
            }
            if self.config.max_drift_ms.is_some() {
                marked.push((partition.clone(), committed, marks.remove(&partition).unwrap_or_default()));
            }
            self.available.insert(partition, Reach { position, at_end });
        }
        for (partition, committed, news) in marked {
            self.note_marks(&partition, committed, news);
        }
    }

    /// Stores the marks of unread records in ascending order, each with the highest value so far.
    fn note_marks(&mut self, partition: &SourcePartition, committed: i64, news: Vec<Mark>) {
        let known = self.marks.entry(partition.clone()).or_default();
        known.retain(|mark| mark.position > committed);
        for mark in news {
            let at = known.partition_point(|one| one.position < mark.position);
            if mark.position > committed && known.get(at).is_none_or(|one| one.position != mark.position) {
                known.insert(at, mark);
            }
        }
        let mut high = None;
        for mark in known {
            high = high.max(mark.watermark_ms);
            mark.watermark_ms = high;
        }
    }

    /// Updates the assignment. Called only between batches.
    pub(super) fn reassign(&mut self, out: &mut Vec<Action>) {
        let problem = AssignProblem {
            partitions: self.positions.keys().cloned().collect(),
            shards: self.config.shards,
            executors: self.usable().into_iter().collect(),
        };
        let next = solve(&problem, Some(&self.assignment));
        let mut owner_before: BTreeMap<&SourcePartition, ExecutorId> = BTreeMap::new();
        for (id, partitions) in &self.assignment.partitions {
            owner_before.extend(partitions.iter().map(|partition| (partition, *id)));
        }
        let mut moved = Vec::new();
        for (id, partitions) in &next.partitions {
            moved.extend(partitions.iter().filter(|p| owner_before.get(p) != Some(id)).cloned());
        }
        for partition in moved {
            self.available.remove(&partition);
            self.marks.remove(&partition);
            if let Some(idle) = self.idle.get_mut(&partition.source) {
                idle.forget(&partition);
            }
        }
        self.assignment = next;
        self.stale_assignment = false;
        for executor in self.executors.keys() {
            let partitions = self.assignment.partitions.get(executor).map_or(&[][..], Vec::as_slice);
            let start = |partition: &SourcePartition| {
                let position = *self.positions.get(partition)?;
                Some((partition.clone(), position, self.config.end_positions.get(partition).copied()))
            };
            let partitions = partitions.iter().filter_map(start).collect();
            out.push(self.assign_action(*executor, partitions, self.topic_ids.clone()));
        }
    }

    /// Builds the action that assigns `partitions`, which start at their committed positions.
    pub(super) fn assign_action(
        &self,
        executor: ExecutorId,
        partitions: Vec<(SourcePartition, i64, Option<i64>)>,
        topic_ids: BTreeMap<SourceId, String>,
    ) -> Action {
        let last = |(partition, _, _): &(SourcePartition, i64, Option<i64>)| {
            Some((partition.clone(), *self.last_records.get(partition)?))
        };
        let last_records = partitions.iter().filter_map(last).collect();
        Action::Assign { executor, partitions, topic_ids, last_records }
    }
}
