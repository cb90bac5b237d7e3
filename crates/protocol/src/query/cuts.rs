//! Cuts between executors: pairs that cannot reach one another, though the driver sees both.
//!
//! Owns: which executor to leave out for a while, so that the next attempt does not fail like the last one. Does not
//! own: placing tasks (`dispatch`, `membership`). Decisions depend only on the failures reported.

use crate::ids::ExecutorId;
use std::collections::{BTreeMap, BTreeSet};

/// This many failures of one pair in a row are a cut; for a pair that was cut before, one failure is.
const FAILURES: u32 = 3;
/// Failures further apart than this do not count together, milliseconds.
const WINDOW_MS: i64 = 60_000;
/// How long an executor is left out the first time; each time twice as long, milliseconds.
const LEFT_OUT_MS: i64 = 30_000;
const LEFT_OUT_MAX_MS: i64 = 600_000;

/// Two executors, the smaller id first.
type Pair = (ExecutorId, ExecutorId);

#[derive(Clone, Debug, Default)]
pub(super) struct Cuts {
    pairs: BTreeMap<Pair, Failures>,
    left_out: BTreeMap<ExecutorId, LeftOut>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    count: u32,
    last_ms: i64,
    was_cut: bool,
}

/// An executor that is, or was, left out.
#[derive(Clone, Copy, Debug)]
struct LeftOut {
    until_ms: i64,
    times: u32,
    cannot_reach: ExecutorId,
    is_out: bool,
}

impl Cuts {
    /// Counts that `from` could not reach `to`. Returns true if one of the two is left out from now on.
    pub fn failed(&mut self, from: ExecutorId, to: ExecutorId, now_ms: i64) -> bool {
        if from == to || self.is_out(&from) || self.is_out(&to) {
            return false; // reported by an attempt placed earlier
        }
        let pair = (from.min(to), from.max(to));
        let failures = self.pairs.entry(pair).or_default();
        failures.count = if now_ms - failures.last_ms < WINDOW_MS { failures.count + 1 } else { 1 };
        failures.last_ms = now_ms;
        if failures.count < FAILURES && !failures.was_cut {
            return false;
        }
        failures.was_cut = true;
        failures.count = 0;
        let out = self.worse_of(pair);
        let cannot_reach = if out == pair.0 { pair.1 } else { pair.0 };
        let times = self.left_out.get(&out).map_or(0, |before| before.times) + 1;
        let pause = LEFT_OUT_MS.saturating_mul(1 << (times - 1).min(10)).min(LEFT_OUT_MAX_MS);
        self.left_out.insert(out, LeftOut { until_ms: now_ms + pause, times, cannot_reach, is_out: true });
        true
    }

    /// Returns the one with more broken pairs, or the younger one (larger id) if both have as many: an executor that
    /// nobody can reach is left out, rather than those that cannot reach it.
    fn worse_of(&self, (one, other): Pair) -> ExecutorId {
        let broken = |id: ExecutorId| self.pairs.keys().filter(|pair| pair.0 == id || pair.1 == id).count();
        if broken(one) > broken(other) { one } else { other }
    }

    fn is_out(&self, id: &ExecutorId) -> bool {
        self.left_out.get(id).is_some_and(|out| out.is_out)
    }

    /// Readmits executors that were left out long enough. Returns true if there is one.
    pub fn readmit(&mut self, now_ms: i64) -> bool {
        let mut changed = false;
        for out in self.left_out.values_mut().filter(|out| out.is_out && now_ms >= out.until_ms) {
            out.is_out = false;
            changed = true;
        }
        changed
    }

    /// When the next executor is readmitted; `None` if none is left out.
    pub fn readmits_at_ms(&self) -> Option<i64> {
        self.left_out.values().filter(|out| out.is_out).map(|out| out.until_ms).min()
    }

    /// Forgets executors that are gone, with their failures.
    pub fn forget(&mut self, gone: &BTreeSet<ExecutorId>) {
        self.pairs.retain(|(one, other), _| !gone.contains(one) && !gone.contains(other));
        self.left_out.retain(|id, _| !gone.contains(id));
    }

