//! From running tasks to a record: gathers reports, handles failures and retries of an attempt.

use super::machine::{Execution, Phase, Prepared, Publication, QueryMachine};
use super::{Action, End};
use crate::error::ErrorKind;
use crate::ids::{AttemptId, ExecutorId, SourceId, TaskId};
use crate::metrics::StageMetrics;
use crate::offsets::{LastRecords, SourcePartition};
use crate::plan::WriterPlan;
use crate::prepare_record::{PrepareRecord, SourceWatermark};
use crate::report::{OperatorMetrics, PartitionReport, StateDelta, TaskReport, WriterReport};
use crate::watermark;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Pause before a failed attempt is retried, doubled with each failure, milliseconds.
const RETRY_BASE_MS: i64 = 50;
pub(super) const RETRY_MAX_MS: i64 = 5_000;

impl QueryMachine {
    pub(super) fn on_task_done(
        &mut self,
        attempt: AttemptId,
        executor: ExecutorId,
        report: TaskReport,
        now_ms: i64,
        out: &mut Vec<Action>,
    ) {
        let Phase::Executing(execution) = &mut self.phase else { return };
        if execution.attempt != attempt || execution.placement.get(&report.task) != Some(&executor) {
            return;
        }
        execution.reports.insert(report.task, report);
        execution.lease.done(executor, now_ms);
        if execution.reports.len() == execution.plan.tasks.len() && !self.drop_if_too_long(now_ms, out) {
            self.gather(now_ms, out);
        }
    }

    /// All tasks are done: persists a new batch, or compares a repeated one with its record.
    pub(super) fn gather(&mut self, now_ms: i64, out: &mut Vec<Action>) {
        let Phase::Executing(mut execution) = std::mem::replace(&mut self.phase, Phase::Ready { finish: None }) else {
            return;
        };
        execution.timings.executed_at_ms = now_ms;
        match execution.finish.take() {
            None => {
                let record = self.record(&mut execution, now_ms);
                if let Some(partition) = self.committed.as_ref().and_then(|before| record.regressed(before)) {
                    let message = format!("internal: the offset of {} would go backwards", partition.tp);
                    self.end(End::Failed(message), out);
                    return;
                }
                let record = Arc::new(record);
                out.push(Action::Persist { record: record.clone() });
                self.phase = Phase::Preparing { record, execution, again_at_ms: None };
            }
            Some(prepared) => match mismatch(&prepared.record, &execution.reports) {
                Some(message) => {
                    out.push(abort(&execution));
                    self.end(End::Failed(message), out);
                }
                None => self.publish(prepared, execution, now_ms, out),
            },
        }
    }

    fn record(&self, execution: &mut Execution, now_ms: i64) -> PrepareRecord {
        let mut positions = self.positions.clone();
        for (partition, range) in &execution.plan.ranges {
            positions.insert(partition.clone(), range.end);
        }
        let mut partitions: BTreeMap<SourcePartition, PartitionReport> = BTreeMap::new();
        let mut writers = Vec::new();
        let mut state = Vec::new();
        let mut totals = self.totals.clone();
        for report in execution.reports.values_mut() {
            partitions.extend(report.partitions.clone());
            writers.append(&mut report.writers);
            state.append(&mut report.state);
            totals.late_rows += report.operators.iter().map(|operator| operator.late_rows).sum::<u64>();
            for operator in &report.operators {
                totals.key_conflicts.entry(operator.operator).or_default().apply(&operator.key_conflicts);
            }
        }
        totals.key_conflicts.retain(|_, conflicts| conflicts.keys > 0);
        totals.input_rows += partitions.values().map(|p| p.records).sum::<u64>();
        totals.bad_records += partitions.values().map(|p| p.bad_records).sum::<u64>();
        totals.count_absent(&partitions);
        totals.output_rows += writers.iter().map(|writer| writer.rows).sum::<u64>();
        PrepareRecord {
            query: self.config.query,
            attempt: execution.attempt,
            plan: (*execution.plan).clone(),
            watermarks: self.watermarks_after(&positions, &partitions, now_ms),
            last_records: self.last_records_after(&partitions),
            positions,
            partitions,
            writers,
            state,
            totals,
            topic_ids: self.topic_ids.clone(),
            ends: self.new_ends.clone(),
            reset: self.reset.clone(),
        }
    }

