//! A partition before and after a batch, computed in one pass over its rows.
//!
//! Owns: merging a batch's changes with the rows of state, in order, and how far the pass must go. Does not own:
//! reading and writing state. Invariant: with a limit, the pass ends once the limit is reached both before and after
//! the batch.

use super::partition::{Entry, First};
use crate::over::RankLimit;
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::slice::Iter;

/// The pass over one partition.
pub struct Merge<'a> {
    /// Changes that the pass has not reached yet.
    changes: Peekable<Iter<'a, Entry>>,
    before: First,
    after: First,
    /// Whether rows behind the limit are removed from state.
    prunes: bool,
    pruned: Vec<Rc<[u8]>>,
    /// Close time of the first row after the batch; `None` if there is no row.
    first_close: Option<i64>,
}

/// The result of a pass over one partition.
pub struct Merged {
    /// The rows within the limit before the batch.
    pub before: Vec<Entry>,
    /// The rows within the limit after the batch.
    pub after: Vec<Entry>,
    /// State keys of rows to remove, because they are behind the limit.
    pub pruned: Vec<Rc<[u8]>>,
    /// Close time of the first row that stays; `None` if no row stays.
    pub first_close: Option<i64>,
}

impl<'a> Merge<'a> {
    /// `changes` are the changed rows with their weights after the batch (0 if deleted), in the order of their keys.
    pub fn new(changes: &'a [Entry], limit: Option<RankLimit>, prunes: bool) -> Self {
        Self {
            changes: changes.iter().peekable(),
            before: First::new(limit),
            after: First::new(limit),
            prunes,
            pruned: Vec::new(),
            first_close: None,
        }
    }

    /// Takes the next row of state. Breaks once no more rows are needed.
    pub fn take(&mut self, entry: &Entry) -> ControlFlow<()> {
        while let Some(change) = self.changes.next_if(|change| change.key < entry.key) {
            self.is_there(change);
        }
        self.before.take(entry);
        let change = self.changes.next_if(|change| change.key == entry.key);
        self.is_there(change.unwrap_or(entry));
        match self.before.is_full && self.after.is_full && !self.prunes {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Takes the next row after the batch.
    fn is_there(&mut self, entry: &Entry) {
        if entry.weight <= 0 {
            return;
        }
        self.after.take(entry);
        if self.prunes && self.after.is_full {
            self.pruned.push(entry.key.clone());
        } else {
            self.first_close.get_or_insert(entry.close_ms);
        }
    }

    /// Ends the pass, when state has no more rows of the partition or no more are needed.
    pub fn finish(mut self) -> Merged {
        while let Some(change) = self.changes.next() {
            self.is_there(change);
        }
        let Self { before, after, pruned, first_close, .. } = self;
        Merged { before: before.entries, after: after.entries, pruned, first_close }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::over::Rank;
    use highwater_dataflow::runtime::stored_row::StoredRow;

    /// Returns rows of one byte, which is also their order.
    fn rows(rows: &[(u8, i64)]) -> Vec<Entry> {
        let entry = |(row, weight): &(u8, i64)| {
            Entry::new(&[0, *row], 1, StoredRow { close_ms: i64::from(*row), weight: *weight, count: 1 }).unwrap()
        };
        rows.iter().map(entry).collect()
    }

    fn found(entries: &[Entry]) -> Vec<(u8, i64)> {
        entries.iter().map(|entry| (entry.order()[0], entry.weight)).collect()
    }

    /// Returns the merged partition, and how many rows of state were read.
    fn merged(state: &[(u8, i64)], changes: &[(u8, i64)], most: u64, prunes: bool) -> (Merged, usize) {
        let (state, changes) = (rows(state), rows(changes));
        let mut merge = Merge::new(&changes, Some(RankLimit { rank: Rank::RowNumber, most, skip: 0 }), prunes);
        let last = state.iter().position(|entry| merge.take(entry).is_break());
        (merge.finish(), last.map_or(state.len(), |last| last + 1))
    }

    #[test]
    fn rows_behind_the_limit_move_up_where_others_go() {
        let state: Vec<(u8, i64)> = (0..100).map(|row| (row * 2, 1)).collect();
        let (merged, seen) = merged(&state, &[(0, 0), (2, 0), (7, 1), (200, 1)], 3, false);
        assert_eq!(found(&merged.before), [(0, 1), (2, 1), (4, 1)]);
        assert_eq!(found(&merged.after), [(4, 1), (6, 1), (7, 1)]);
        assert_eq!((merged.first_close, merged.pruned.len()), (Some(4), 0));
        assert_eq!(seen, 5);
    }

    #[test]
    fn rows_behind_the_limit_are_pruned_where_nothing_is_taken_back() {
        let (merged, _) = merged(&[(3, 1), (5, 1)], &[(4, 2), (5, 2), (9, 1)], 2, true);
        assert_eq!(found(&merged.after), [(3, 1), (4, 2)]);
        let pruned: Vec<u8> = merged.pruned.iter().map(|key| key[1]).collect();
        assert_eq!((pruned, merged.first_close), (vec![5, 9], Some(3)));
    }

    #[test]
    fn a_partition_may_come_and_go() {
        let (come, _) = merged(&[], &[(4, 1)], 2, false);
        assert_eq!((found(&come.before), found(&come.after), come.first_close), (vec![], vec![(4, 1)], Some(4)));
        let (gone, _) = merged(&[(4, 1)], &[(4, 0)], 2, false);
        assert_eq!((found(&gone.before), found(&gone.after), gone.first_close), (vec![(4, 1)], vec![], None));
        let (none, _) = merged(&[(4, 1)], &[(5, 1)], 0, true);
        assert_eq!((found(&none.after), none.pruned.len(), none.first_close), (vec![], 2, None));
    }
}
