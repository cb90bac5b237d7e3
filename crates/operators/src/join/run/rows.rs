//! The rows of some join keys: as they were, and what changes.
//!
//! Owns: reading them from state. Invariant: where the other side changes, all rows of the key are there; else
//! only those that change. No row is retracted more often than it was inserted.

use super::head;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::changes::Changes;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Keys, Scan, Values};
use highwater_protocol::ids::ShardId;
use std::ops::{ControlFlow, Range};

/// One row of one side.
pub struct Row {
    pub old: Option<StoredRow>,
    /// Change of its weight.
    pub delta: i64,
    /// Rows of the other side that match it, after the batch.
    pub count: i64,
}

impl Row {
    /// After the batch.
    pub fn weight(&self) -> i64 {
        self.old_weight() + self.delta
    }

    pub fn old_weight(&self) -> i64 {
        self.old.map_or(0, |old| old.weight)
    }
}

/// Rows of one side, of many keys.
#[derive(Default)]
pub struct Store {
    pub rows: Vec<Row>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Store {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The encoded row at a place.
    pub fn row(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[place]]
    }

    /// The encoded rows.
    pub fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|place| self.row(place))
    }

    fn push(&mut self, bytes: &[u8], old: Option<StoredRow>, delta: i64) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self.rows.push(Row { old, delta, count: old.map_or(0, |old| old.count) });
    }
}

/// The changes of one key.
pub struct KeyRuns<'a> {
    pub key: &'a [u8],
    /// Of each side.
    pub runs: [Range<usize>; 2],
}

/// The changes of both sides by key, ascending.
pub fn key_runs(changes: &[Option<Changes>; 2]) -> impl Iterator<Item = KeyRuns<'_>> {
    let mut at = [0usize; 2];
    std::iter::from_fn(move || {
        let next = |side: usize| changes[side].as_ref().filter(|c| at[side] < c.len()).map(|c| c.key(at[side]));
        let nexts = [next(0), next(1)];
        let key = nexts.into_iter().flatten().min()?;
        let mut runs = [0..0, 0..0];
        for side in 0..2 {
            if let Some(all) = changes[side].as_ref().filter(|_| nexts[side] == Some(key)) {
                runs[side] = at[side]..all.key_end(at[side]);
                at[side] = runs[side].end;
            }
        }
        Some(KeyRuns { key, runs })
    })
}

/// The rows of one key.
pub struct KeyRows {
    /// Places in the stores.
    pub sides: [Range<usize>; 2],
    /// Those of them that change come first; so many do.
    pub changed: [usize; 2],
}

impl KeyRows {
    /// Pairs of which at least one row changes.
    pub fn pairs(&self) -> usize {
        let [left, right] = [self.sides[0].len(), self.sides[1].len()];
        self.changed[0] * right + (left - self.changed[0]) * self.changed[1]
    }

    /// Places of both sides to be paired: changed left rows with all right ones, the other left rows with the
    /// right ones that change.
    pub fn blocks(&self) -> [(Range<usize>, Range<usize>); 2] {
        let [left, right] = &self.sides;
        let changed_left = left.start..left.start + self.changed[0];
        let changed_right = right.start..right.start + self.changed[1];
        [(changed_left.clone(), right.clone()), (changed_left.end..left.end, changed_right)]
    }
}

/// Reads the rows of keys, one key after the other.
pub struct Reader<'a> {
    changes: &'a [Option<Changes>; 2],
    keys: Keys,
    /// The rows that change as they were, in the order of keys, sides and changes.
    old: Values,
    /// The next of them.
    next: usize,
    prefixes: [Vec<u8>; 2],
}

impl<'a> Reader<'a> {
    pub fn new(changes: &'a [Option<Changes>; 2]) -> Self {
        Self { changes, keys: Keys::default(), old: Values::default(), next: 0, prefixes: Default::default() }
    }

    /// Looks up all rows of these keys that change; they are collected next, in this order.
    pub fn look_up(&mut self, keys: &[KeyRuns<'_>], state: &KeyedState<'_>) -> Result<(), EngineError> {
        self.keys.clear();
        self.next = 0;
        for KeyRuns { key, runs } in keys {
            let shard = state.shard_of(key);
            for (side, run) in runs.iter().enumerate() {
                let Some(all) = &self.changes[side] else { continue };
                run.clone().for_each(|change| self.keys.push(shard, &[&head(side, key), key, all.row(change)]));
            }
        }
        state.get(&self.keys, &mut self.old)
    }

    /// Brings the rows of the next key into the stores.
    pub fn collect(
        &mut self,
        KeyRuns { key, runs }: &KeyRuns<'_>,
        shard: ShardId,
        state: &mut KeyedState<'_>,
        stores: &mut [Store; 2],
    ) -> Result<KeyRows, EngineError> {
        let starts = [stores[0].len(), stores[1].len()];
        for side in 0..2 {
            let Some(all) = &self.changes[side] else { continue };
            for change in runs[side].clone() {
                let old = StoredRow::read(self.old.get(self.next))?;
                self.next += 1;
                let before = old.map_or(0, |old| old.weight);
                let delta = state.weight("join", before + all.weight(change))? - before;
                if delta != 0 || old.is_some() {
                    stores[side].push(all.row(change), old, delta);
                }
            }
        }
        let changed = [stores[0].len() - starts[0], stores[1].len() - starts[1]];
        self.collect_others(key, runs, shard, state, stores)?;
        Ok(KeyRows { sides: [starts[0]..stores[0].len(), starts[1]..stores[1].len()], changed })
    }

    /// Brings the rows that do not change into the stores, of sides whose other side changes.
    fn collect_others(
        &mut self,
        key: &[u8],
        runs: &[Range<usize>; 2],
        shard: ShardId,
        state: &KeyedState<'_>,
        stores: &mut [Store; 2],
    ) -> Result<(), EngineError> {
        for (side, prefix) in self.prefixes.iter_mut().enumerate() {
            prefix.clear();
            prefix.extend_from_slice(&head(side, key));
            prefix.extend_from_slice(key);
        }
        let [left, right] = &self.prefixes;
        let scans = [Scan::prefix(shard, left), Scan::prefix(shard, right)];
        let wanted = match [runs[1].is_empty(), runs[0].is_empty()] {
            [false, false] => 0..2,
            [false, true] => 0..1,
            [true, false] => 1..2,
            [true, true] => 0..0,
        };
        // Both are in the order of rows.
        let mut rest = runs.clone();
        state.scan(&scans[wanted.clone()], &mut |place, key, value| {
            let side = wanted.start + place;
            let (row, run) = (&key[self.prefixes[side].len()..], &mut rest[side]);
            if let Some(all) = &self.changes[side] {
                while run.start < run.end && all.row(run.start) < row {
                    run.start += 1;
                }
                if run.start < run.end && all.row(run.start) == row {
                    return Ok(ControlFlow::Continue(()));
                }
            }
            stores[side].push(row, Some(StoredRow::decode(value)?), 0);
            Ok(ControlFlow::Continue(()))
        })
    }
}
