//! From a prepared record to a committed batch: publishing, unknown outcomes, recovery of writers.

use super::machine::{Phase, Prepared, Publication, QueryMachine};
use super::{Action, CommittedBatch, End, PublishOutcome, Resolution};
use crate::error::ErrorKind;
use crate::ids::{AttemptId, BatchId};
use crate::plan::WriterPlan;
use crate::prepare_record::PrepareRecord;
use crate::report::{OperatorMetrics, WriterReport};
use std::collections::BTreeMap;
use std::sync::Arc;

impl QueryMachine {
    /// Tells every writer that holds rows and has not published yet to publish them. The outcome of a writer whose
    /// executor is gone is unknown at once.
    pub(super) fn start_publication(&mut self, mut publication: Publication, now_ms: i64, out: &mut Vec<Action>) {
        let record = &publication.prepared.record;
        let mut by_executor: BTreeMap<_, Vec<WriterPlan>> = BTreeMap::new();
        for task in &record.plan.tasks {
            let Some(executor) = publication.placement.get(&task.id) else { continue };
            for writer in &task.writers {
                let holds = record.writers.iter().any(|report| report.plan == *writer && report.rows > 0);
                if !holds || publication.prepared.published.contains(writer) {
                    continue;
                }
                if self.executors.contains_key(executor) {
                    publication.pending.insert(*writer, *executor);
                    by_executor.entry(*executor).or_default().push(*writer);
                } else {
                    publication.unknown.insert(*writer);
                }
            }
        }
        let (attempt, batch) = (publication.attempt, record.batch());
        for (executor, writers) in by_executor {
            out.push(Action::Publish { attempt, batch, executor, writers });
        }
        self.phase = Phase::Publishing(publication);
        self.settle_publication(now_ms, out);
    }

    pub(super) fn on_published(
        &mut self,
        attempt: AttemptId,
        writer: WriterPlan,
        outcome: PublishOutcome,
        now_ms: i64,
        out: &mut Vec<Action>,
    ) {
        let Phase::Publishing(publication) = &mut self.phase else { return };
        if publication.attempt != attempt || publication.pending.remove(&writer).is_none() {
            return;
        }
        match outcome {
            PublishOutcome::Published => {
                publication.prepared.published.insert(writer);
            }
            PublishOutcome::Unknown => {
                publication.unknown.insert(writer);
            }
            PublishOutcome::Failed { kind: ErrorKind::Fix | ErrorKind::Fatal, message } => {
                return self.fail(message, out);
            }
            PublishOutcome::Failed { message, .. } => {
                publication.unknown.insert(writer);
                publication.trouble = Some(message);
            }
        }
        self.settle_publication(now_ms, out);
    }

    /// Once every writer has answered: commits the batch, or asks about the writers whose outcome is unknown.
    pub(super) fn settle_publication(&mut self, now_ms: i64, out: &mut Vec<Action>) {
        let Phase::Publishing(publication) = &self.phase else { return };
        if !publication.pending.is_empty() {
            return;
        }
        let Phase::Publishing(publication) = std::mem::replace(&mut self.phase, Phase::Ready { finish: None }) else {
            return;
        };
        if publication.unknown.is_empty() {
            self.commit(publication, now_ms, out);
            return;
        }
        let record = &publication.prepared.record;
        let writers: Vec<WriterReport> =
            record.writers.iter().filter(|report| publication.unknown.contains(&report.plan)).cloned().collect();
        let number = self.ask(Some(record.batch()), writers, false, out);
        let prepared = Some(publication.prepared.clone());
        self.phase = Phase::Resolving { number, prepared, running: Some(Box::new(publication)) };
    }

    /// Asks what writers hold; if `whole`, also those that only the sinks know. Returns the number of the question,
    /// which its answer carries.
    pub(super) fn ask(
        &mut self,
        batch: Option<BatchId>,
        writers: Vec<WriterReport>,
        whole: bool,
        out: &mut Vec<Action>,
    ) -> u64 {
        self.questions += 1;
        out.push(Action::Resolve { number: self.questions, batch, writers, whole });
        self.questions
    }

    pub(super) fn on_resolved(
        &mut self,
        number: u64,
        found: BTreeMap<WriterPlan, Resolution>,
        now_ms: i64,
        out: &mut Vec<Action>,
    ) {
        let Phase::Resolving { number: asked, .. } = &self.phase else { return };
        if *asked != number {
            return;
        }
        let Phase::Resolving { prepared, running, .. } =
            std::mem::replace(&mut self.phase, Phase::Ready { finish: None })
        else {
            return;
        };
        self.troubles.remove(&None);
        let record = prepared.as_ref().map(|prepared| prepared.record.clone());
        let record = record.as_deref();
        let known = |writer: WriterPlan| record.is_some_and(|record| record.writers.iter().any(|w| w.plan == writer));
        let mut published = Vec::new();
        for (writer, resolution) in found {
            match (resolution, record) {
                (Resolution::Published, _) if known(writer) => published.push(writer),
                // Published by a writer that is not in this batch's record: it was another batch of the same number.
                (Resolution::Published, Some(newest)) => {
                    return self.end(End::Failed(ahead(Some(newest), writer, newest.batch())), out);
                }
                (Resolution::Ahead { batch }, _) => {
                    return self.end(End::Failed(ahead(record, writer, batch)), out);
                }
                (Resolution::Published, None) | (Resolution::NotPublished, _) => {}
            }
        }
        let Some(mut prepared) = prepared else { return };
        prepared.published.extend(published);
        let complete = prepared.record.writers.iter().all(|w| w.rows == 0 || prepared.published.contains(&w.plan));
        match running {
            _ if !complete => {
                self.phase = Phase::Ready { finish: Some(prepared) };
                // A sink that could not take the rows gets some time before the next try.
                if let Some(trouble) = running.and_then(|publication| publication.trouble) {
                    self.retry_later(trouble, now_ms);
                }
            }
            Some(publication) => self.commit(*publication, now_ms, out),
            None => self.adopt(prepared.record, now_ms, out),
        }
    }