    /// A batch was committed with these executors taking part: forgets failures between them.
    pub fn committed(&mut self, together: &BTreeSet<ExecutorId>) {
        self.pairs.retain(|(one, other), _| !together.contains(one) || !together.contains(other));
        let pairs = &self.pairs;
        self.left_out.retain(|id, out| out.is_out || pairs.keys().any(|(one, other)| one == id || other == id));
    }

    /// Executors that tasks may be placed on; all of them if none would be left.
    pub fn usable(&self, all: impl Iterator<Item = ExecutorId> + Clone) -> BTreeSet<ExecutorId> {
        let usable: BTreeSet<ExecutorId> = all.clone().filter(|id| !self.is_out(id)).collect();
        if usable.is_empty() { all.collect() } else { usable }
    }

    /// Executors that are left out, each with one it cannot reach.
    pub fn out(&self) -> impl Iterator<Item = (ExecutorId, ExecutorId)> {
        self.left_out.iter().filter(|(_, out)| out.is_out).map(|(id, out)| (*id, out.cannot_reach))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn e(number: u128) -> ExecutorId {
        ExecutorId(Uuid::from_u128(number))
    }

    fn usable(cuts: &Cuts, count: u128) -> Vec<u128> {
        cuts.usable((1..=count).map(e)).into_iter().map(|id| id.0.as_u128()).collect()
    }

    #[test]
    fn after_three_failures_of_a_pair_one_executor_is_left_out_for_a_while() {
        let mut cuts = Cuts::default();
        assert!(!cuts.failed(e(2), e(1), 0));
        assert!(!cuts.failed(e(1), e(2), 10));
        assert_eq!(usable(&cuts, 3), [1, 2, 3]);
        assert!(cuts.failed(e(1), e(2), 20));
        assert_eq!(usable(&cuts, 3), [1, 3]);
        assert_eq!(cuts.readmits_at_ms(), Some(30_020));
        assert!(!cuts.readmit(30_019));
        assert!(cuts.readmit(30_020));
        assert_eq!(usable(&cuts, 3), [1, 2, 3]);
        assert!(cuts.failed(e(1), e(2), 31_000), "the cut is still there: once is enough");
        assert_eq!(cuts.readmits_at_ms(), Some(91_000), "for longer");
    }

    #[test]
    fn an_executor_that_nobody_reaches_is_left_out_rather_than_the_others() {
        let mut cuts = Cuts::default();
        for _ in 0..2 {
            cuts.failed(e(2), e(1), 0);
            cuts.failed(e(3), e(1), 0);
        }
        assert!(cuts.failed(e(3), e(1), 0));
        assert_eq!(usable(&cuts, 3), [2, 3]);
    }

    #[test]
    fn failures_are_forgotten_after_a_common_batch_or_when_an_executor_is_gone() {
        let mut cuts = Cuts::default();
        assert_eq!([0; 3].map(|now_ms| cuts.failed(e(1), e(2), now_ms)), [false, false, true]);
        cuts.readmit(30_000);
        cuts.committed(&[e(1), e(3)].into());
        assert!(cuts.failed(e(1), e(2), 30_000), "they did not run a batch together");
        cuts.readmit(90_000);
        cuts.committed(&[e(1), e(2)].into());
        assert!(!cuts.failed(e(1), e(2), 90_000));
        cuts.failed(e(1), e(2), 90_000);
        cuts.forget(&[e(2)].into());
        assert!(!cuts.failed(e(1), e(2), 90_000));
        assert_eq!(cuts.readmits_at_ms(), None);
    }

    proptest! {
        /// Whatever failures are reported, some executor is usable, and none is left out for ever.
        #[test]
        fn some_executor_is_always_usable(reported in prop::collection::vec((1u128..6, 1u128..6, 0i64..20_000), 0..200)) {
            let mut cuts = Cuts::default();
            let mut now_ms = 0;
            for (from, to, wait) in reported {
                now_ms += wait;
                cuts.readmit(now_ms);
                cuts.failed(e(from), e(to), now_ms);
                prop_assert!(!usable(&cuts, 5).is_empty());
            }
            cuts.readmit(now_ms + LEFT_OUT_MAX_MS);
            prop_assert_eq!(usable(&cuts, 5), [1, 2, 3, 4, 5]);
        }
    }
}
