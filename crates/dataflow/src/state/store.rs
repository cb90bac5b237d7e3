//! What operators reach their state through, whatever keeps it.
//!
//! Owns: the interface, and the batches it takes and gives. Does not own: a store (`memory` is one), what keys and values
//! mean (`operators`).
//! Invariants: all calls are batches of one operator, so that a store may answer one with few reads of a disk; bytes are
//! lent for a call or copied into a buffer that is used again, so that no operator depends on how they are kept; a shard
//! that is not the task's, and an operator that declares no state, are refused.

use crate::error::EngineError;
use highwater_protocol::ids::{OperatorId, ShardId};
use std::ops::{ControlFlow, Range};

/// State as one task sees it: what is committed, and the task's own changes on top.
pub trait StateStore {
    /// The task's shards: the first, and one past the last.
    fn shards(&self) -> Range<ShardId>;

    /// Puts the value of each key, in their order, into `values`, which is cleared first.
    ///
    /// # Errors
    /// The operator declares no state, or a shard is not the task's.
    fn get(&self, operator: OperatorId, keys: &Keys, values: &mut Values) -> Result<(), EngineError>;

    /// Visits the entries of each scan, one scan after the other, each in its order. Of an operator whose keys are hashed
    /// there are none to scan.
    ///
    /// # Errors
    /// As [`StateStore::get`], and what `visit` returns.
    fn scan(&self, operator: OperatorId, scans: &[Scan<'_>], visit: Visit<'_>) -> Result<(), EngineError>;

    /// Appends to `keys` the committed ones whose time is over and which the task has not changed, by shard, time and key.
    ///
    /// # Errors
    /// As [`StateStore::get`].
    fn due(&self, operator: OperatorId, until: Until, keys: &mut Keys) -> Result<(), EngineError>;

    /// Makes the writes, tentatively, in their order.
    ///
    /// # Errors
    /// As [`StateStore::get`], or there is no memory for them: the task's changes are worth nothing then.
    fn put(&mut self, operator: OperatorId, writes: &Writes) -> Result<(), EngineError>;
}

/// Up to when keys are due, milliseconds. The times of a key stand at the beginning of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Keys that close at or before this event time.
    Watermark(i64),
    /// Keys that expire at or before this time of batches.
    Clock(i64),
}

/// Some keys of one shard, in order.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    pub shard: ShardId,
    pub keys: Stretch<'a>,
    pub direction: Direction,
}

impl<'a> Scan<'a> {
    /// All keys that begin with `prefix`, ascending.
    pub fn prefix(shard: ShardId, prefix: &'a [u8]) -> Self {
        Self { shard, keys: Stretch::Prefix(prefix), direction: Direction::Forward }
    }
}

/// Which keys a scan visits.
#[derive(Clone, Copy, Debug)]
pub enum Stretch<'a> {
    /// Those that begin with this.
    Prefix(&'a [u8]),
    /// From one on, up to another, which is not before it; `end: None` = to the last.
    Range { start: &'a [u8], end: Option<&'a [u8]> },
}

/// Keys of one shard, for scans whose ends are computed.
#[derive(Clone, Debug)]
pub struct KeyRange {
    pub shard: ShardId,
    pub start: Vec<u8>,
    /// `None`: to the last.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    pub fn scan(&self, direction: Direction) -> Scan<'_> {
        let keys = Stretch::Range { start: &self.start, end: self.end.as_deref() };
        Scan { shard: self.shard, keys, direction }
    }
}

/// What is done with an entry: the place of its scan, key and value. Breaking off ends that scan, not those after it.
pub type Visit<'a> = &'a mut dyn FnMut(usize, &[u8], &[u8]) -> Result<ControlFlow<()>, EngineError>;

/// Byte strings one after the other.
#[derive(Clone, Debug, Default)]
struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Strings {
    fn push(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.ends.push(self.bytes.len());
    }

    fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Keys, each with its shard.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    shards: Vec<ShardId>,
    keys: Strings,
}

impl Keys {
    /// Appends a key, given in parts.
    pub fn push(&mut self, shard: ShardId, parts: &[&[u8]]) {
        self.shards.push(shard);
        self.keys.push(parts);
    }

    pub fn len(&self) -> usize {
        self.shards.len()
    }

    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    pub fn get(&self, index: usize) -> (ShardId, &[u8]) {
        (self.shards[index], self.keys.get(index))
    }

    pub fn iter(&self) -> impl Iterator<Item = (ShardId, &[u8])> {
        (0..self.len()).map(|index| self.get(index))
    }

    pub fn clear(&mut self) {
        self.shards.clear();
        self.keys.clear();
    }
}

/// Values of keys, in the order of the keys.
#[derive(Clone, Debug, Default)]
pub struct Values {
    values: Strings,
    there: Vec<bool>,
}

impl Values {
    pub fn push(&mut self, value: Option<&[u8]>) {
        self.values.push(&[value.unwrap_or_default()]);
        self.there.push(value.is_some());
    }

    /// The value of the key at this place; `None`: there is none.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.there[index].then(|| self.values.get(index))
    }

    pub fn clear(&mut self) {
        self.values.clear();
        self.there.clear();
    }
}

/// Keys with their new values, or without.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    keys: Keys,
    values: Values,
}

impl Writes {
    /// Sets the value of a key, given in parts; `None` deletes it.
    pub fn set(&mut self, shard: ShardId, key: &[&[u8]], value: Option<&[u8]>) {
        self.keys.push(shard, key);
        self.values.push(value);
    }

    /// Deletes a key, given in parts.
    pub fn delete(&mut self, shard: ShardId, key: &[&[u8]]) {
        self.set(shard, key, None);
    }

    /// Sets the value of a key, given in parts as the key is.
    pub fn put(&mut self, shard: ShardId, key: &[&[u8]], value: &[&[u8]]) {
        self.keys.push(shard, key);
        self.values.values.push(value);
        self.values.there.push(true);
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (ShardId, &[u8], Option<&[u8]>)> {
        self.keys.iter().enumerate().map(|(index, (shard, key))| (shard, key, self.values.get(index)))
    }

    pub fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
    }
}

/// Which end a walk begins at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}
