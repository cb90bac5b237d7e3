//! Watermarks: how far event time is known to be complete, per source, computed from its partitions.
//!
//! Owns: the minimum over partitions and when a partition counts as idle. Does not own: lateness and closing
//! windows (plans carry the values, operators apply them).
//! Invariant: a watermark never goes back.

use crate::offsets::SourcePartition;
use crate::prepare_record::SourceWatermark;
use std::collections::{BTreeMap, BTreeSet};

/// Records the values that a batch has seen and moves the watermark to the minimum over partitions that are not idle.
/// A partition without a value holds it back until it is idle; if all are idle it is the maximum value seen.
pub fn advance(
    watermark: &mut SourceWatermark,
    seen: impl IntoIterator<Item = (SourcePartition, i64)>,
    partitions: &BTreeSet<SourcePartition>,
    idle: &BTreeSet<SourcePartition>,
) {
    for (partition, value) in seen {
        let newest = watermark.partitions.entry(partition).or_insert(value);
        *newest = (*newest).max(value);
    }
    let mut active = partitions.iter().filter(|partition| !idle.contains(*partition)).peekable();
    let next = if active.peek().is_none() {
        watermark.partitions.values().copied().max()
    } else {
        active
            .map(|partition| watermark.partitions.get(partition).copied())
            .collect::<Option<Vec<_>>>()
            .and_then(|values| values.into_iter().min())
    };
    watermark.current_ms = watermark.current_ms.max(next);
}

/// How long a report of the brokers about the end of a log counts, milliseconds. They are asked every second.
const CONFIRMED_FOR_MS: i64 = 5_000;

/// Tracks which partitions are idle: the brokers confirmed, for the whole timeout and without a gap, that everything in
/// the log is read, open transactions included. A partition without a recent confirmation is active: its consumer may
/// have lost its connection, or wait behind a transaction, and records written meanwhile arrive later.
#[derive(Clone, Debug)]
pub struct IdleTracker {
    timeout_ms: Option<i64>,
    at_end: BTreeMap<SourcePartition, AtEnd>,
}

/// A partition that was read to its end, times in milliseconds.
#[derive(Clone, Copy, Debug)]
struct AtEnd {
    since_ms: i64,
    confirmed_ms: i64,
}

impl IdleTracker {
    /// `None` means that no partition is ever idle.
    pub fn new(timeout_ms: Option<u64>) -> Self {
        let timeout_ms = timeout_ms.map(|timeout| i64::try_from(timeout).unwrap_or(i64::MAX));
        Self { timeout_ms, at_end: BTreeMap::new() }
    }

    /// Compares the committed position with the end of the log that the brokers report at `now_ms`.
    pub fn confirm(&mut self, partition: &SourcePartition, committed: i64, log_end: i64, now_ms: i64) {
        if committed < log_end {
            self.forget(partition);
            return;
        }
        let fresh = AtEnd { since_ms: now_ms, confirmed_ms: now_ms };
        let known = self.at_end.entry(partition.clone()).or_insert(fresh);
        if known.is_recent(now_ms) {
            known.confirmed_ms = now_ms;
        } else {
            *known = fresh;
        }
    }

    /// Marks the partition as active: it has unread records, or has lost its reader.
    pub fn forget(&mut self, partition: &SourcePartition) {
        self.at_end.remove(partition);
    }

    /// Returns the partitions that are idle at `now_ms`.
    pub fn idle(&self, now_ms: i64) -> BTreeSet<SourcePartition> {
        let Some(timeout_ms) = self.timeout_ms else { return BTreeSet::new() };
        let idle = self
            .at_end
            .iter()
            .filter(|(_, end)| end.is_recent(now_ms) && end.confirmed_ms.saturating_sub(end.since_ms) >= timeout_ms);
        idle.map(|(partition, _)| partition.clone()).collect()
    }
}

impl AtEnd {
    fn is_recent(&self, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.confirmed_ms) <= CONFIRMED_FOR_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SourceId;
    use crate::offsets::TopicPartition;
    use proptest::prelude::*;

    fn p(partition: i32) -> SourcePartition {
        SourcePartition { source: SourceId(0), tp: TopicPartition::new("t", partition) }
    }

    #[test]
    fn a_silent_partition_holds_back_the_watermark_until_idle() {
        let all = BTreeSet::from([p(0), p(1)]);
        let mut watermark = SourceWatermark::default();
        advance(&mut watermark, [(p(0), 100)], &all, &BTreeSet::new());
        assert_eq!(watermark.current_ms, None);
        advance(&mut watermark, [], &all, &BTreeSet::from([p(1)]));
        assert_eq!(watermark.current_ms, Some(100));
        advance(&mut watermark, [(p(1), 50)], &all, &BTreeSet::new());
        assert_eq!(watermark.current_ms, Some(100), "never goes back");
        advance(&mut watermark, [], &all, &all);
        assert_eq!(watermark.current_ms, Some(100));
    }

