//! Reading the rows of join keys from state, many keys by one call.
//!
//! Owns: looking up rows that change, and scanning those that they may match. Invariants: a chunk has all rows of a key or
//! none; those that change come first, then the others, in the order of rows. No row is retracted more often than it was
//! inserted.

use super::head;
use super::rows::{Chunk, KeyRows, KeyRuns};
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::changes::Changes;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::portions::Found;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Keys, Scan, Values};
use highwater_protocol::ids::ShardId;
use std::ops::Range;

/// A row that changes: as it was, and the change of its weight.
type Changed = (Option<StoredRow>, i64);

/// Reads the rows of keys, in the order in which they are looked up.
pub struct Reader<'a> {
    changes: &'a [Option<Changes>; 2],
    /// The rows that change, in the order of keys, sides and changes.
    changed: Vec<Changed>,
    /// The next of them.
    next: usize,
}

impl<'a> Reader<'a> {
    pub fn new(changes: &'a [Option<Changes>; 2]) -> Self {
        Self { changes, changed: Vec::new(), next: 0 }
    }

    /// Looks up all rows of these keys that change; they are collected next, in this order.
    pub fn look_up(&mut self, keys: &[KeyRuns<'_>], state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        let (mut read, mut old, mut weights) = (Keys::default(), Values::default(), Vec::new());
        for KeyRuns { key, runs } in keys {
            let shard = state.shard_of(key);
            for (side, run) in runs.iter().enumerate() {
                let Some(all) = &self.changes[side] else { continue };
                for change in run.clone() {
                    read.push(shard, &[&head(side, key), key, all.row(change)]);
                    weights.push(all.weight(change));
                }
            }
        }
        state.get(&read, &mut old)?;
        self.changed.clear();
        self.next = 0;
        for (place, weight) in weights.into_iter().enumerate() {
            let old = StoredRow::read(old.get(place))?;
            let before = old.map_or(0, |old| old.weight);
            self.changed.push((old, state.weight("join", before + weight)? - before));
        }
        Ok(())
    }

    /// Brings the rows of the next keys into the chunk, until it is full. Returns how many keys: at least one, if the chunk
    /// was not full before.
    pub fn collect(
        &mut self,
        keys: &[KeyRuns<'a>],
        state: &KeyedState<'_>,
        chunk: &mut Chunk<'a>,
    ) -> Result<usize, EngineError> {
        // Of a side whose other side changes all rows are wanted.
        let (mut prefixes, mut of) = (Keys::default(), Vec::new());
        for (place, KeyRuns { key, runs }) in keys.iter().enumerate() {
            let shard = state.shard_of(key);
            for side in (0..2).filter(|side| !runs[1 - side].is_empty()) {
                prefixes.push(shard, &[&head(side, key), key]);
                of.push((place, side));
            }
        }
        let scans: Vec<Scan<'_>> = prefixes.iter().map(|(shard, prefix)| Scan::prefix(shard, prefix)).collect();
        let shards = keys.iter().map(|key| state.shard_of(key.key)).collect();
        let portion_bytes = state.portion_bytes();
        let mut filling = Filling { reader: self, keys, shards, chunk, portion_bytes, complete: 0, open: None };
        state.scan_some(&scans, |scan, key, value| {
            let (place, side) = of[scan];
            if !filling.begin(place) {
                return Ok(Found::Waits);
            }
            filling.add(side, &key[prefixes.get(scan).1.len()..], value)?;
            Ok(Found::Taken)
        })?;
        filling.begin(keys.len());
        Ok(filling.complete)
    }
}

/// Keys on their way into a chunk.
struct Filling<'r, 'a> {
    reader: &'r mut Reader<'a>,
    keys: &'r [KeyRuns<'a>],
    shards: Vec<ShardId>,
    chunk: &'r mut Chunk<'a>,
    portion_bytes: usize,
    /// So many keys are in it with all their rows.
    complete: usize,
    /// The key behind those, if it is begun.
    open: Option<Open>,
}

/// A key of which all rows are there that change.
struct Open {
    starts: [usize; 2],
    changed: [usize; 2],
    /// The changes that the scans have not come to.
    rest: [Range<usize>; 2],
}

impl Filling<'_, '_> {
    /// Completes the keys before this one and begins it, if there is one. False: the chunk was full before that.
    fn begin(&mut self, place: usize) -> bool {
        loop {
            if self.complete == place && (self.open.is_some() || place == self.keys.len()) {
                return true;
            }
            if let Some(Open { starts, changed, .. }) = self.open.take() {
                let ends = [self.chunk.stores[0].len(), self.chunk.stores[1].len()];
                let rows = KeyRows { sides: [starts[0]..ends[0], starts[1]..ends[1]], changed };
                self.chunk.add(self.keys[self.complete].key, self.shards[self.complete], rows);
                self.complete += 1;
            } else if self.chunk.is_full(self.portion_bytes) {
                return false;
            } else {
                self.open = Some(self.open_next());
            }
        }
    }

    /// Brings the rows of the next key that change into the chunk.
    fn open_next(&mut self) -> Open {
        let stores = &mut self.chunk.stores;
        let runs = &self.keys[self.complete].runs;
        let starts = [stores[0].len(), stores[1].len()];
        for (side, run) in runs.iter().enumerate() {
            let Some(all) = &self.reader.changes[side] else { continue };
            for change in run.clone() {
                let (old, delta) = self.reader.changed[self.reader.next];
                self.reader.next += 1;
                if delta != 0 || old.is_some() {
                    stores[side].push(all.row(change), old, delta);
                }
            }
        }
        let changed = [stores[0].len() - starts[0], stores[1].len() - starts[1]];
        Open { starts, changed, rest: runs.clone() }
    }

    /// Takes a row of the key that is begun, unless it is one that changes. Rows come in the order that changes have.
    fn add(&mut self, side: usize, row: &[u8], value: &[u8]) -> Result<(), EngineError> {
        if let (Some(all), Some(open)) = (&self.reader.changes[side], &mut self.open) {
            let rest = &mut open.rest[side];
            while rest.start < rest.end && all.row(rest.start) < row {
                rest.start += 1;
            }
            if rest.start < rest.end && all.row(rest.start) == row {
                return Ok(());
            }
        }
        self.chunk.stores[side].push(row, Some(StoredRow::decode(value)?), 0);
        Ok(())
    }
}
