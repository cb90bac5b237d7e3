//! The state of one operator in one task, for the operator's logic.
//!
//! Owns: reading and writing the operator's keys in the task's shards, and the times of the batch. Does not own: when the
//! logic is called (`keyed`), the store (`state`).

use super::keys::shard_of;
use super::late::Late;
use super::ttl::Ttl;
use crate::error::EngineError;
use crate::state::{Growth, Keys, Scan, StateStore, Until, Values, Visit, Writes};
use highwater_protocol::ids::{OperatorId, ShardId};
use highwater_protocol::key_conflicts::ConflictChanges;

/// Access to an operator's keys in the task's shards, and to the times of the batch.
pub struct KeyedState<'a> {
    pub(super) store: &'a mut dyn StateStore,
    pub(super) rows: &'a mut Growth,
    pub(super) operator: OperatorId,
    pub(super) shards: u16,
    pub(super) close_before_ms: Option<i64>,
    pub(super) ttl: &'a mut Ttl,
    pub(super) portion_bytes: usize,
    pub late: &'a mut Late,
    /// Keys that got or lost a second live row; keyed sinks only.
    pub key_conflicts: &'a mut ConflictChanges,
}

impl KeyedState<'_> {
    /// Returns the shard of an encoded key. Reads and writes in shards of other tasks are refused.
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        shard_of(key, self.shards)
    }

    /// True if the shard is this task's.
    pub fn owns(&self, shard: ShardId) -> bool {
        self.store.shards().contains(&shard)
    }

    /// Returns the task's shards, ascending.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        let range = self.store.shards();
        (range.start.0..range.end.0).map(ShardId)
    }

    /// As [`StateStore::get`].
    pub fn get(&self, keys: &Keys, values: &mut Values) -> Result<(), EngineError> {
        self.store.get(self.operator, keys, values)
    }

    /// As [`StateStore::scan`].
    pub fn scan(&self, scans: &[Scan<'_>], visit: Visit<'_>) -> Result<(), EngineError> {
        self.store.scan(self.operator, scans, visit)
    }

    /// As [`StateStore::put`]. Clears `writes`, so that it can be reused.
    pub fn put(&mut self, writes: &mut Writes) -> Result<(), EngineError> {
        self.store.put(self.operator, writes)?;
        writes.clear();
        Ok(())
    }

    /// Returns the time at or before which keys close at the end of this batch, in milliseconds; `None` = no key closes.
    pub fn close_before_ms(&self) -> Option<i64> {
        self.close_before_ms
    }

    /// True if a key with this close time closes in this batch.
    pub fn closes(&self, close_ms: i64) -> bool {
        self.close_before_ms.is_some_and(|before| close_ms <= before)
    }

    /// Returns the keys that close in this batch and that the task has not changed, by shard, close time and key.
    pub fn closing(&self) -> Result<Keys, EngineError> {
        let mut keys = Keys::default();
        if let Some(before) = self.close_before_ms {
            self.store.due(self.operator, Until::Watermark(before), &mut keys)?;
        }
        Ok(keys)
    }

    /// True if `state_ttl` applies to this operator.
    pub fn expires(&self) -> bool {
        self.ttl.is_on()
    }

    /// Returns the close time of state that is written in this batch and that only `state_ttl` bounds.
    pub fn deadline(&self) -> i64 {
        self.ttl.deadline()
    }

    /// Deletes expired keys, and counts them.
    pub fn forget(&mut self, keys: &Keys) -> Result<(), EngineError> {
        let mut writes = Writes::default();
        keys.iter().for_each(|(shard, key)| writes.delete(shard, &[key]));
        self.count_expired(keys.len() as u64);
        self.put(&mut writes)
    }

    /// Counts expired rows that have no key of their own.
    pub fn count_expired(&mut self, rows: u64) {
        self.ttl.expired += rows;
    }

    /// Returns the weight of a row after a change, at least 0. `what` names the operator.
    ///
    /// # Errors
    /// If more rows are retracted than were inserted, and `state_ttl` cannot have dropped them.
    pub fn weight(&mut self, what: &str, weight: i64) -> Result<i64, EngineError> {
        if weight < 0 {
            self.ttl.missing(what, weight)?;
        }
        Ok(weight.max(0))
    }

    /// Counts `bytes` of rows until they are handed on or taken back.
    pub fn charge(&mut self, bytes: usize) -> Result<(), EngineError> {
        self.rows.charge(self.operator, bytes as u64)
    }

    /// Counts `bytes` of rows less, since they have been dropped.
    pub fn take_back(&mut self, bytes: usize) {
        self.rows.take_back(bytes as u64);
    }
}
