//! Watermarks: how far event time is known to be complete, per source, from its partitions.
//!
//! Owns: the minimum over partitions and when a partition counts as idle. Does not own: lateness and closing
//! windows (plans carry the values, operators apply them).
//! Invariant: a watermark never goes back.

use crate::offsets::SourcePartition;
use crate::record::SourceWatermark;
use std::collections::{BTreeMap, BTreeSet};

/// Takes the values a batch has seen and moves the watermark to the least over partitions that are not idle.
/// A partition without a value holds it back until it is idle; if all are idle it is the greatest value seen.
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

/// Knows which partitions are idle: read to their end, and at that end, for the whole timeout. One that is
/// unread, throttled or without a reader is active, because records may be waiting in it.
#[derive(Clone, Debug)]
pub struct IdleTracker {
    timeout_ms: Option<i64>,
    /// Since when each partition has been read to its end.
    since_ms: BTreeMap<SourcePartition, i64>,
}

impl IdleTracker {
    /// Without a timeout nothing is ever idle.
    pub fn new(timeout_ms: Option<u64>) -> Self {
        let timeout_ms = timeout_ms.map(|timeout| i64::try_from(timeout).unwrap_or(i64::MAX));
        Self { timeout_ms, since_ms: BTreeMap::new() }
    }

    /// Notes what a consumer has reached, and what is committed of it.
    pub fn observe(&mut self, partition: &SourcePartition, committed: i64, position: i64, at_end: bool, now_ms: i64) {
        if at_end && committed >= position {
            self.since_ms.entry(partition.clone()).or_insert(now_ms);
        } else {
            self.since_ms.remove(partition);
        }
    }

    /// The partition has lost its reader.
    pub fn forget(&mut self, partition: &SourcePartition) {
        self.since_ms.remove(partition);
    }

    /// Partitions idle at `now_ms`.
    pub fn idle(&self, now_ms: i64) -> BTreeSet<SourcePartition> {
        let Some(timeout_ms) = self.timeout_ms else { return BTreeSet::new() };
        let idle = self.since_ms.iter().filter(|(_, since)| now_ms.saturating_sub(**since) >= timeout_ms);
        idle.map(|(partition, _)| partition.clone()).collect()
    }

    /// When the next partition becomes idle, milliseconds.
    pub fn next_deadline_ms(&self, now_ms: i64) -> Option<i64> {
        let timeout_ms = self.timeout_ms?;
        self.since_ms.values().map(|since| since.saturating_add(timeout_ms)).filter(|at| *at > now_ms).min()
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
    fn a_silent_partition_holds_until_idle() {
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
    fn idle_means_read_to_its_end_for_the_whole_timeout() {
        let mut idle = IdleTracker::new(Some(10));
        idle.observe(&p(0), 5, 9, true, 0);
        assert_eq!(idle.idle(1_000), BTreeSet::new(), "read ahead but not committed");
        idle.observe(&p(0), 9, 9, true, 1_000);
        assert_eq!(idle.next_deadline_ms(1_000), Some(1_010));
        assert_eq!(idle.idle(1_009), BTreeSet::new());
        assert_eq!(idle.idle(1_010), BTreeSet::from([p(0)]));
        idle.observe(&p(0), 9, 10, false, 1_011);
        assert_eq!(idle.idle(2_000), BTreeSet::new());
        idle.observe(&p(0), 10, 10, true, 2_000);
        idle.forget(&p(0));
        assert_eq!(idle.idle(9_000), BTreeSet::new(), "without a reader it is active");
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
        fn it_is_the_least_of_the_active_partitions_and_never_goes_back(
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
        fn idle_is_read_to_its_end_without_a_break(
            timeout in 1u64..50,
            steps in proptest::collection::vec((1i64..30, 0u8..4), 1..40),
        ) {
            let mut tracker = IdleTracker::new(Some(timeout));
            let (mut now, mut since) = (0i64, None);
            for (step, kind) in steps {
                now += step;
                match kind {
                    0 => tracker.observe(&p(0), 5, 9, true, now),
                    1 => tracker.observe(&p(0), 9, 9, false, now),
                    2 => tracker.forget(&p(0)),
                    _ => tracker.observe(&p(0), 9, 9, true, now),
                }
                since = (kind == 3).then(|| since.unwrap_or(now));
                let expected = since.is_some_and(|since| now - since >= timeout as i64);
                prop_assert_eq!(tracker.idle(now).contains(&p(0)), expected);
                let deadline = since.map(|since| since + timeout as i64).filter(|at| *at > now);
                prop_assert_eq!(tracker.next_deadline_ms(now), deadline);
            }
        }
    }
}
