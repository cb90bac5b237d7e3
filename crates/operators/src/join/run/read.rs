//! Reading the rows of join keys from state, many keys per call.
//!
//! Owns: looking up rows that change, and scanning rows that they may match. Invariants: a chunk has all rows of a key
//! or none; changed rows come first, then the others, each in the order of rows. No row is retracted more often than it
//! was inserted.

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

/// A row that changes: its old state, and the change of its weight.
type Changed = (Option<StoredRow>, i64);

/// Reads the rows of keys, in the order in which they are looked up.
pub struct Reader<'a> {
    changes: &'a [Option<Changes>; 2],
    /// The rows that change, in the order of keys, sides and changes.
    changed: Vec<Changed>,
    /// Index of the next changed row to collect.
    next: usize,
}

impl<'a> Reader<'a> {
    pub fn new(changes: &'a [Option<Changes>; 2]) -> Self {
        Self { changes, changed: Vec::new(), next: 0 }
    }

    /// Looks up all changed rows of these keys. `collect` must then be called for these keys, in this order.
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

    /// Adds the rows of the next keys to the chunk, until it is full. Returns the number of keys added: at least one,
    /// unless the chunk was full before.
    pub fn collect(
        &mut self,
        keys: &[KeyRuns<'a>],
        state: &KeyedState<'_>,
        chunk: &mut Chunk<'a>,
    ) -> Result<usize, EngineError> {
        // If one side changes, all rows of the other side are needed.
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

/// Keys that are being added to a chunk.
struct Filling<'r, 'a> {
    reader: &'r mut Reader<'a>,
    keys: &'r [KeyRuns<'a>],
    shards: Vec<ShardId>,
    chunk: &'r mut Chunk<'a>,
    portion_bytes: usize,
    /// Number of keys that are in the chunk with all their rows.
    complete: usize,
    /// The next key, if some of its rows are in the chunk.
    open: Option<Open>,
}

/// A key whose changed rows are in the chunk.
struct Open {
    starts: [usize; 2],
    changed: [usize; 2],
    /// The changes that the scans have not reached yet.
    rest: [Range<usize>; 2],
}

impl Filling<'_, '_> {
    /// Completes the keys before `place`, and begins the key at `place` if there is one. Returns false if the chunk was
    /// full before that.
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

    /// Adds the changed rows of the next key to the chunk.
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

    /// Adds a scanned row of the begun key, unless it is one that changes. Rows are scanned in the order of changes.
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