    /// Only an answer to the open question may stop the query.
    pub(super) fn on_resolve_failed(&mut self, number: u64, kind: ErrorKind, message: String, out: &mut Vec<Action>) {
        if matches!(&self.phase, Phase::Resolving { number: asked, .. } if *asked == number) {
            self.on_trouble(None, kind, message, out);
        }
    }

    /// Commits a batch that every writer holds although no attempt of this run computed it: executors restore their
    /// state from the checkpoint.
    fn adopt(&mut self, record: Arc<PrepareRecord>, now_ms: i64, out: &mut Vec<Action>) {
        self.last_rows_ms = None;
        let publication = Publication {
            attempt: record.attempt,
            prepared: Prepared { record, published: Default::default() },
            placement: Arc::default(),
            pending: BTreeMap::new(),
            unknown: Default::default(),
            trouble: None,
            operators: Vec::new(),
            stages: Vec::new(),
            timings: Default::default(),
            asked_at_ms: now_ms,
        };
        self.commit(publication, now_ms, out);
    }

    fn commit(&mut self, publication: Publication, now_ms: i64, out: &mut Vec<Action>) {
        let record = publication.prepared.record;
        let previous = std::mem::replace(&mut self.positions, record.positions.clone());
        // Partitions found while the batch ran are not in its record.
        for (partition, position) in &previous {
            self.positions.entry(partition.clone()).or_insert(*position);
        }
        self.last_records = record.last_records.clone();
        for (id, limiter) in &mut self.limiters {
            let ranges = record.plan.ranges.iter().filter(|(partition, _)| partition.source == *id);
            limiter.take(ranges.map(|(_, range)| u64::try_from(range.len()).unwrap_or(0)).sum());
        }
        if publication.timings.planned_at_ms > 0 {
            let took_ms = now_ms - publication.timings.planned_at_ms;
            self.pace.committed(&record.plan.ranges, took_ms, self.config.max_attempt_ms);
        }
        self.watermarks = record.watermarks.clone();
        self.closed = record.plan.close_before.clone();
        // Rows of windows come from records, and from operators whose windows close without records. Nothing is known
        // about the windows of batches before a recovery.
        let written = |operator: &OperatorMetrics| {
            operator.rows_updated > 0 && self.config.clock_windows.iter().any(|(id, _)| *id == operator.operator)
        };
        if self.last_rows_ms.is_none() || publication.operators.iter().any(written) {
            self.last_rows_ms = Some(record.plan.timestamp_ms);
        }
        self.totals = record.totals.clone();
        self.failures = 0;
        self.deaths.committed();
        self.cuts.committed(&publication.placement.values().copied().collect());
        self.troubles.remove(&None);
        for (partition, reach) in &self.available {
            let committed = self.positions.get(partition).copied().unwrap_or(0);
            if reach.position > committed {
                self.waiting_since.entry(partition.source).or_insert(now_ms);
            }
            if let Some(idle) = self.idle.get_mut(&partition.source).filter(|_| reach.position > committed) {
                idle.forget(partition);
            }
        }
        // No skip is applied between a record and its commit, so the record contains all of them.
        self.unrecorded = false;
        self.reset.clear();
        self.committed = Some(record.clone());
        self.phase = Phase::Ready { finish: None };
        let mut timings = publication.timings;
        timings.committed_at_ms = now_ms;
        out.push(Action::Committed(Box::new(CommittedBatch {
            record,
            attempt: publication.attempt,
            executors: publication.placement.values().copied().collect(),
            placement: publication.placement,
            timings,
            operators: publication.operators,
            stages: publication.stages,
            previous,
        })));
    }
}

/// The message for a sink that holds a batch the checkpoint does not know. Continuing would skip or duplicate rows.
fn ahead(record: Option<&PrepareRecord>, writer: WriterPlan, batch: BatchId) -> String {
    let ends = match record {
        Some(record) if record.batch() == batch => format!("the checkpoint's batch {batch} is a different one"),
        Some(record) => format!("the checkpoint ends at batch {}", record.batch()),
        None => "the checkpoint has no batch".to_string(),
    };
    format!(
        "the sink is ahead of the query: writer {} of sink {} already holds batch {batch}, but {ends}. The checkpoint \
         was restored from an older copy, its newest writes were lost, or another driver ran this query. Restore the \
         newer checkpoint, or drop the query and submit it again with --new-output",
        writer.writer, writer.sink
    )
}
