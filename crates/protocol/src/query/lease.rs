//! The lease of an attempt: executors renew it by listing its tasks, and it lapses if no task makes progress.
//!
//! Owns: when each executor was last heard of, and when the last step was made. Does not own: what happens to an
//! attempt whose lease has lapsed (`membership`). An executor with a live connection may still have lost a task, or
//! hang.

use crate::ids::{ExecutorId, TaskId};
use std::collections::{BTreeMap, BTreeSet};

/// How long an executor may leave out a task that is neither done nor failed, milliseconds.
pub(super) const UNHEARD_MS: i64 = 30_000;
/// How long an attempt may make no step at all, milliseconds. Longer than any broker timeout.
pub(super) const STANDSTILL_MS: i64 = 600_000;

#[derive(Clone, Debug)]
pub(super) struct Lease {
    began_at_ms: i64,
    heard_at_ms: BTreeMap<ExecutorId, i64>,
    stepped_at_ms: i64,
    steps: BTreeMap<TaskId, u64>,
}

impl Lease {
    pub fn new(now_ms: i64) -> Self {
        Self { began_at_ms: now_ms, heard_at_ms: BTreeMap::new(), stepped_at_ms: now_ms, steps: BTreeMap::new() }
    }

    /// An executor lists the tasks that run on it; `open` are the tasks that must be listed.
    pub fn heard(&mut self, from: ExecutorId, listed: BTreeMap<TaskId, u64>, open: &BTreeSet<TaskId>, now_ms: i64) {
        if open.iter().all(|task| listed.contains_key(task)) {
            self.heard_at_ms.insert(from, now_ms);
        }
        for (task, steps) in listed {
            if self.steps.insert(task, steps) != Some(steps) {
                self.stepped_at_ms = now_ms;
            }
        }
    }

    /// An executor is still opening the query for the attempt.
    pub fn opens(&mut self, from: ExecutorId, now_ms: i64) {
        self.heard_at_ms.insert(from, now_ms);
    }

    /// A task of the attempt is done.
    pub fn done(&mut self, from: ExecutorId, now_ms: i64) {
        self.heard_at_ms.insert(from, now_ms);
        self.stepped_at_ms = now_ms;
    }

    /// Returns those of `waited_for` that lost a task or hang; all of them if no task makes progress.
    pub fn lapsed(&self, waited_for: &BTreeSet<ExecutorId>, now_ms: i64) -> BTreeSet<ExecutorId> {
        if now_ms - self.stepped_at_ms >= STANDSTILL_MS {
            return waited_for.clone();
        }
        waited_for.iter().filter(|id| now_ms - self.heard_ms(id) >= UNHEARD_MS).copied().collect()
    }

    /// When the lease lapses next unless something is heard; `None` if no executor is waited for.
    pub fn lapses_at_ms(&self, waited_for: &BTreeSet<ExecutorId>) -> Option<i64> {
        let unheard = waited_for.iter().map(|id| self.heard_ms(id) + UNHEARD_MS).min()?;
        Some(unheard.min(self.stepped_at_ms + STANDSTILL_MS))
    }

    fn heard_ms(&self, id: &ExecutorId) -> i64 {
        self.heard_at_ms.get(id).copied().unwrap_or(self.began_at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn e(number: u128) -> ExecutorId {
        ExecutorId(Uuid::from_u128(number))
    }

    fn listed(tasks: &[(u32, u64)]) -> BTreeMap<TaskId, u64> {
        tasks.iter().map(|(task, steps)| (TaskId(*task), *steps)).collect()
    }

    #[test]
    fn an_executor_that_leaves_out_a_task_for_too_long_has_lost_it() {
        let (both, open) = (BTreeSet::from([e(1), e(2)]), BTreeSet::from([TaskId(0), TaskId(1)]));
        let mut lease = Lease::new(0);
        for second in 1..=30 {
            lease.heard(e(1), listed(&[(0, second), (1, second)]), &open, second as i64 * 1_000);
            lease.heard(e(2), listed(&[(0, 0)]), &open, second as i64 * 1_000);
        }
        assert_eq!(lease.lapsed(&both, UNHEARD_MS - 1), BTreeSet::new());
        assert_eq!(lease.lapses_at_ms(&both), Some(UNHEARD_MS));
        assert_eq!(lease.lapsed(&both, UNHEARD_MS), [e(2)].into());
        lease.done(e(2), UNHEARD_MS);
        assert_eq!(lease.lapsed(&both, UNHEARD_MS), BTreeSet::new());
    }

    #[test]
    fn an_attempt_without_progress_lapses_although_its_tasks_are_listed() {
        let (both, open) = (BTreeSet::from([e(1), e(2)]), BTreeSet::from([TaskId(0)]));
        let mut lease = Lease::new(0);
        let hear = |lease: &mut Lease, second: i64, steps: u64| {
            lease.heard(e(1), listed(&[(0, steps)]), &open, second * 1_000);
            lease.heard(e(2), listed(&[(0, steps)]), &open, second * 1_000);
        };
        for second in 0..=700 {
            hear(&mut lease, second, second.min(100) as u64);
        }
        assert_eq!(lease.lapsed(&both, 699_999), BTreeSet::new(), "the last step was made at 100 s");
        assert_eq!(lease.lapsed(&both, 700_000), both);
        hear(&mut lease, 701, 101);
        assert_eq!(lease.lapsed(&both, 701_000), BTreeSet::new());
    }
}
