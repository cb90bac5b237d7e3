//! What a query may take of one executor's memory.
//!
//! Owns: counting what tasks add, and saying that it is too much. Does not own: what an executor allows a query (the
//! executor), `state_memory_limit` of all executors together (the driver).
//! Invariants: what a task adds is counted until its changes are state, or dropped; once a query has too much, nothing
//! more of it is kept, and its task fails before anything it gave is prepared.

use crate::error::EngineError;
use highwater_core::ids::OperatorId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The memory of one query on this executor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    limit_bytes: u64,
    /// What tasks added that is no state yet.
    added: Arc<AtomicU64>,
    names: Arc<BTreeMap<OperatorId, String>>,
}

impl Budget {
    pub fn new(limit_bytes: u64, names: BTreeMap<OperatorId, String>) -> Self {
        Self { limit_bytes, added: Arc::default(), names: Arc::new(names) }
    }

    /// For a task that begins while so much is state.
    pub fn task(&self, committed_bytes: u64) -> Growth {
        Growth { budget: self.clone(), committed_bytes, kept: 0, given: 0, over: None }
    }
}

/// What one task adds.
#[derive(Debug)]
pub struct Growth {
    budget: Budget,
    committed_bytes: u64,
    kept: u64,
    given: u64,
    /// The operator that was one too many.
    over: Option<OperatorId>,
}

impl Growth {
    /// The same for a part of the task.
    pub fn part(&self) -> Self {
        self.budget.task(self.committed_bytes)
    }

    /// An operator keeps so much more; false: it must not.
    pub fn keep(&mut self, operator: OperatorId, bytes: u64) -> bool {
        self.kept += bytes;
        self.add(operator, bytes)
    }

    /// An operator gives rows of so many bytes, which wait for the end of their task.
    pub fn give(&mut self, operator: OperatorId, bytes: u64) -> Result<(), EngineError> {
        self.given += bytes;
        self.add(operator, bytes);
        self.check()
    }

    fn add(&mut self, operator: OperatorId, bytes: u64) -> bool {
        let before = self.budget.added.fetch_add(bytes, Relaxed);
        if self.over.is_none() && self.committed_bytes.saturating_add(before + bytes) > self.budget.limit_bytes {
            self.over = Some(operator);
        }
        self.over.is_none()
    }

    /// The rows it gave have gone on.
    pub fn settle(&mut self) {
        self.budget.added.fetch_sub(std::mem::take(&mut self.given), Relaxed);
    }

    /// Whether all of it was kept.
    pub fn check(&self) -> Result<(), EngineError> {
        match self.over {
            None => Ok(()),
            Some(operator) => Err(EngineError::OverMemory {
                operator,
                name: self.budget.names.get(&operator).cloned().unwrap_or_default(),
                limit_bytes: self.budget.limit_bytes,
            }),
        }
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.budget.added.fetch_sub(self.kept + self.given, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP: OperatorId = OperatorId(3);

    #[test]
    fn up_to_the_limit_and_no_further() {
        let budget = Budget::new(100, BTreeMap::from([(OP, "join a with b".to_string())]));
        let mut one = budget.task(40);
        assert!(one.keep(OP, 60));
        assert!(one.check().is_ok());
        assert!(!one.keep(OP, 1));
        let error = one.check().unwrap_err().to_string();
        assert!(error.contains("operator 3 (join a with b)") && error.contains("100 bytes"), "{error}");
    }

    #[test]
    fn tasks_of_one_query_share_it_and_give_it_back() {
        let budget = Budget::new(100, BTreeMap::new());
        let mut one = budget.task(0);
        let mut two = one.part();
        assert!(one.keep(OP, 50) && two.keep(OP, 50));
        assert!(two.give(OP, 1).is_err());
        drop(two);
        assert!(one.give(OP, 50).is_ok());
        one.settle();
        assert!(one.keep(OP, 50));
        drop(one);
        assert_eq!(budget.added.load(Relaxed), 0);
    }
}
