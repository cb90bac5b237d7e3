//! The limit of a query's memory on one executor.
//!
//! Owns: counting the memory of tasks, and failing them above the limit. Does not own: the value of the limit (the
//! executor), `state_memory_limit` of all executors together (the driver).
//! Invariants: memory of a task is counted until its changes are committed state, or dropped; once a query exceeds its
//! limit, no more of its changes are kept, and the task fails before its output is prepared.

use crate::error::EngineError;
use crate::{Dataflow, PipelineInput};
use highwater_protocol::ids::{EdgeId, OperatorId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A user of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Taker {
    Operator(OperatorId),
    /// Rows that have come over an edge and wait for their task.
    Edge(EdgeId),
    /// A part of a stage without state, by its name in messages.
    Part(&'static str),
}

impl From<OperatorId> for Taker {
    fn from(operator: OperatorId) -> Self {
        Self::Operator(operator)
    }
}

/// The memory of one query on this executor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    limit_bytes: u64,
    /// Bytes that tasks have added and that are not committed state yet.
    added: Arc<AtomicU64>,
    names: Arc<BTreeMap<Taker, String>>,
}

impl Budget {
    pub fn new(limit_bytes: u64, names: BTreeMap<Taker, String>) -> Self {
        Self { limit_bytes, added: Arc::default(), names: Arc::new(names) }
    }

    /// Returns the budget of a query with this dataflow.
    pub fn of(dataflow: &Dataflow, limit_bytes: u64) -> Self {
        let operator = |id: OperatorId| {
            let info = dataflow.operators.iter().find(|info| info.id == id)?;
            Some(format!("operator {id} ({} {})", info.name, info.description))
        };
        let mut names: BTreeMap<Taker, String> =
            dataflow.operators.iter().filter_map(|info| Some((info.id.into(), operator(info.id)?))).collect();
        for edge in &dataflow.edges {
            let Some(consumer) = dataflow.consumer(edge.id) else { continue };
            let input = PipelineInput::Edge(edge.id);
            let mut ops = consumer
                .pipelines
                .iter()
                .filter(|pipeline| pipeline.inputs.contains(&input))
                .flat_map(|pipeline| &pipeline.ops);
            let first = ops.find_map(|op| operator(op.state()?.operator));
            let to = first.unwrap_or_else(|| format!("stage {}", consumer.id));
            names.insert(Taker::Edge(edge.id), format!("the rows that wait for {to}"));
        }
        Self::new(limit_bytes, names)
    }

    fn name(&self, taker: Taker) -> String {
        self.names.get(&taker).cloned().unwrap_or_else(|| match taker {
            Taker::Operator(id) => format!("operator {id}"),
            Taker::Edge(id) => format!("the rows of edge {id}"),
            Taker::Part(name) => name.to_string(),
        })
    }

    /// Returns the counter of a task that starts while committed state has `committed_bytes`.
    pub fn task(&self, committed_bytes: u64) -> Growth {
        Growth { budget: self.clone(), committed_bytes, kept: 0, emitted: 0, over: None }
    }
}

/// The memory that one task adds.
#[derive(Debug)]
pub struct Growth {
    budget: Budget,
    committed_bytes: u64,
    kept: u64,
    emitted: u64,
    /// The user of memory that exceeded the limit; `None` = none has.
    over: Option<Taker>,
}

impl Growth {
    /// Returns a counter without a limit.
    pub fn unlimited() -> Self {
        Self::limited(u64::MAX)
    }

    /// Returns a counter with this limit.
    pub fn limited(limit_bytes: u64) -> Self {
        Budget::new(limit_bytes, BTreeMap::new()).task(0)
    }

    /// Returns a counter for a part of the task.
    pub fn part(&self) -> Self {
        self.budget.task(self.committed_bytes)
    }

    /// Returns the name of a user of memory, for messages.
    pub fn name(&self, taker: Taker) -> String {
        self.budget.name(taker)
    }

    /// Counts `bytes` more of an operator's state. False = the limit is exceeded, and the operator must not keep them.
    pub fn keep(&mut self, operator: OperatorId, bytes: u64) -> bool {
        self.kept += bytes;
        self.add(operator.into(), bytes)
    }

    /// Counts `bytes` of rows until they are settled.
    ///
    /// # Errors
    /// If the limit is exceeded.
    pub fn charge(&mut self, by: impl Into<Taker>, bytes: u64) -> Result<(), EngineError> {
        self.emitted = self.emitted.saturating_add(bytes);
        self.add(by.into(), bytes);
        self.check()
    }

    /// Counts `bytes` of rows less.
    pub fn take_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.emitted);
        self.emitted -= bytes;
        self.budget.added.fetch_sub(bytes, Relaxed);
    }

    fn add(&mut self, by: Taker, bytes: u64) -> bool {
        let before = self.budget.added.fetch_add(bytes, Relaxed);
        let all = self.committed_bytes.saturating_add(before.saturating_add(bytes));
        if self.over.is_none() && all > self.budget.limit_bytes {
            self.over = Some(by);
        }
        self.over.is_none()
    }

    /// Returns the bytes of rows counted since they were last settled.
    pub fn emitted(&self) -> u64 {
        self.emitted
    }

    /// Stops counting rows, since they have been handed on.
    pub fn settle(&mut self) {
        self.take_back(self.emitted);
    }

    /// Returns an error if the limit has been exceeded.
    pub fn check(&self) -> Result<(), EngineError> {
        match self.over {
            None => Ok(()),
            Some(by) => {
                Err(EngineError::OverMemory { what: self.budget.name(by), limit_bytes: self.budget.limit_bytes })
            }
        }
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.budget.added.fetch_sub(self.kept + self.emitted, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP: OperatorId = OperatorId(3);

    #[test]
    fn up_to_the_limit_and_no_further() {
        let budget = Budget::new(100, BTreeMap::from([(OP.into(), "operator 3 (join a with b)".to_string())]));
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
        assert!(two.charge(OP, 1).is_err());
        drop(two);
        assert!(one.charge(OP, 50).is_ok());
        one.take_back(20);
        assert!(one.charge(Taker::Part("UNNEST"), 20).is_ok());
        one.settle();
        assert!(one.keep(OP, 50));
        let error = one.charge(Taker::Part("UNNEST"), 1).unwrap_err().to_string();
        assert!(error.contains("on this executor, at UNNEST"), "{error}");
        drop(one);
        assert_eq!(budget.added.load(Relaxed), 0);
    }
}
