//! Which executor reads which partitions and owns which shards.
//!
//! Owns: a pure `solve(problem, previous)`, as in Quickwit's indexing scheduler. Does not own: when it is called
//! (between batches), what moving costs.
//! Invariants: every partition and shard has exactly one owner; the slice of each owner is contiguous; sizes differ by
//! at most one, larger slices first; solving again changes nothing.

use crate::ids::{ExecutorId, ShardId};
use crate::offsets::SourcePartition;
use std::collections::{BTreeMap, BTreeSet};

/// Partitions and shards to spread over executors.
#[derive(Clone, Debug)]
pub struct AssignProblem {
    /// Sorted.
    pub partitions: Vec<SourcePartition>,
    pub shards: u16,
    pub executors: Vec<ExecutorId>,
}

/// The owners. `order` is the order in which executors take their contiguous slices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    pub order: Vec<ExecutorId>,
    pub partitions: BTreeMap<ExecutorId, Vec<SourcePartition>>,
    /// First shard, and one past the last.
    pub shards: BTreeMap<ExecutorId, (ShardId, ShardId)>,
}

/// Spreads contiguously and evenly, moving as little as possible: executors that stay keep their order, and each
/// new one takes the place that moves least.
pub fn solve(problem: &AssignProblem, previous: Option<&Assignment>) -> Assignment {
    let empty = Assignment::default();
    let previous = previous.unwrap_or(&empty);
    let live: BTreeSet<ExecutorId> = problem.executors.iter().copied().collect();
    let owners = Owners::of(problem, previous);
    let mut order: Vec<ExecutorId> = previous.order.iter().filter(|id| live.contains(id)).copied().collect();
    let newcomers: Vec<ExecutorId> = live.iter().filter(|id| !order.contains(id)).copied().collect();
    for newcomer in newcomers {
        let best = (0..=order.len())
            .map(|place| {
                let mut candidate = order.clone();
                candidate.insert(place, newcomer);
                candidate
            })
            .min_by_key(|candidate| (owners.moves(candidate), usize::MAX - position(candidate, newcomer)));
        order = best.unwrap_or_else(|| vec![newcomer]);
    }
    place(problem, order)
}

fn position(order: &[ExecutorId], id: ExecutorId) -> usize {
    order.iter().position(|other| *other == id).unwrap_or(0)
}

/// Returns the bounds of slice `index` when `total` things are split into `parts` slices; larger slices come first.
fn slice(total: usize, parts: usize, index: usize) -> (usize, usize) {
    let (share, more) = (total / parts, total % parts);
    let start = index * share + index.min(more);
    (start, start + share + usize::from(index < more))
}

fn place(problem: &AssignProblem, order: Vec<ExecutorId>) -> Assignment {
    let mut assignment = Assignment::default();
    for (index, id) in order.iter().enumerate() {
        let (start, end) = slice(problem.partitions.len(), order.len(), index);
        assignment.partitions.insert(*id, problem.partitions[start..end].to_vec());
        let (start, end) = slice(usize::from(problem.shards), order.len(), index);
        assignment.shards.insert(*id, (ShardId(start as u16), ShardId(end as u16)));
    }
    assignment.order = order;
    assignment
}

/// Previous owners, by position of partition and shard; `None` if there was none.
struct Owners {
    partitions: Vec<Option<ExecutorId>>,
    shards: Vec<Option<ExecutorId>>,
}

impl Owners {
    fn of(problem: &AssignProblem, previous: &Assignment) -> Self {
        let mut by_partition = BTreeMap::new();
        for (id, partitions) in &previous.partitions {
            by_partition.extend(partitions.iter().map(|partition| (partition, *id)));
        }
        let partitions = problem.partitions.iter().map(|partition| by_partition.get(partition).copied()).collect();
        let mut shards = vec![None; usize::from(problem.shards)];
        for (id, (first, end)) in &previous.shards {
            for shard in shards.iter_mut().take(usize::from(end.0)).skip(usize::from(first.0)) {
                *shard = Some(*id);
            }
        }
        Self { partitions, shards }
    }

