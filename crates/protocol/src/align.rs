//! Watermark alignment: how far each partition is read, so that none runs far ahead of the slowest.
//!
//! Owns: the decision, from committed watermarks and from the [`Mark`]s that consumers report for unread records. Does
//! not own: which partitions are idle, limits. Granularity: the steps between marks, which are the chunks that
//! consumers decode (at most 8192 records or 1 MiB); records not decoded yet count as one step, which is less than a
//! chunk.
//! Invariants: a partition that is further ahead than allowed is not read; any other reads at least one step, so the
//! slowest always advances, and reads more than one step only while that stays within what is allowed.

use crate::offsets::SourcePartition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The end of one step of unread records, and the highest watermark value in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Exclusive end.
    pub position: i64,
    /// Milliseconds; `None` if none of its records has a time.
    pub watermark_ms: Option<i64>,
}

/// What is known about one partition.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// Highest watermark value committed.
    pub watermark_ms: Option<i64>,
    /// First offset not committed.
    pub position: i64,
    /// Position up to which it could be read.
    pub reach: i64,
    /// In ascending order; some may be committed already.
    pub marks: &'a [Mark],
    /// True if the other partitions must wait for this one: it is neither idle nor at its final end.
    pub holds: bool,
}

impl Waiting<'_> {
    fn unread_marks(&self) -> impl Iterator<Item = &Mark> {
        self.marks.iter().filter(|mark| mark.position > self.position && mark.position <= self.reach)
    }

    /// Lower bound of the partition's event time once it is read a little further; `None` if unknown.
    fn time_ms(&self) -> Option<i64> {
        self.watermark_ms.or_else(|| self.unread_marks().next()?.watermark_ms)
    }

    /// Returns the position up to which it may be read while watermarks stay within `bound_ms`.
    fn end(&self, bound_ms: i64) -> i64 {
        if self.watermark_ms.is_some_and(|watermark| watermark > bound_ms) {
            return self.position;
        }
        let mut unread_marks = self.unread_marks();
        let Some(first) = unread_marks.next() else { return self.reach };
        let within = |mark: &&Mark| mark.watermark_ms.is_none_or(|watermark| watermark <= bound_ms);
        match within(&first) {
            true => unread_marks.take_while(within).last().unwrap_or(first).position,
            false => first.position,
        }
    }
}

/// Returns how far each partition may be read, if none may be ahead of the slowest by more than `drift_ms`.
pub fn align(partitions: &BTreeMap<SourcePartition, Waiting<'_>>, drift_ms: i64) -> BTreeMap<SourcePartition, i64> {
    let slowest = partitions.values().filter(|one| one.holds).map(|one| one.time_ms().unwrap_or(i64::MIN)).min();
    let bound_ms = slowest.map_or(i64::MAX, |slowest| slowest.saturating_add(drift_ms));
    partitions.iter().map(|(partition, one)| (partition.clone(), one.end(bound_ms))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SourceId;
    use crate::offsets::TopicPartition;
    use proptest::prelude::*;

    fn p(number: i32) -> SourcePartition {
        SourcePartition { source: SourceId(0), tp: TopicPartition::new("t", number) }
    }

    fn mark(position: i64, watermark_ms: i64) -> Mark {
        Mark { position, watermark_ms: Some(watermark_ms) }
    }

    fn ends(all: &[Waiting<'_>], drift_ms: i64) -> Vec<i64> {
        let all = all.iter().enumerate().map(|(number, one)| (p(number as i32), *one)).collect();
        align(&all, drift_ms).into_values().collect()
    }

    #[test]
    fn fast_partitions_wait_and_slow_ones_read_within_the_drift() {
        let marks = [mark(10, 100), mark(20, 150), mark(30, 400)];
        let slow = Waiting { watermark_ms: Some(90), position: 5, reach: 35, marks: &marks, holds: true };
        let fast = Waiting { watermark_ms: Some(200), marks: &[], ..slow };
        assert_eq!(ends(&[slow, fast], 60), [20, 5], "150 is the bound; the fast one is beyond it");
        assert_eq!(ends(&[slow, fast], 110), [20, 35], "200 is the bound");
        assert_eq!(ends(&[slow, fast], 5), [10, 5], "one step at least");
        assert_eq!(
            ends(&[Waiting { holds: false, ..slow }, fast], 60),
            [20, 35],
            "an idle partition does not hold back the others"
        );
    }

    #[test]
    fn a_partition_with_unknown_time_holds_back_the_others() {
        let unread = Waiting { watermark_ms: None, position: 0, reach: 0, marks: &[], holds: true };
        let read = Waiting { watermark_ms: Some(10), position: 0, reach: 9, ..unread };
        let fresh = Waiting { watermark_ms: None, ..read };
        assert_eq!(ends(&[unread, read, fresh], 1_000), [0, 0, 9]);
        assert_eq!(ends(&[Waiting { holds: false, ..unread }, read], 1_000), [0, 9]);
    }

    proptest! {
        #[test]
        fn the_slowest_advances_and_none_exceeds_the_drift(
            all in proptest::collection::vec(
                (proptest::option::of(0i64..100), proptest::collection::vec(0i64..100, 0..5), any::<bool>()), 1..5),
            drift in 0i64..50,
        ) {
            let marks: Vec<Vec<Mark>> = all.iter().map(|(_, times, _)| {
                let mut high = i64::MIN;
                times.iter().enumerate().map(|(at, time)| { high = high.max(*time); mark(at as i64 + 1, high) }).collect()
            }).collect();
            let waiting: Vec<Waiting<'_>> = all.iter().zip(&marks).map(|((watermark_ms, _, holds), marks)| Waiting {
                watermark_ms: *watermark_ms, position: 0, reach: marks.len() as i64, marks, holds: *holds,
            }).collect();
            let ends = ends(&waiting, drift);
            let slowest = waiting.iter().filter(|one| one.holds).map(|one| one.time_ms().unwrap_or(i64::MIN)).min();
            for (one, end) in waiting.iter().zip(&ends) {
                prop_assert!((0..=one.reach).contains(end));
                let bound = slowest.map_or(i64::MAX, |slowest| slowest.saturating_add(drift));
                let reached = one.marks.iter().rfind(|mark| mark.position <= *end);
                prop_assert!(*end <= 1 || reached.is_some_and(|mark| mark.watermark_ms <= Some(bound)));
                // The slowest of the partitions that others wait for is never held back itself.
                if one.holds && Some(one.time_ms().unwrap_or(i64::MIN)) == slowest {
                    prop_assert!(*end > 0 || one.reach == 0);
                }
            }
        }
    }
}
