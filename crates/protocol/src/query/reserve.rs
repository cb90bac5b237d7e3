//! Which writers may have open transactions: their number is durable before the first of them is used, and a run begins
//! by fencing all of them.
//!
//! Owns: the number of writers per sink, which only grows. Does not own: which writer a task uses (`dispatch`).

use super::execute::{RETRY_MAX_MS, unwritten};
use super::machine::{Phase, Prepared, QueryMachine};
use super::{Action, End};
use crate::error::ErrorKind;
use crate::ids::{SinkId, WriterId};
use crate::plan::WriterPlan;
use crate::prepare_record::PrepareRecord;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl QueryMachine {
    /// The first action of a run: fences every writer that may exist, and checks all progress of the sinks against the
    /// newest record (`head`, `None` before the first batch).
    pub(super) fn resolve_everything(&mut self, head: Option<PrepareRecord>, out: &mut Vec<Action>) {
        let mut writers = head.as_ref().map(|head| head.writers.clone()).unwrap_or_default();
        let known: BTreeSet<WriterPlan> = writers.iter().map(|report| report.plan).collect();
        let reserved = self
            .reserved
            .iter()
            .flat_map(|(sink, count)| (0..*count).map(|number| WriterPlan { sink: *sink, writer: WriterId(number) }));
        writers.extend(reserved.filter(|plan| !known.contains(plan)).map(unwritten));
        let batch = head.as_ref().map(PrepareRecord::batch);
        let prepared = head.map(|head| Prepared { record: Arc::new(head), published: BTreeSet::new() });
        let number = self.ask(batch, writers, true, out);
        self.phase = Phase::Resolving { number, prepared, running: None };
    }

    /// Reserves more writers if the assignment may use more than are reserved. Returns true while that is under way.
    pub(super) fn reserve_writers(&mut self, now_ms: i64, out: &mut Vec<Action>) -> bool {
        match &mut self.phase {
            Phase::Reserving { counts, again_at_ms } => {
                if again_at_ms.take_if(|at| now_ms >= *at).is_some() {
                    out.push(Action::ReserveWriters { counts: counts.clone() });
                }
                true
            }
            Phase::Ready { finish: None } => {
                let wanted = self.wanted_writers();
                if wanted.iter().all(|(sink, count)| self.reserved.get(sink) >= Some(count)) {
                    return false;
                }
                let mut counts = self.reserved.clone();
                for (sink, count) in wanted {
                    let known = counts.entry(sink).or_default();
                    *known = count.max(*known);
                }
                out.push(Action::ReserveWriters { counts: counts.clone() });
                self.phase = Phase::Reserving { counts, again_at_ms: None };
                true
            }
            _ => false,
        }
    }

    /// Writers that the assignment may use: for each sink one per executor and stage that writes it.
    fn wanted_writers(&self) -> BTreeMap<SinkId, u32> {
        let executors = u32::try_from(self.assignment.order.len()).unwrap_or(u32::MAX);
        let mut counts: BTreeMap<SinkId, u32> = BTreeMap::new();
        for sink in self.config.stages.iter().flat_map(|stage| &stage.sinks) {
            *counts.entry(*sink).or_default() += executors;
        }
        counts
    }

    pub(super) fn on_reserved(&mut self, counts: BTreeMap<SinkId, u32>) {
        if !matches!(self.phase, Phase::Reserving { .. }) {
            return;
        }
        self.reserved = counts;
        self.troubles.remove(&None);
        self.phase = Phase::Ready { finish: None };
    }

    pub(super) fn on_reserve_failed(&mut self, kind: ErrorKind, message: String, now_ms: i64, out: &mut Vec<Action>) {
        let Phase::Reserving { again_at_ms, .. } = &mut self.phase else { return };
        let message = format!("the writer numbers could not be stored: {message}");
        match kind {
            ErrorKind::Retry => {
                *again_at_ms = Some(now_ms + RETRY_MAX_MS);
                self.troubles.insert(None, message);
            }
            ErrorKind::Fenced => self.end(End::Fenced, out),
            ErrorKind::Fix | ErrorKind::Fatal => self.end(End::Failed(message), out),
        }
    }
}
