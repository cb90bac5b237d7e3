//! How a run ends, and trouble that does not end it.

use super::execute::{abort, abort_preparing};
use super::machine::{Phase, QueryMachine};
use super::{Action, End};
use crate::error::ErrorKind;
use crate::ids::ExecutorId;

impl QueryMachine {
    pub(super) fn end(&mut self, end: End, out: &mut Vec<Action>) {
        self.phase = Phase::Ended(end.clone());
        out.push(Action::Ended(end));
    }

    /// Ends the run if a stop was requested and no batch is in flight or the grace period is over. Returns true if the
    /// run has ended.
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

    /// Shows `Retry` trouble until it is over (an empty message ends it); other kinds stop the query.
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

    pub(super) fn fail(&mut self, message: String, out: &mut Vec<Action>) {
        match &self.phase {
            Phase::Executing(execution) => out.push(abort(execution)),
            Phase::Preparing { execution, .. } => out.push(abort_preparing(execution)),
            _ => {}
        }
        self.end(End::Failed(message), out);
    }
}
