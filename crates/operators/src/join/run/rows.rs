//! The rows of some join keys: their old state, and their changes.
//!
//! Owns: holding them while their pairs are computed, and limiting their number. Does not own: reading them from state
//! (`read`). Invariant: if the other side changes, all rows of the key are held; otherwise only those that change.

use highwater_dataflow::runtime::changes::Changes;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_protocol::ids::ShardId;
use std::ops::Range;

/// Number of pairs, or of rows of one side, from which on a chunk is full.
const CHUNK_PAIRS: usize = 1 << 16;

/// One row of one side.
pub struct Row {
    pub old: Option<StoredRow>,
    /// Change of its weight.
    pub delta: i64,
    /// Number of rows of the other side that match it after the batch.
    pub count: i64,
}

impl Row {
    /// Returns the weight after the batch.
    pub fn weight(&self) -> i64 {
        self.old_weight() + self.delta
    }

    pub fn old_weight(&self) -> i64 {
        self.old.map_or(0, |old| old.weight)
    }
}

/// Rows of many keys of one side.
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

    /// Returns the encoded row at an index.
    pub fn row(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[place]]
    }

    /// Returns the encoded rows.
    pub fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|place| self.row(place))
    }

    pub fn push(&mut self, bytes: &[u8], old: Option<StoredRow>, delta: i64) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self.rows.push(Row { old, delta, count: old.map_or(0, |old| old.count) });
    }
}

/// The changes of one key.
pub struct KeyRuns<'a> {
    pub key: &'a [u8],
    /// Ranges of changes, one per side.
    pub runs: [Range<usize>; 2],
}

/// Returns the changes of both sides by key, in ascending order.
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
    /// Ranges of rows in the stores, one per side.
    pub sides: [Range<usize>; 2],
    /// Number of changed rows per side, which come first in the range.
    pub changed: [usize; 2],
}

impl KeyRows {
    /// Returns the number of pairs of which at least one row changes.
    pub fn pairs(&self) -> usize {
        let [left, right] = [self.sides[0].len(), self.sides[1].len()];
        self.changed[0] * right + (left - self.changed[0]) * self.changed[1]
    }

    /// Returns the ranges of left and right rows to pair: changed left rows with all right rows, and the other left
    /// rows with the changed right rows.
    pub fn blocks(&self) -> [(Range<usize>, Range<usize>); 2] {
        let [left, right] = &self.sides;
        let changed_left = left.start..left.start + self.changed[0];
        let changed_right = right.start..right.start + self.changed[1];
        [(changed_left.clone(), right.clone()), (changed_left.end..left.end, changed_right)]
    }
}

/// Keys whose pairs are emitted together.
#[derive(Default)]
pub struct Chunk<'a> {
    pub keys: Vec<(&'a [u8], ShardId, KeyRows)>,
    pub stores: [Store; 2],
    pairs: usize,
}

impl<'a> Chunk<'a> {
    /// Adds a key whose rows are all in the stores.
    pub fn add(&mut self, key: &'a [u8], shard: ShardId, rows: KeyRows) {
        self.pairs += rows.pairs();
        self.keys.push((key, shard, rows));
    }

    /// Returns whether its pairs must be emitted before more keys are read. A key can have any number of rows on the
    /// other side, so the rows of all keys of a batch might not fit in memory.
    pub fn is_full(&self, portion_bytes: usize) -> bool {
        let of = |store: &Store| store.len() >= CHUNK_PAIRS || store.bytes.len() >= portion_bytes;
        self.pairs >= CHUNK_PAIRS || self.stores.iter().any(of)
    }
}
