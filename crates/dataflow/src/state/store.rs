//! The interface through which operators access their state.
//!
//! Owns: the interface, and the batches of keys and values in it. Does not own: stores (`memory` is one), the meaning of
//! keys and values (`operators`).
//! Invariants: all calls are batches of one operator, so that a store may answer a call with few reads of a disk; bytes are
//! borrowed for a call or copied into a reused buffer, so that no operator depends on how they are stored; shards of other
//! tasks, and operators that declare no state, are refused.

use crate::error::EngineError;
use highwater_protocol::ids::{OperatorId, ShardId};
use std::ops::{ControlFlow, Range};

/// State from the view of one task: committed state with the task's own changes applied.
pub trait StateStore {
    /// Returns the task's shards; the end is exclusive.
    fn shards(&self) -> Range<ShardId>;

    /// Clears `values`, and puts the value of each key into it, in the order of `keys`.
    ///
    /// # Errors
    /// If the operator declares no state, or a shard is not the task's.
    fn get(&self, operator: OperatorId, keys: &Keys, values: &mut Values) -> Result<(), EngineError>;

    /// Visits the entries of each scan in its direction, one scan after the other. If the operator's keys are hashed, it
    /// visits none.
    ///
    /// # Errors
    /// As [`StateStore::get`], and the errors of `visit`.
    fn scan(&self, operator: OperatorId, scans: &[Scan<'_>], visit: Visit<'_>) -> Result<(), EngineError>;

    /// Appends to `keys` the committed keys that are due and that the task has not changed, by shard, close time and key.
    ///
    /// # Errors
    /// As [`StateStore::get`].
    fn due(&self, operator: OperatorId, until: Until, keys: &mut Keys) -> Result<(), EngineError>;

    /// Applies the writes to the task's changes, in order.
    ///
    /// # Errors
    /// As [`StateStore::get`], or if the memory limit is exceeded; the task's changes are incomplete then.
    fn put(&mut self, operator: OperatorId, writes: &Writes) -> Result<(), EngineError>;
}

/// The time up to which keys are due, in milliseconds. The close time of a key is at the beginning of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Keys that close at or before this event time.
    Watermark(i64),
    /// Keys that expire at or before this batch time.
    Clock(i64),
}

/// A scan of some keys of one shard, in order.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    pub shard: ShardId,
    pub keys: Stretch<'a>,
    pub direction: Direction,
}

impl<'a> Scan<'a> {
    /// Returns a scan of all keys that begin with `prefix`, ascending.
    pub fn prefix(shard: ShardId, prefix: &'a [u8]) -> Self {
        Self { shard, keys: Stretch::Prefix(prefix), direction: Direction::Forward }
    }
}

/// The keys that a scan visits.
#[derive(Clone, Copy, Debug)]
pub enum Stretch<'a> {
    /// Keys that begin with this prefix.
    Prefix(&'a [u8]),
    /// Keys from `start` up to `end`, exclusive, which is not below `start`; `end: None` = to the last key.
    Range { start: &'a [u8], end: Option<&'a [u8]> },
}

/// An owned range of keys of one shard, for scans with computed ends.
#[derive(Clone, Debug)]
pub struct KeyRange {
    pub shard: ShardId,
    pub start: Vec<u8>,
    /// Exclusive; `None` = to the last key.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    pub fn scan(&self, direction: Direction) -> Scan<'_> {
        let keys = Stretch::Range { start: &self.start, end: self.end.as_deref() };
        Scan { shard: self.shard, keys, direction }
    }
}

/// Called with each entry: the place of its scan, its key and its value. Breaking off ends that scan, not those after it.
pub type Visit<'a> = &'a mut dyn FnMut(usize, &[u8], &[u8]) -> Result<ControlFlow<()>, EngineError>;

/// Byte strings in one buffer.
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

    /// Returns the value of the key at this place; `None` if the key does not exist.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.there[index].then(|| self.values.get(index))
    }

    pub fn clear(&mut self) {
        self.values.clear();
        self.there.clear();
    }
}

/// Keys with their new values, or with `None` to delete them.
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

/// The direction of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}
