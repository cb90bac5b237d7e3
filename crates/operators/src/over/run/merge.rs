//! A partition as a batch finds it and as it leaves it, in one walk over its rows.
//!
//! Owns: laying a batch's changes over the rows of state, in order, and how far a walk must go. Does not own: reading and
//! writing state. Invariant: with a limit a walk ends once neither what was nor what is has any more rows within it.

use super::partition::{Entry, First};
use crate::over::RankLimit;
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::slice::Iter;

/// The walk along one partition.
pub struct Merge<'a> {
    /// Those not met yet.
    changes: Peekable<Iter<'a, Entry>>,
    before: First,
    after: First,
    /// Rows behind the limit are forgotten.
    prunes: bool,
    pruned: Vec<Rc<[u8]>>,
    /// When the first row of those that are there now closes.
    first_close: Option<i64>,
}

/// One partition.
pub struct Merged {
    /// The rows within the limit, as they were and as they are.
    pub before: Vec<Entry>,
    pub after: Vec<Entry>,
    /// Keys of rows that are forgotten because they are behind the limit.
    pub pruned: Vec<Rc<[u8]>>,
    /// When the first of the rows that stay closes; `None`: none stays.
    pub first_close: Option<i64>,
}

impl<'a> Merge<'a> {
    /// `changes`: rows as they are after the batch, in the order of their keys; of weight 0 where they are gone.
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

    /// Takes the next row of state; breaks off where no more are needed.
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

    /// Takes the next of the rows as they are.
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

    /// State has no more rows of the partition.
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

    /// Rows of one byte, which is their order, too.
    fn rows(rows: &[(u8, i64)]) -> Vec<Entry> {
        let entry = |(row, weight): &(u8, i64)| {
            Entry::new(&[0, *row], 1, StoredRow { close_ms: i64::from(*row), weight: *weight, count: 1 }).unwrap()
        };
        rows.iter().map(entry).collect()
    }

    fn found(entries: &[Entry]) -> Vec<(u8, i64)> {
        entries.iter().map(|entry| (entry.order()[0], entry.weight)).collect()
    }

    /// The partition, and how many rows of state were looked at.
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
