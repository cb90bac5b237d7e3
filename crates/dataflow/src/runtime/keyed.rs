//! Common parts of operators with state: shards, watermarks, TTL, late rows and memory.
//!
//! Owns: handling each of these in one place. Does not own: what an operator computes ([`Stateful`]), how state is stored
//! (`state`).
//! Invariants: an operator accesses only its own state, in the shards of its task; expired state is deleted, and late rows
//! are dropped, before the operator processes its rows.

use super::BatchContext;
use super::keyed_state::KeyedState;
use super::late::{Late, LateRows};
use super::portions::PORTION_BYTES;
use super::stateful::{Counts, Keeps, Stateful};
use super::ttl::Ttl;
use crate::Upstream;
use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use crate::state::{Growth, Keys, StateSize, StateStore, TaskState};
use highwater_protocol::ids::OperatorId;
use highwater_protocol::key_conflicts::ConflictChanges;
use highwater_protocol::report::OperatorMetrics;

/// An operator with state, in one task of a batch.
pub struct Keyed {
    operator: OperatorId,
    shards: u16,
    close_before_ms: Option<i64>,
    ttl: Ttl,
    late: Late,
    key_conflicts: ConflictChanges,
    portion_bytes: usize,
    logic: Box<dyn Stateful>,
}

impl Keyed {
    /// Returns the operator. By the watermarks of the sources in `watermark`, rows are late and keys close; `None` = never.
    pub fn new(
        operator: OperatorId,
        watermark: Option<&[Upstream]>,
        context: &BatchContext,
        logic: impl Stateful + 'static,
    ) -> Self {
        let least = |of| watermark.and_then(|upstream| BatchContext::least(of, upstream));
        Self {
            operator,
            shards: context.shards,
            close_before_ms: least(&context.close_before),
            ttl: Ttl::of(operator, context),
            late: Late::new(operator, least(&context.late_before)),
            key_conflicts: ConflictChanges::default(),
            portion_bytes: PORTION_BYTES,
            logic: Box::new(logic),
        }
    }

    pub fn operator(&self) -> OperatorId {
        self.operator
    }

    /// Checks that the expressions of `push` do not fail over these rows.
    pub fn check(&self, port: usize, rows: &ChangeBatch) -> Result<(), EngineError> {
        self.logic.check(port, rows, &self.late)
    }

    /// Takes rows of one of its inputs.
    pub fn push(&mut self, port: usize, rows: ChangeBatch) -> Result<(), EngineError> {
        self.logic.push(port, rows, &mut self.late)
    }

    /// Completes the input: deletes expired state, then returns the operator's rows, and the operator to charge for their
    /// memory (`None` = it is charged already, or has no state).
    pub fn finish(&mut self, task: &mut TaskState) -> Result<(Vec<ChangeBatch>, Option<OperatorId>), EngineError> {
        let (store, rows) = task.parts();
        self.finish_on(store, rows)
    }

    /// As [`Keyed::finish`], with any store.
    pub fn finish_on(
        &mut self,
        store: &mut dyn StateStore,
        rows: &mut Growth,
    ) -> Result<(Vec<ChangeBatch>, Option<OperatorId>), EngineError> {
        let Self { operator, shards, close_before_ms, ttl, late, key_conflicts, portion_bytes, logic } = self;
        let (operator, shards, close_before_ms, portion_bytes) = (*operator, *shards, *close_before_ms, *portion_bytes);
        let mut state =
            KeyedState { store, rows, operator, shards, close_before_ms, ttl, portion_bytes, late, key_conflicts };
        let mut given = Vec::new();
        if let (Keeps::State, Some(until)) = (logic.keeps(), state.ttl.due()) {
            let mut due = Keys::default();
            state.store.due(operator, until, &mut due)?;
            logic.expire(&due, &mut state)?;
        }
        logic.finish(&mut state, &mut given)?;
        let counts = logic.counts() == Counts::Taker && logic.keeps() != Keeps::Nothing;
        Ok((given, counts.then_some(operator)))
    }

    /// Sets the bytes of one portion of scans; the default is [`PORTION_BYTES`].
    pub fn scan_at_once(&mut self, bytes: usize) {
        self.portion_bytes = bytes;
    }

    /// Sets of which inputs late rows are kept; by default of none.
    pub fn want_late(&mut self, inputs: &[bool]) {
        self.late.want(inputs);
    }

    /// Returns the late rows since the last call, each with its input.
    pub fn take_late(&mut self) -> Vec<(usize, LateRows)> {
        self.late.take()
    }

    /// Returns the counters of a finished operator; `None` if it has no state.
    pub fn metrics(&self, state: &TaskState) -> Option<OperatorMetrics> {
        let size = match self.logic.keeps() {
            Keeps::State => state.size(self.operator),
            Keeps::Partial => StateSize::default(),
            Keeps::Nothing => return None,
        };
        Some(OperatorMetrics {
            operator: self.operator,
            state_rows: size.rows,
            state_bytes: size.bytes,
            rows_updated: size.updated,
            rows_removed: size.removed,
            late_rows: self.late.count(),
            expired_rows: self.ttl.expired,
            ignored_rows: self.ttl.ignored,
            key_conflicts: self.key_conflicts.clone(),
        })
    }
}
