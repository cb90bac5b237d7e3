//! `state_ttl`: what nothing else bounds is forgotten when it was not written for that long.
//!
//! Owns: when something expires, and the counts of what did. Does not own: which operators it holds for (the plan), what
//! hangs on a key that expires (the operators). Time is the batch's, so a repetition forgets the same.
//! Invariant: without a TTL a deletion of what is not there is an error, with one it is counted.

use super::BatchContext;
use crate::error::EngineError;
use crate::state::{NEVER, Until, expires_at};
use highwater_protocol::ids::OperatorId;

/// The TTL of one operator in one batch; it may have none.
#[derive(Debug)]
pub struct Ttl {
    now_ms: i64,
    keep_ms: Option<i64>,
    /// Rows of state forgotten in this batch.
    pub expired: u64,
    /// Deletions in this batch of rows that were forgotten before.
    pub ignored: u64,
}

impl Ttl {
    pub fn of(operator: OperatorId, context: &BatchContext) -> Self {
        let keep_ms = context.ttl.get(&operator).copied();
        Self { now_ms: context.timestamp_ms, keep_ms, expired: 0, ignored: 0 }
    }

    pub fn is_on(&self) -> bool {
        self.keep_ms.is_some()
    }

    /// The close time of what is written now and bounded by nothing else.
    pub fn deadline(&self) -> i64 {
        self.keep_ms.map_or(NEVER, |keep| expires_at(self.now_ms.saturating_add(keep)))
    }

    /// Up to when keys expire; `None`: none does.
    pub fn due(&self) -> Option<Until> {
        self.keep_ms.map(|_| Until::Clock(self.now_ms))
    }

    /// So many rows are deleted that are not there: forgotten before, or else never inserted.
    pub fn missing(&mut self, operator: &str, rows: i64) -> Result<(), EngineError> {
        if !self.is_on() {
            return Err(EngineError::NeverInserted { operator: operator.to_string() });
        }
        self.ignored += rows.unsigned_abs();
        Ok(())
    }
}