    /// Returns the last records after the batch. A range without records leaves its last record where it was: only
    /// markers and gaps lie between it and the position, and the leader may have changed among them.
    fn last_records_after(&self, partitions: &BTreeMap<SourcePartition, PartitionReport>) -> LastRecords {
        let mut last_records = self.last_records.clone();
        for (partition, report) in partitions.iter().filter(|(_, report)| report.records > 0) {
            match report.last_record {
                Some(last) => last_records.insert(partition.clone(), last),
                None => last_records.remove(partition),
            };
        }
        last_records
    }

    fn watermarks_after(
        &self,
        positions: &crate::offsets::Positions,
        partitions: &BTreeMap<SourcePartition, PartitionReport>,
        now_ms: i64,
    ) -> BTreeMap<SourceId, SourceWatermark> {
        let mut watermarks = self.watermarks.clone();
        for source in self.config.sources.iter().filter(|source| source.has_watermark) {
            let seen: Vec<_> = partitions
                .iter()
                .filter(|(partition, _)| partition.source == source.id)
                .filter_map(|(partition, report)| Some((partition.clone(), report.max_watermark_ms?)))
                .collect();
            let mut idle = self.idle_partitions(source.id, positions, now_ms);
            // A partition that had records in this batch is not idle, unless it is read to its fixed end.
            idle.retain(|partition| {
                partitions.get(partition).is_none_or(|report| report.records == 0)
                    || self.config.end_positions.get(partition).is_some_and(|end| positions.get(partition) >= Some(end))
            });
            watermark::advance(watermarks.entry(source.id).or_default(), seen, &self.partitions_of(source.id), &idle);
        }
        watermarks
    }

    fn publish(&mut self, prepared: Prepared, execution: Execution, now_ms: i64, out: &mut Vec<Action>) {
        let operators = operators(&execution.reports);
        let tasks = execution.plan.tasks.iter();
        let done = tasks.filter_map(|task| Some((task.stage, &execution.reports.get(&task.id)?.metrics)));
        let stages = StageMetrics::of(done);
        self.start_publication(
            Publication {
                prepared,
                attempt: execution.attempt,
                placement: execution.placement,
                pending: BTreeMap::new(),
                unknown: BTreeSet::new(),
                trouble: None,
                operators,
                stages,
                timings: execution.timings,
                asked_at_ms: now_ms,
            },
            now_ms,
            out,
        );
    }

    pub(super) fn on_task_failed(
        &mut self,
        attempt: AttemptId,
        task: TaskId,
        kind: ErrorKind,
        message: String,
        now_ms: i64,
        out: &mut Vec<Action>,
    ) {
        let Phase::Executing(execution) = &self.phase else { return };
        if execution.attempt != attempt || !execution.placement.contains_key(&task) {
            return;
        }
        match kind {
            ErrorKind::Fix | ErrorKind::Fatal => {
                out.push(abort(execution));
                self.end(End::Failed(message), out);
            }
            ErrorKind::Retry | ErrorKind::Fenced => {
                // Whatever the cause, a smaller batch would have been done before the failure.
                if self.took_ms(now_ms).is_some_and(|took_ms| took_ms >= self.config.max_attempt_ms / 2) {
                    self.shrink();
                }
                self.retry_later(message, now_ms);
                self.abort_execution(&BTreeSet::new(), now_ms, out);
            }
        }
    }

    /// Delays the next attempt, longer with each failure, and shows `message` until it is over.
    pub(super) fn retry_later(&mut self, message: String, now_ms: i64) {
        self.troubles.insert(None, message);
        self.failures = self.failures.saturating_add(1);
        let pause = RETRY_BASE_MS.saturating_mul(1 << self.failures.min(10)).min(RETRY_MAX_MS);
        self.not_before_ms = self.not_before_ms.max(now_ms + pause);
    }

    /// When the attempt of a new batch was planned; `None` if none runs. The attempt of a prepared batch has no limit,
    /// since its plan is fixed.
    fn began_at_ms(&self) -> Option<i64> {
        match &self.phase {
            Phase::Executing(execution) if execution.finish.is_none() => Some(execution.timings.planned_at_ms),
            _ => None,
        }
    }

