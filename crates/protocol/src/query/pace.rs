//! Limits the size of batches after one took too long.
//!
//! Owns: a limit of offsets per source that is halved when an attempt takes too long, and grows again with quick
//! batches.
//! Does not own: when an attempt takes too long (`execute`), other limits (`schedule`). Why: a transaction, and a call
//! between executors, times out after some minutes whatever is left to do; repeating the same batch would fail for
//! ever.

use crate::ids::SourceId;
use crate::offsets::Ranges;
use std::collections::BTreeMap;

/// Limits now in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pace {
    limits: BTreeMap<SourceId, u64>,
}

impl Pace {
    /// Called when a batch of these ranges took too long: limits each source to half the offsets it read.
    pub fn shrink(&mut self, ranges: &Ranges) {
        for (id, read) in offsets(ranges) {
            self.limits.insert(id, (read / 2).max(1));
        }
    }

    /// A batch took `took_ms` of the allowed `max_ms`. If it used up the limit and was quick, the limit grows; if it
    /// was quick and stayed below the limit, the limit is removed.
    pub fn committed(&mut self, ranges: &Ranges, took_ms: i64, max_ms: i64) {
        let read = offsets(ranges);
        self.limits.retain(|id, limit| {
            let used = read.get(id).copied().unwrap_or(0);
            if used >= *limit {
                let grown = if took_ms < max_ms / 4 { *limit } else { *limit / 4 };
                *limit = limit.saturating_add(if took_ms < max_ms / 2 { grown.max(1) } else { 0 });
                return true;
            }
            used == 0 || took_ms >= max_ms / 2
        });
    }

    pub fn limit(&self, id: SourceId) -> Option<u64> {
        self.limits.get(&id).copied()
    }
}

/// Offsets per source.
fn offsets(ranges: &Ranges) -> BTreeMap<SourceId, u64> {
    let mut read: BTreeMap<SourceId, u64> = BTreeMap::new();
    for (partition, range) in ranges {
        *read.entry(partition.source).or_default() += u64::try_from(range.len()).unwrap_or(0);
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offsets::{OffsetRange, SourcePartition, TopicPartition};

    const A: SourceId = SourceId(0);

    fn read(offsets: i64) -> Ranges {
        let partition = |number| SourcePartition { source: A, tp: TopicPartition::new("t", number) };
        let half = offsets / 2;
        let range = |end| OffsetRange { start: 10, end: 10 + end };
        [(partition(0), range(half)), (partition(1), range(offsets - half))].into()
    }

    #[test]
    fn slow_batches_halve_the_limit_and_quick_ones_grow_it() {
        let mut pace = Pace::default();
        assert_eq!(pace.limit(A), None);
        for (size, limit) in [(100, 50), (50, 25), (25, 12), (1, 1), (1, 1)] {
            pace.shrink(&read(size));
            assert_eq!(pace.limit(A), Some(limit));
        }
        for (size, took_ms, limit) in [(1, 10, 2), (2, 60, 2), (2, 30, 3), (3, 24, 6), (6, 24, 12)] {
            pace.committed(&read(size), took_ms, 100);
            assert_eq!(pace.limit(A), Some(limit), "after {size} offsets in {took_ms} ms");
        }
    }

    #[test]
    fn a_limit_ends_when_a_quick_batch_does_not_need_it() {
        let mut pace = Pace::default();
        pace.shrink(&read(100));
        pace.committed(&Ranges::new(), 1, 100);
        assert_eq!(pace.limit(A), Some(50), "a batch without records does not count");
        pace.committed(&read(49), 60, 100);
        assert_eq!(pace.limit(A), Some(50), "it was slow");
        pace.committed(&read(49), 10, 100);
        assert_eq!(pace.limit(A), None);
    }
}
