//! Executors that die under a query. If they die one after another while running the same batch, the query kills them.
//!
//! Owns: counting deaths, and the verdict. Does not own: detecting deaths (`membership`), ending the run (`ending`).
//!
//! It counts attempts that lost executors, not executors, since a failing host takes several with it. It does not count
//! an executor that was told to end, or that comes back (it hung, or its connection broke). A commit clears the count:
//! whatever kills executors at random also kills them between commits.

use crate::ids::{BatchId, ExecutorId};
use std::collections::{BTreeMap, BTreeSet};

/// Deaths further apart than this do not count together, milliseconds.
const WINDOW_MS: i64 = 10 * 60 * 1000;
/// From this number of deaths on the query waits between attempts.
const WAIT_FROM: usize = 3;
/// At this number of deaths the run ends.
const GIVE_UP_AT: usize = 5;
/// The first wait; each later one is twice as long, milliseconds.
const WAIT_MS: i64 = 10_000;

#[derive(Clone, Debug, Default)]
pub(super) struct Deaths {
    /// Attempts that lost executors since the last commit: when, and which executors.
    attempts: Vec<(i64, BTreeSet<ExecutorId>)>,
    /// Executors that were told to end and are not gone yet.
    leaving: BTreeSet<ExecutorId>,
    wait_until_ms: i64,
    batch: BatchId,
}

/// What follows from the loss of an attempt's executors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Continue,
    /// The next attempt must not start before this time, milliseconds.
    Wait {
        until_ms: i64,
    },
    GiveUp,
}

impl Deaths {
    /// Counts that an attempt at `batch` has lost these executors.
    pub fn lost(&mut self, batch: BatchId, gone: impl Iterator<Item = ExecutorId>, now_ms: i64) -> Verdict {
        let dead: BTreeSet<ExecutorId> = gone.filter(|id| !self.leaving.remove(id)).collect();
        if dead.is_empty() {
            return Verdict::Continue;
        }
        self.batch = batch;
        self.attempts.retain(|(at_ms, _)| now_ms - at_ms < WINDOW_MS);
        self.attempts.push((now_ms, dead));
        match self.attempts.len() {
            count if count >= GIVE_UP_AT => Verdict::GiveUp,
            count if count >= WAIT_FROM => {
                self.wait_until_ms = now_ms + (WAIT_MS << (count - WAIT_FROM));
                Verdict::Wait { until_ms: self.wait_until_ms }
            }
            _ => Verdict::Continue,
        }
    }

    /// Notes that an executor ends, or has ended, because it was told to.
    pub fn leaves(&mut self, executor: ExecutorId, is_here: bool) {
        if is_here {
            self.leaving.insert(executor);
        }
        self.forgive(|id| *id == executor);
    }

    /// Executors that are connected have not died: removes them from the count.
    pub fn are_here<T>(&mut self, executors: &BTreeMap<ExecutorId, T>) {
        self.forgive(|id| executors.contains_key(id));
    }

    fn forgive(&mut self, alive: impl Fn(&ExecutorId) -> bool) {
        for (_, dead) in &mut self.attempts {
            dead.retain(|id| !alive(id));
        }
        self.attempts.retain(|(_, dead)| !dead.is_empty());
    }

    pub fn committed(&mut self) {
        self.attempts.clear();
        self.wait_until_ms = 0;
    }

    /// The earliest time of the next attempt, if deaths are why it waits.
    pub fn waits_until_ms(&self, now_ms: i64) -> Option<i64> {
        (self.attempts.len() >= WAIT_FROM && now_ms < self.wait_until_ms).then_some(self.wait_until_ms)
    }

    /// The message while the query waits; `None` if it does not.
    pub fn waiting(&self, now_ms: i64) -> Option<String> {
        self.waits_until_ms(now_ms)?;
        Some(format!(
            "{}; it is quarantined and will be tried again shortly. It fails if executors keep dying",
            self.description()
        ))
    }

    /// The message when the query has failed.
    pub fn gave_up(&self) -> String {
        format!(
            "{}; it is quarantined so that other queries can go on. Look for the cause in the executors' logs (out of \
             memory, a crash), then resume it from its checkpoint with `highwater start`",
            self.description()
        )
    }

    fn description(&self) -> String {
        let executors: BTreeSet<&ExecutorId> = self.attempts.iter().flat_map(|(_, dead)| dead).collect();
        format!(
            "{} executors died one after another while they ran batch {} of this query",
            executors.len(),
            self.batch
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn e(number: u128) -> ExecutorId {
        ExecutorId(Uuid::from_u128(number))
    }

    fn die(deaths: &mut Deaths, numbers: std::ops::RangeInclusive<u128>, now_ms: i64) -> Verdict {
        deaths.lost(BatchId(7), numbers.map(e), now_ms)
    }

    #[test]
    fn three_deaths_in_a_row_make_the_query_wait_and_five_end_it() {
        let mut deaths = Deaths::default();
        assert_eq!(die(&mut deaths, 1..=1, 0), Verdict::Continue);
        assert_eq!(die(&mut deaths, 2..=2, 1_000), Verdict::Continue);
        assert_eq!(die(&mut deaths, 3..=3, 2_000), Verdict::Wait { until_ms: 12_000 });
        let waiting = deaths.waiting(11_999).unwrap();
        assert!(waiting.contains("3 executors died") && waiting.contains("batch 7"), "{waiting}");
        assert_eq!(deaths.waiting(12_000), None);
        assert_eq!(die(&mut deaths, 4..=4, 13_000), Verdict::Wait { until_ms: 33_000 });
        assert_eq!(die(&mut deaths, 5..=5, 34_000), Verdict::GiveUp);
        let gave_up = deaths.gave_up();
        assert!(gave_up.contains("5 executors died") && gave_up.contains("highwater start"), "{gave_up}");
    }

    #[test]
    fn a_commit_in_between_or_a_long_time_clears_the_count() {
        let mut deaths = Deaths::default();
        for number in 1..100 {
            assert_eq!(die(&mut deaths, number..=number, 0), Verdict::Continue);
            if number % 2 == 0 {
                deaths.committed();
            }
        }
        deaths.committed();
        for number in 1..100 {
            let now_ms = number as i64 * (WINDOW_MS / 2);
            assert_eq!(die(&mut deaths, number..=number, now_ms), Verdict::Continue);
        }
    }

    #[test]
    fn a_lost_host_is_one_death_and_executors_that_return_or_were_told_to_end_are_none() {
        let mut deaths = Deaths::default();
        assert_eq!(die(&mut deaths, 1..=9, 0), Verdict::Continue, "one attempt");
        deaths.leaves(e(10), true);
        assert_eq!(die(&mut deaths, 10..=10, 0), Verdict::Continue);
        assert_eq!(die(&mut deaths, 11..=11, 0), Verdict::Continue, "the second");
        assert_eq!(die(&mut deaths, 12..=12, 0), Verdict::Wait { until_ms: 10_000 });
        deaths.are_here(&[(e(11), ())].into());
        assert_eq!(deaths.waits_until_ms(1), None, "it only hung");
        deaths.leaves(e(12), false);
        assert_eq!(die(&mut deaths, 13..=13, 0), Verdict::Continue, "the second again");
    }
}