    /// How long the attempt of a new batch has been running, milliseconds; `None` if none runs.
    fn took_ms(&self, now_ms: i64) -> Option<i64> {
        Some(now_ms - self.began_at_ms()?)
    }

    /// When the attempt exceeds its limit; `None` if none runs.
    pub(super) fn too_long_at_ms(&self) -> Option<i64> {
        Some(self.began_at_ms()? + self.config.max_attempt_ms)
    }

    /// Limits the next plan to half of the batch under way.
    fn shrink(&mut self) {
        if let Phase::Executing(execution) = &self.phase {
            self.pace.shrink(&execution.plan.ranges);
        }
    }

    /// Drops an attempt that runs for so long that the transactions of its first rows would time out before the last
    /// rows are written: once prepared, it could never be published, nor planned smaller. Returns true if it was
    /// dropped.
    pub(super) fn drop_if_too_long(&mut self, now_ms: i64, out: &mut Vec<Action>) -> bool {
        let Some(took_ms) = self.took_ms(now_ms).filter(|took_ms| *took_ms >= self.config.max_attempt_ms) else {
            return false;
        };
        self.shrink();
        let message = format!(
            "a batch took {} s, longer than its transactions may be open; it is planned smaller. \
             Set max_offsets_per_trigger, or raise the sinks' 'kafka.transaction.timeout.ms'",
            took_ms / 1000
        );
        self.retry_later(message, now_ms);
        self.abort_execution(&BTreeSet::new(), now_ms, out);
        true
    }

    /// Drops the current attempt. Fences writers of executors that are gone first, so that their open transactions do
    /// not hold back readers of the sink.
    pub(super) fn abort_execution(&mut self, gone: &BTreeSet<ExecutorId>, _now_ms: i64, out: &mut Vec<Action>) {
        let Phase::Executing(execution) = std::mem::replace(&mut self.phase, Phase::Ready { finish: None }) else {
            return;
        };
        out.push(abort(&execution));
        for task in &execution.plan.tasks {
            let Some(executor) = execution.placement.get(&task.id).filter(|id| !gone.contains(id)) else { continue };
            self.unaborted.extend(task.writers.iter().map(|writer| (*writer, *executor)));
        }
        let orphans: Vec<WriterReport> = execution
            .plan
            .tasks
            .iter()
            .filter(|task| execution.placement.get(&task.id).is_some_and(|id| gone.contains(id)))
            .flat_map(|task| &task.writers)
            .filter(|writer| execution.finish.as_ref().is_none_or(|finish| !finish.published.contains(writer)))
            .map(|plan| unwritten(*plan))
            .collect();
        self.phase = match (orphans.is_empty(), execution.finish) {
            (true, finish) => Phase::Ready { finish },
            (false, Some(prepared)) => {
                let number = self.ask(Some(prepared.record.batch()), prepared.record.writers.clone(), false, out);
                Phase::Resolving { number, prepared: Some(prepared), running: None }
            }
            (false, None) => {
                let number = self.ask(None, orphans, false, out);
                Phase::Resolving { number, prepared: None, running: None }
            }
        };
    }

    /// Fences writers of dropped attempts whose executors were lost before they aborted them.
    pub(super) fn fence_orphans(&mut self, out: &mut Vec<Action>) {
        if self.orphans.is_empty() || !matches!(self.phase, Phase::Ready { .. }) {
            return;
        }
        let Phase::Ready { finish } = std::mem::replace(&mut self.phase, Phase::Ready { finish: None }) else { return };
        let writers = std::mem::take(&mut self.orphans).into_iter().map(unwritten).collect();
        let number = self.ask(None, writers, false, out);
        self.phase = Phase::Resolving { number, prepared: finish, running: None };
    }

    /// The record of the batch under way is durable: from here on the batch can only be finished.
    pub(super) fn on_persisted(&mut self, batch: crate::ids::BatchId, now_ms: i64, out: &mut Vec<Action>) {
        let Phase::Preparing { record, .. } = &self.phase else { return };
        if record.batch() != batch {
            return;
        }
        let Phase::Preparing { record, mut execution, .. } =
            std::mem::replace(&mut self.phase, Phase::Ready { finish: None })
        else {
            return;
        };
        execution.timings.prepared_at_ms = now_ms;
        self.troubles.remove(&None);
        let prepared = Prepared { record, published: BTreeSet::new() };
        self.publish(prepared, execution, now_ms, out);
    }

