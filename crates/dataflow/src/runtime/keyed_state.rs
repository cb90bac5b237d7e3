//! The state of one operator in one task, as its logic sees it.
//!
//! Owns: reading and writing its own keys, in shards of the task, and the times of the batch. Does not own: when it is
//! called (`keyed`), the store (`state`).

use super::keys::shard_of;
use super::late::Late;
use super::ttl::Ttl;
use crate::error::EngineError;
use crate::state::{Growth, Keys, Scan, StateStore, Until, Values, Visit, Writes};
use highwater_protocol::ids::{OperatorId, ShardId};
use highwater_protocol::key_conflicts::ConflictChanges;

/// What an operator works on: its keys in the task's shards, and the times of the batch.
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
    /// The shard of an encoded key. What is read or written in a shard of another task is refused.
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        shard_of(key, self.shards)
    }

    /// Whether the shard is this task's.
    pub fn owns(&self, shard: ShardId) -> bool {
        self.store.shards().contains(&shard)
    }

    /// The task's shards, ascending.
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

    /// As [`StateStore::put`]; `writes` is empty then, to be used again.
    pub fn put(&mut self, writes: &mut Writes) -> Result<(), EngineError> {
        self.store.put(self.operator, writes)?;
        writes.clear();
        Ok(())
    }

    /// When keys close at the end of this batch, at or before, milliseconds; `None`: none does.
    pub fn close_before_ms(&self) -> Option<i64> {
        self.close_before_ms
    }

    /// Whether what closes at this time does so in this batch.
    pub fn closes(&self, close_ms: i64) -> bool {
        self.close_before_ms.is_some_and(|before| close_ms <= before)
    }

    /// Keys that close in this batch and that it has not changed, in a fixed order.
    pub fn closing(&self) -> Result<Keys, EngineError> {
        let mut keys = Keys::default();
        if let Some(before) = self.close_before_ms {
            self.store.due(self.operator, Until::Watermark(before), &mut keys)?;
        }
        Ok(keys)
    }

    /// Whether `state_ttl` holds for this operator.
    pub fn expires(&self) -> bool {
        self.ttl.is_on()
    }

    /// The close time of what is written now and bounded by nothing but `state_ttl`.
    pub fn deadline(&self) -> i64 {
        self.ttl.deadline()
    }

    /// Deletes keys whose `state_ttl` is over, and counts them.
    pub fn forget(&mut self, keys: &Keys) -> Result<(), EngineError> {
        let mut writes = Writes::default();
        keys.iter().for_each(|(shard, key)| writes.delete(shard, &[key]));
        self.count_expired(keys.len() as u64);
        self.put(&mut writes)
    }

    /// Rows are forgotten that stood in no key of their own.
    pub fn count_expired(&mut self, rows: u64) {
        self.ttl.expired += rows;
    }

    /// How often a row is there after a change: never less than 0 times. `what` names the operator.
    ///
    /// # Errors
    /// More are deleted than there were, and `state_ttl` has not forgotten any.
    pub fn weight(&mut self, what: &str, weight: i64) -> Result<i64, EngineError> {
        if weight < 0 {
            self.ttl.missing(what, weight)?;
        }
        Ok(weight.max(0))
    }

    /// Rows of so many bytes are made, which are all there until they go on or are taken back.
    pub fn charge(&mut self, bytes: usize) -> Result<(), EngineError> {
        self.rows.charge(self.operator, bytes as u64)
    }

    /// So many bytes of them are gone.
    pub fn take_back(&mut self, bytes: usize) {
        self.rows.take_back(bytes as u64);
    }
}
