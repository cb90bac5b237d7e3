//! Ways a run ends, and trouble that does not end it.

use super::execute::abort;
use super::machine::{Phase, QueryMachine};
use super::{Action, End};
use crate::error::ErrorKind;
use crate::ids::ExecutorId;
use crate::offsets::SourcePartition;
use crate::options::OnDataLoss;
use std::collections::BTreeSet;

/// How long a stop waits for the batch in flight before it is dropped (or, once prepared, left for the next
/// start to finish), milliseconds.
pub(super) const STOP_GRACE_MS: i64 = 10_000;

impl QueryMachine {
    pub(super) fn end(&mut self, end: End, out: &mut Vec<Action>) {
        self.phase = Phase::Ended(end.clone());
        out.push(Action::Ended(end));
    }

    /// Stops between batches, or when the grace is over. True when the run has ended.
    pub(super) fn stop_if_due(&mut self, now_ms: i64, out: &mut Vec<Action>) -> bool {
        let Some(stop_by_ms) = self.stop_by_ms else { return matches!(self.phase, Phase::Ended(_)) };
        match &self.phase {
            Phase::Ended(_) => return true,
            Phase::Ready { .. } | Phase::Reserving { .. } => {}
            Phase::Executing(execution) if execution.finish.is_some() || self.executors.is_empty() => {
                out.push(abort(execution));
            }
            Phase::Executing(execution) if now_ms >= stop_by_ms => out.push(abort(execution)),
            _ if now_ms >= stop_by_ms => {}
            _ => return false,
        }
        self.end(End::Stopped, out);
        true
    }

    /// `Retry` trouble is shown while it lasts (an empty message ends it); other kinds stop the query.
    pub(super) fn on_trouble(
        &mut self,
        executor: Option<ExecutorId>,
        kind: ErrorKind,
        message: String,
        out: &mut Vec<Action>,
    ) {
        match kind {
            ErrorKind::Retry | ErrorKind::Fenced if message.is_empty() => {
                self.troubles.remove(&executor);
            }
            ErrorKind::Retry | ErrorKind::Fenced => {
                self.troubles.insert(executor, message);
            }
            ErrorKind::Fix | ErrorKind::Fatal => self.fail(message, out),
        }
    }

    fn fail(&mut self, message: String, out: &mut Vec<Action>) {
        if let Phase::Executing(execution) | Phase::Preparing { execution, .. } = &self.phase {
            out.push(abort(execution));
        }
        self.end(End::Failed(message), out);
    }

    /// Applies `on_data_loss`. A skip is counted, and takes effect with the next batch's record.
    pub(super) fn on_out_of_range(
        &mut self,
        partition: SourcePartition,
        position: i64,
        earliest: i64,
        latest: i64,
        out: &mut Vec<Action>,
    ) {
        let Some(committed) = self.positions.get(&partition).copied() else { return };
        let lost_below = committed < earliest;
        if !lost_below && committed <= latest {
            return; // stale: the position has moved since
        }
        let policy = self.source(partition.source).map(|source| source.options.on_data_loss).unwrap_or_default();
        let finishing = match &self.phase {
            Phase::Executing(execution) => execution.finish.is_some(),
            Phase::Ready { finish: None } => false,
            _ => {
                self.deferred_out_of_range.push((partition, position, earliest, latest));
                return;
            }
        };
        if policy == OnDataLoss::Fail || finishing || !lost_below {
            self.fail(out_of_range(&partition, position.max(committed), earliest, latest, finishing), out);
            return;
        }
        if matches!(self.phase, Phase::Executing(_)) {
            self.abort_execution(&BTreeSet::new(), 0, out);
        }
        let target = if policy == OnDataLoss::Latest { latest } else { earliest };
        self.totals.lost_offsets += u64::try_from(target - committed).unwrap_or(0);
        self.positions.insert(partition, target);
        self.stale_assignment = true;
    }
}

fn out_of_range(partition: &SourcePartition, position: i64, earliest: i64, latest: i64, finishing: bool) -> String {
    let topic = &partition.tp;
    if position > latest {
        return format!(
            "offset {position} out of range for {topic}: the topic ends at {latest}. It was truncated or recreated; \
             drop the query and submit it again, or restore the topic"
        );
    }
    let way_out = if finishing {
        "the batch that was prepared needs these records; drop the query and submit it again with --new-output"
    } else {
        "records were deleted by retention before they were read. Set on_data_loss = 'earliest' or 'latest' to go on \
         without them, or raise the topic's retention.ms"
    };
    format!("offset {position} out of range for {topic}: earliest available is {earliest}; {way_out}")
}