    pub(super) fn on_persist_failed(
        &mut self,
        batch: crate::ids::BatchId,
        kind: ErrorKind,
        message: String,
        now_ms: i64,
        out: &mut Vec<Action>,
    ) {
        let Phase::Preparing { record, execution, again_at_ms } = &mut self.phase else { return };
        if record.batch() != batch {
            return;
        }
        let message = format!("the checkpoint of batch {batch} could not be written: {message}");
        // Nothing was prepared: executors keep their results until the record can be written.
        if kind == ErrorKind::Retry {
            *again_at_ms = Some(now_ms + RETRY_MAX_MS);
            self.troubles.insert(None, message);
            return;
        }
        out.push(abort_preparing(execution));
        self.end(if kind == ErrorKind::Fenced { End::Fenced } else { End::Failed(message) }, out);
    }

    /// Writes the record again when the pause after a failure is over.
    pub(super) fn persist_again(&mut self, now_ms: i64, out: &mut Vec<Action>) {
        if let Phase::Preparing { record, again_at_ms, .. } = &mut self.phase
            && again_at_ms.take_if(|at| now_ms >= *at).is_some()
        {
            out.push(Action::Persist { record: record.clone() });
        }
    }
}

/// The report of a writer about which nothing is known.
pub(super) fn unwritten(plan: WriterPlan) -> WriterReport {
    WriterReport { plan, rows: 0, digest: 0, token: None }
}

/// Drops an attempt that was never prepared.
pub(super) fn abort(execution: &Execution) -> Action {
    abort_of(execution, true)
}

/// Drops an attempt whose record may be durable.
pub(super) fn abort_preparing(execution: &Execution) -> Action {
    abort_of(execution, false)
}

fn abort_of(execution: &Execution, discard: bool) -> Action {
    Action::Abort {
        attempt: execution.attempt,
        batch: execution.plan.batch,
        executors: execution.placement.values().copied().collect(),
        discard,
    }
}

fn operators(reports: &BTreeMap<TaskId, TaskReport>) -> Vec<OperatorMetrics> {
    reports.values().flat_map(|report| report.operators.iter().cloned()).collect()
}

/// Describes how a repetition differs from the prepared batch; `None` if it does not. Such a difference stops the
/// query, because some writers hold the first result and the others would hold the second.
fn mismatch(record: &PrepareRecord, reports: &BTreeMap<TaskId, TaskReport>) -> Option<String> {
    let batch = record.batch();
    for report in reports.values() {
        for (partition, read) in &report.partitions {
            let before = record.partitions.get(partition).cloned().unwrap_or_default();
            if (before.records, before.checksum) != (read.records, read.checksum) {
                return Some(format!(
                    "batch {batch} was prepared from {} records of {}, but reading the same offsets again returned {} \
                     or different ones: the topic was changed by retention, compaction or deletion; restore it, or \
                     drop the query and submit it again with --new-output",
                    before.records, partition.tp, read.records
                ));
            }
        }
        for writer in &report.writers {
            let before = record.writers.iter().find(|before| before.plan == writer.plan);
            if before.map(|before| (before.rows, before.digest)) != Some((writer.rows, writer.digest)) {
                return Some(format!(
                    "batch {batch} produced different rows for writer {} of sink {} when executed again; nothing more \
                     was published; this is a defect, please report it with the query's SQL",
                    writer.plan.writer, writer.plan.sink
                ));
            }
        }
        if let Some(delta) = report.state.iter().find(|delta| !record.state.iter().any(|before| same(before, delta))) {
            return Some(format!(
                "batch {batch} produced a different state of operator {} when executed again; nothing more was \
                 published; this is a defect, please report it with the query's SQL",
                delta.operator
            ));
        }
    }
    None
}

fn same(a: &StateDelta, b: &StateDelta) -> bool {
    (a.operator, a.first_shard, a.end_shard, a.keys, a.digest)
        == (b.operator, b.first_shard, b.end_shard, b.keys, b.digest)
}
