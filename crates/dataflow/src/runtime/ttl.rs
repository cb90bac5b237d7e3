//! `state_ttl`: state that nothing else bounds expires if it was not written for that long.
//!
//! Owns: when state expires, and counting it. Does not own: which operators it applies to (the plan), state that belongs to
//! an expired key (the operators). Time is the batch's, so a repeated batch expires the same.
//! Invariant: a retraction of a row that does not exist is an error without a TTL, and counted with one.

use super::BatchContext;
use crate::error::EngineError;
use crate::state::{NEVER, Until, expires_at};
use highwater_protocol::ids::OperatorId;

/// The TTL of one operator in one batch.
#[derive(Debug)]
pub struct Ttl {
    now_ms: i64,
    keep_ms: Option<i64>,
    /// Rows of state that expired in this batch.
    pub expired: u64,
    /// Retractions in this batch of rows that had expired before.
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

    /// Returns the close time of state that is written now and that nothing else bounds.
    pub fn deadline(&self) -> i64 {
        self.keep_ms.map_or(NEVER, |keep| expires_at(self.now_ms.saturating_add(keep)))
    }

    /// Returns the time up to which keys expire; `None` = none does.
    pub fn due(&self) -> Option<Until> {
        self.keep_ms.map(|_| Until::Clock(self.now_ms))
    }

    /// Counts retractions of rows that do not exist since they have expired.
    ///
    /// # Errors
    /// If the operator has no TTL, so that the rows were never inserted.
    pub fn missing(&mut self, operator: &str, rows: i64) -> Result<(), EngineError> {
        if !self.is_on() {
            return Err(EngineError::NeverInserted { operator: operator.to_string() });
        }
        self.ignored += rows.unsigned_abs();
        Ok(())
    }
}
