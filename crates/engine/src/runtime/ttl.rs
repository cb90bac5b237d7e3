//! `state_ttl`: what nothing else bounds is forgotten when it was not written for that long.
//!
//! Owns: when something expires, and the counts of what did. Does not own: which operators it holds for (the plan), what
//! hangs on a key that expires (the operators). Time is the batch's, so a repetition forgets the same.
//! Invariants: an operator forgets first and looks at its rows then, so that what is due is gone even if a row of this
//! batch would touch it; without a TTL a deletion of what is not there is an error, with one it is counted.

use super::BatchContext;
use super::stored_row::never_inserted;
use crate::error::EngineError;
use crate::state::{NEVER, TaskState, expires_at};
use highwater_protocol::ids::{OperatorId, ShardId};
use std::cell::Cell;

/// The TTL of one operator in one batch; it may have none.
pub struct Ttl {
    operator: OperatorId,
    now_ms: i64,
    keep_ms: Option<i64>,
    expired: Cell<u64>,
    ignored: Cell<u64>,
}

impl Ttl {
    pub fn of(operator: OperatorId, context: &BatchContext) -> Self {
        let keep_ms = context.ttl.get(&operator).copied();
        Self { operator, now_ms: context.timestamp_ms, keep_ms, expired: Cell::new(0), ignored: Cell::new(0) }
    }

    pub fn is_on(&self) -> bool {
        self.keep_ms.is_some()
    }

    /// The close time of what is written now and bounded by nothing else.
    pub fn deadline(&self) -> i64 {
        self.keep_ms.map_or(NEVER, |keep| expires_at(self.now_ms.saturating_add(keep)))
    }

    /// Keys whose time is over, to be forgotten with all that hangs on them.
    pub fn due(&self, state: &TaskState) -> Vec<(ShardId, Box<[u8]>)> {
        match self.keep_ms {
            Some(_) => state.expired(self.operator, self.now_ms),
            None => Vec::new(),
        }
    }

    /// Forgets one key.
    pub fn forget(&self, state: &mut TaskState, shard: ShardId, key: &[u8]) {
        state.put(self.operator, shard, key, None);
        self.expired.set(self.expired.get() + 1);
    }

    /// Forgets all keys whose time is over, for operators whose keys stand by themselves.
    pub fn forget_due(&self, state: &mut TaskState) {
        for (shard, key) in self.due(state) {
            self.forget(state, shard, &key);
        }
    }

    /// Rows are forgotten that stood in no key of their own.
    pub fn count_expired(&self, rows: u64) {
        self.expired.set(self.expired.get() + rows);
    }

    /// So many rows are deleted that are not there: forgotten before, or else never inserted.
    pub fn missing(&self, operator: &str, rows: i64) -> Result<(), EngineError> {
        if !self.is_on() {
            return Err(never_inserted(operator));
        }
        self.ignored.set(self.ignored.get() + rows.unsigned_abs());
        Ok(())
    }

    /// Rows of state forgotten in this batch.
    pub fn expired(&self) -> u64 {
        self.expired.get()
    }

    /// Deletions in this batch of rows that were forgotten before.
    pub fn ignored(&self) -> u64 {
        self.ignored.get()
    }
}
