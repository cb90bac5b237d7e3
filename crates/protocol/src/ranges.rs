//! Which offsets a micro-batch reads: those available, within the source's limit, split fairly over its partitions.
//!
//! Owns: the split of a source's limit over its partitions. Does not own: where limits come from.
//! Invariants: a range starts at its partition's position, never ends beyond what is available, and is never
//! empty; the offsets of a source never exceed its limit.

use crate::ids::SourceId;
use crate::offsets::{OffsetRange, Positions, Ranges, SourcePartition};
use std::collections::BTreeMap;

/// Plans one range per partition that has something to read. A limited source's offsets are split in proportion
/// to what each partition has (as Spark does); the rounding remainder goes to those cut most, so that no
/// partition starves.
pub fn plan_ranges(
    positions: &Positions,
    available: &BTreeMap<SourcePartition, i64>,
    limits: &BTreeMap<SourceId, u64>,
) -> Ranges {
    let mut wanted: BTreeMap<SourceId, Vec<(&SourcePartition, i64, u64)>> = BTreeMap::new();
    for (partition, end) in available {
        let Some(start) = positions.get(partition) else { continue };
        let Ok(count) = u64::try_from(end.saturating_sub(*start)) else { continue };
        if count > 0 {
            wanted.entry(partition.source).or_default().push((partition, *start, count));
        }
    }
    let mut ranges = Ranges::new();
    for (source, partitions) in wanted {
        let counts: Vec<u64> = partitions.iter().map(|(_, _, count)| *count).collect();
        let shares = match limits.get(&source) {
            Some(limit) => shares(&counts, *limit),
            None => counts,
        };
        for ((partition, start, _), share) in partitions.into_iter().zip(shares) {
            let end = start.saturating_add(i64::try_from(share).unwrap_or(i64::MAX));
            if let Some(range) = OffsetRange::new(start, end).filter(|range| !range.is_empty()) {
                ranges.insert(partition.clone(), range);
            }
        }
    }
    ranges
}

/// Splits `limit` over `counts` in proportion; largest remainders first.
fn shares(counts: &[u64], limit: u64) -> Vec<u64> {
    let total: u128 = counts.iter().map(|count| u128::from(*count)).sum();
    if total <= u128::from(limit) {
        return counts.to_vec();
    }
    let exact = |count: u64| u128::from(count) * u128::from(limit);
    let mut shares: Vec<u64> = counts.iter().map(|count| (exact(*count) / total) as u64).collect();
    let mut left = limit - shares.iter().sum::<u64>();
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse((exact(counts[*i]) % total, counts[*i])));
    for i in order {
        if left == 0 {
            break;
        }
        if shares[i] < counts[i] {
            shares[i] += 1;
            left -= 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offsets::TopicPartition;
    use proptest::prelude::*;

    fn p(source: u32, partition: i32) -> SourcePartition {
        SourcePartition { source: SourceId(source), tp: TopicPartition::new("t", partition) }
    }

    #[test]
    fn without_a_limit_everything_available_is_read() {
        let positions = Positions::from([(p(0, 0), 5), (p(0, 1), 7), (p(0, 2), 1)]);
        let available = BTreeMap::from([(p(0, 0), 9), (p(0, 1), 7), (p(0, 9), 4)]);
        let ranges = plan_ranges(&positions, &available, &BTreeMap::new());
        assert_eq!(ranges, Ranges::from([(p(0, 0), OffsetRange { start: 5, end: 9 })]));
    }

    proptest! {
        #[test]
        fn a_limit_is_used_up_in_proportion_and_never_exceeded(
            counts in proptest::collection::vec(0i64..1_000, 1..12),
            limit in 1u64..2_000,
        ) {
            let positions: Positions = (0..counts.len()).map(|i| (p(0, i as i32), 10)).collect();
            let available = counts.iter().enumerate().map(|(i, n)| (p(0, i as i32), 10 + n)).collect();
            let ranges = plan_ranges(&positions, &available, &BTreeMap::from([(SourceId(0), limit)]));
            let total: i64 = counts.iter().sum();
            let read: i64 = ranges.values().map(OffsetRange::len).sum();
            prop_assert_eq!(read, total.min(limit as i64));
            for (i, count) in counts.iter().enumerate() {
                let share = ranges.get(&p(0, i as i32)).map_or(0, OffsetRange::len);
                prop_assert!(share <= *count);
                let fair = *count as f64 * (limit as f64 / total as f64).min(1.0);
                prop_assert!((share as f64 - fair).abs() <= 1.0);
            }
        }

        #[test]
        fn ranges_start_at_the_position_and_end_within_what_is_available(
            found in proptest::collection::vec((0u32..3, 0i32..4, 0i64..50, 0i64..50), 0..12),
            limits in proptest::collection::btree_map(0u32..3, 0u64..40, 0..3),
        ) {
            let positions: Positions = found.iter().map(|(source, n, position, _)| (p(*source, *n), *position)).collect();
            let available: BTreeMap<_, _> = found.iter().map(|(source, n, _, end)| (p(*source, *n), *end)).collect();
            let limits: BTreeMap<SourceId, u64> = limits.into_iter().map(|(id, limit)| (SourceId(id), limit)).collect();
            let ranges = plan_ranges(&positions, &available, &limits);
            for (partition, range) in &ranges {
                prop_assert_eq!(range.start, positions[partition]);
                prop_assert!(range.start < range.end && range.end <= available[partition]);
            }
            for source in (0..3).map(SourceId) {
                let sum = |map: &mut dyn Iterator<Item = (&SourcePartition, i64)>| {
                    map.filter(|(partition, _)| partition.source == source).map(|(_, count)| count as u64).sum::<u64>()
                };
                let offered = sum(&mut available.iter().map(|(p, end)| (p, (end - positions[p]).max(0))));
                let read = sum(&mut ranges.iter().map(|(p, range)| (p, range.len())));
                prop_assert_eq!(read, limits.get(&source).map_or(offered, |limit| offered.min(*limit)));
            }
        }

        #[test]
        fn under_a_limit_no_partition_starves(
            counts in proptest::collection::vec(0i64..200, 1..8),
            limit in 1u64..50,
        ) {
            let mut positions: Positions = (0..counts.len()).map(|i| (p(0, i as i32), 0)).collect();
            let available: BTreeMap<_, _> = counts.iter().enumerate().map(|(i, n)| (p(0, i as i32), *n)).collect();
            let total: i64 = counts.iter().sum();
            let mut rounds = 0;
            while positions != available {
                let ranges = plan_ranges(&positions, &available, &BTreeMap::from([(SourceId(0), limit)]));
                prop_assert!(!ranges.is_empty());
                positions.extend(ranges.into_iter().map(|(partition, range)| (partition, range.end)));
                rounds += 1;
            }
            prop_assert_eq!(rounds, (total as u64).div_ceil(limit), "every batch is full but the last");
        }
    }
}