    #[test]
    fn idle_means_read_to_the_end_of_the_log_for_the_whole_timeout() {
        let mut idle = IdleTracker::new(Some(10));
        idle.confirm(&p(0), 5, 9, 0);
        assert_eq!(idle.idle(1_000), BTreeSet::new(), "some records are not committed");
        idle.confirm(&p(0), 9, 9, 1_000);
        assert_eq!(idle.idle(1_010), BTreeSet::new(), "confirmed once, but not for the whole timeout");
        idle.confirm(&p(0), 9, 9, 1_009);
        assert_eq!(idle.idle(1_010), BTreeSet::new());
        idle.confirm(&p(0), 9, 9, 1_010);
        assert_eq!(idle.idle(1_010), BTreeSet::from([p(0)]));
        idle.confirm(&p(0), 9, 10, 1_011);
        assert_eq!(idle.idle(2_000), BTreeSet::new());
        idle.confirm(&p(0), 10, 10, 2_000);
        idle.forget(&p(0));
        assert_eq!(idle.idle(2_100), BTreeSet::new(), "without a reader it is active");
    }

    #[test]
    fn a_partition_without_a_recent_confirmation_is_active() {
        let mut idle = IdleTracker::new(Some(10));
        for now_ms in [0, 10] {
            idle.confirm(&p(0), 9, 9, now_ms);
        }
        assert_eq!(idle.idle(10 + CONFIRMED_FOR_MS), BTreeSet::from([p(0)]));
        assert_eq!(idle.idle(11 + CONFIRMED_FOR_MS), BTreeSet::new(), "the brokers have been silent for too long");
        idle.confirm(&p(0), 9, 9, 20_000);
        assert_eq!(idle.idle(20_000), BTreeSet::new(), "records may have been written while the broker was away");
        idle.confirm(&p(0), 9, 9, 20_010);
        assert_eq!(idle.idle(20_010), BTreeSet::from([p(0)]));
    }

    proptest! {
        #[test]
        fn never_ahead_of_an_active_partition(steps in proptest::collection::vec((0i32..3, 0i64..100), 1..40)) {
            let all = BTreeSet::from([p(0), p(1), p(2)]);
            let mut watermark = SourceWatermark::default();
            for (partition, value) in steps {
                let before = watermark.current_ms;
                advance(&mut watermark, [(p(partition), value)], &all, &BTreeSet::new());
                prop_assert!(watermark.current_ms >= before);
                for partition in &all {
                    prop_assert!(watermark.current_ms <= watermark.partitions.get(partition).copied());
                }
            }
        }

        #[test]
        fn it_is_the_minimum_of_the_active_partitions_and_never_goes_back(
            steps in proptest::collection::vec((0i32..3, 0i64..100, proptest::collection::btree_set(0i32..3, 0..=3)), 1..40),
        ) {
            let all = BTreeSet::from([p(0), p(1), p(2)]);
            let mut watermark = SourceWatermark::default();
            let mut highest: BTreeMap<i32, i64> = BTreeMap::new();
            for (partition, value, idle) in steps {
                let before = watermark.current_ms;
                advance(&mut watermark, [(p(partition), value)], &all, &idle.iter().map(|n| p(*n)).collect());
                let newest = highest.entry(partition).or_insert(value);
                *newest = (*newest).max(value);
                let active: Vec<i32> = (0..3).filter(|n| !idle.contains(n)).collect();
                let expected = match active.iter().map(|n| highest.get(n).copied()).collect::<Option<Vec<_>>>() {
                    Some(values) if values.is_empty() => highest.values().copied().max(),
                    Some(values) => values.into_iter().min(),
                    None => None,
                };
                prop_assert_eq!(watermark.current_ms, before.max(expected));
            }
        }

        #[test]
        fn idle_means_confirmed_at_the_end_without_a_gap(
            timeout in 1u64..8_000,
            steps in proptest::collection::vec((1i64..6_000, 0u8..6), 1..40),
        ) {
            let mut tracker = IdleTracker::new(Some(timeout));
            let (mut now, mut end) = (0i64, None);
            for (step, kind) in steps {
                now += step;
                match kind {
                    0 => tracker.confirm(&p(0), 5, 9, now),
                    1 => {}
                    2 => tracker.forget(&p(0)),
                    _ => tracker.confirm(&p(0), 9, 9, now),
                }
                end = match kind {
                    1 => end,
                    0 | 2 => None,
                    _ => Some(match end {
                        Some((since, confirmed)) if now - confirmed <= CONFIRMED_FOR_MS => (since, now),
                        _ => (now, now),
                    }),
                };
                let expected = end.is_some_and(|(since, confirmed)| {
                    confirmed - since >= timeout as i64 && now - confirmed <= CONFIRMED_FOR_MS
                });
                prop_assert_eq!(tracker.idle(now).contains(&p(0)), expected);
            }
        }
    }
}
