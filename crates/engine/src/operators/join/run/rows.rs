//! The rows of some join keys: as they were, and what changes.
//!
//! Owns: reading them from state. Invariant: where the other side changes, all rows of the key are there; else
//! only those that change. No row is retracted more often than it was inserted.

use super::state_prefix;
use crate::error::EngineError;
use crate::runtime::changes::Changes;
use crate::runtime::stored_row::StoredRow;
use crate::runtime::ttl::Ttl;
use crate::state::{Direction, TaskState};
use highwater_protocol::ids::{OperatorId, ShardId};
use std::ops::{ControlFlow, Range};

/// One row of one side.
pub struct Row {
    pub bytes: Vec<u8>,
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
}

impl Store {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.rows.iter().map(|row| row.bytes.as_slice())
    }

    fn push(&mut self, bytes: &[u8], old: Option<StoredRow>, delta: i64) {
        self.rows.push(Row { bytes: bytes.to_vec(), old, delta, count: old.map_or(0, |old| old.count) });
    }
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

/// Brings the rows of a key into the stores; `runs` are its changes.
#[allow(clippy::too_many_arguments)]
pub fn collect(
    operator: OperatorId,
    state: &TaskState,
    shard: ShardId,
    key: &[u8],
    changes: &[Option<Changes>; 2],
    runs: &[Range<usize>; 2],
    ttl: &Ttl,
    stores: &mut [Store; 2],
) -> Result<KeyRows, EngineError> {
    let mut rows = KeyRows { sides: [0..0, 0..0], changed: [0, 0] };
    for side in 0..2 {
        let store = &mut stores[side];
        let start = store.len();
        let prefix = state_prefix(side, key);
        if let Some(all) = &changes[side] {
            for change in runs[side].clone() {
                let mut value = Vec::new();
                let there = state.read(operator, shard, &[&prefix, all.row(change)].concat(), &mut value);
                let old = if there { Some(StoredRow::decode(&value)?) } else { None };
                let missing = old.map_or(0, |old| old.weight) + all.weight(change);
                if missing < 0 {
                    ttl.missing("join", missing)?;
                }
                let delta = all.weight(change) - missing.min(0);
                if delta != 0 || old.is_some() {
                    store.push(all.row(change), old, delta);
                }
            }
        }
        rows.changed[side] = store.len() - start;
        if !runs[1 - side].is_empty() {
            let mut failed = None;
            // Both are in the order of rows.
            let mut run = runs[side].clone();
            state.walk(operator, shard, &prefix, Direction::Forward, &mut |key, value| {
                let row = &key[prefix.len()..];
                if let Some(all) = &changes[side] {
                    while run.start < run.end && all.row(run.start) < row {
                        run.start += 1;
                    }
                    if run.start < run.end && all.row(run.start) == row {
                        return ControlFlow::Continue(());
                    }
                }
                match StoredRow::decode(value) {
                    Ok(kept) => store.push(row, Some(kept), 0),
                    Err(error) => failed = Some(error),
                }
                if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if let Some(error) = failed {
                return Err(error);
            }
        }
        rows.sides[side] = start..store.len();
    }
    Ok(rows)
}