    /// Counts partitions and shards that would change owner, among those that have one.
    fn moves(&self, order: &[ExecutorId]) -> usize {
        let moved = |owners: &[Option<ExecutorId>]| {
            let mut count = 0;
            for (index, id) in order.iter().enumerate() {
                let (start, end) = slice(owners.len(), order.len(), index);
                count += owners[start..end].iter().flatten().filter(|owner| *owner != id).count();
            }
            count
        };
        moved(&self.partitions) + moved(&self.shards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SourceId;
    use crate::offsets::TopicPartition;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn executor(n: u128) -> ExecutorId {
        ExecutorId(Uuid::from_u128(n))
    }

    fn problem(partitions: i32, executors: &[u128]) -> AssignProblem {
        let source = SourceId(0);
        let partition = |p| SourcePartition { source, tp: TopicPartition::new("t", p) };
        AssignProblem {
            partitions: (0..partitions).map(partition).collect(),
            shards: 64,
            executors: executors.iter().map(|n| executor(*n)).collect(),
        }
    }

    fn counts(assignment: &Assignment) -> Vec<usize> {
        assignment.order.iter().map(|id| assignment.partitions[id].len()).collect()
    }

    fn moved(a: &Assignment, b: &Assignment) -> usize {
        let owner = |x: &Assignment, p: &SourcePartition| {
            x.partitions.iter().find(|(_, list)| list.contains(p)).map(|(id, _)| *id)
        };
        b.partitions.values().flatten().filter(|p| owner(a, p) != owner(b, p)).count()
    }

    #[test]
    fn ten_partitions_on_three_executors() {
        let three = solve(&problem(10, &[1, 2, 3]), None);
        assert_eq!(counts(&three), [4, 3, 3]);
        let two = solve(&problem(10, &[1, 3]), Some(&three));
        assert_eq!(counts(&two), [5, 5]);
        assert!(moved(&three, &two) <= 4, "{two:?}");
        let again = solve(&problem(10, &[1, 3, 4]), Some(&two));
        assert_eq!(counts(&again), [4, 3, 3]);
        assert_eq!(moved(&two, &again), 3, "a new executor takes its share and nothing else moves");
    }

    proptest! {
        #[test]
        fn even_contiguous_complete_idempotent(
            partitions in 0i32..40,
            rounds in proptest::collection::vec(proptest::collection::btree_set(1u128..9, 1..6), 1..6),
        ) {
            let mut previous: Option<Assignment> = None;
            for executors in rounds {
                let executors: Vec<u128> = executors.into_iter().collect();
                let problem = problem(partitions, &executors);
                let next = solve(&problem, previous.as_ref());
                let flat: Vec<_> = next.order.iter().flat_map(|id| next.partitions[id].clone()).collect();
                prop_assert_eq!(&flat, &problem.partitions);
                let counts = counts(&next);
                prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
                let mut shard = 0;
                for id in &next.order {
                    let (first, end) = next.shards[id];
                    prop_assert_eq!(first.0, shard);
                    shard = end.0;
                }
                prop_assert_eq!(shard, 64);
                prop_assert_eq!(&solve(&problem, Some(&next)), &next);
                previous = Some(next);
            }
        }

        #[test]
        fn adding_or_removing_one_executor_moves_as_little_as_possible(
            partitions in 0i32..40,
            before in proptest::collection::btree_set(1u128..9, 1..6),
            one in 1u128..9,
        ) {
            let ids: Vec<u128> = before.iter().copied().collect();
            let old = solve(&problem(partitions, &ids), None);
            let mut after = before.clone();
            if !after.remove(&one) {
                after.insert(one);
            }
            prop_assume!(!after.is_empty());
            let problem = problem(partitions, &after.iter().copied().collect::<Vec<_>>());
            let new = solve(&problem, Some(&old));
            let stayed = |order: &[ExecutorId]| order.iter().filter(|id| **id != executor(one)).copied().collect::<Vec<_>>();
            prop_assert_eq!(stayed(&new.order), stayed(&old.order), "executors that stay keep their order");
            let owners = Owners::of(&problem, &old);
            let survivors = stayed(&old.order);
            let places = if after.contains(&one) { 0..=survivors.len() } else { 0..=0 };
            let least = places
                .map(|place| {
                    let mut order = survivors.clone();
                    if after.contains(&one) {
                        order.insert(place, executor(one));
                    }
                    owners.moves(&order)
                })
                .min();
            prop_assert_eq!(Some(owners.moves(&new.order)), least);
        }

        #[test]
        fn larger_slices_come_first_for_partitions_and_shards(partitions in 0i32..40, count in 1u128..8) {
            let assignment = solve(&problem(partitions, &(1..=count).collect::<Vec<_>>()), None);
            let shards = assignment.order.iter().map(|id| usize::from(assignment.shards[id].1.0 - assignment.shards[id].0.0));
            for counts in [counts(&assignment), shards.collect()] {
                prop_assert!(counts.windows(2).all(|pair| pair[0] >= pair[1]), "{:?}", counts);
                prop_assert!(counts[0] - counts[counts.len() - 1] <= 1, "{:?}", counts);
            }
        }
    }
}
