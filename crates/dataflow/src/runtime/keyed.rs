//! What operators with state have in common: their shards, watermarks, TTL, late rows and memory.
//!
//! Owns: the one place where each of these is looked at. Does not own: what an operator makes of its rows ([`Stateful`]),
//! how state is kept (`state`).
//! Invariants: an operator reaches no state but its own, in the shards of its task; what expires is forgotten before the
//! operator looks at its rows; late rows are dropped before it does.

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
    /// `watermark`: the sources by whose watermarks rows are late and keys close; `None`: by none.
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

    /// Takes rows of one of its inputs.
    pub fn push(&mut self, port: usize, rows: ChangeBatch) -> Result<(), EngineError> {
        self.logic.push(port, rows, &mut self.late)
    }

    /// The input is complete: forgets what expires, then gives its rows. Returns them, and whether they are to be counted.
    pub fn finish(&mut self, task: &mut TaskState) -> Result<(Vec<ChangeBatch>, Option<OperatorId>), EngineError> {
        let (store, rows) = task.parts();
        self.finish_on(store, rows)
    }

    /// As [`Keyed::finish`], over any store.
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

    /// Says how many bytes it scans before it writes what it knows; [`PORTION_BYTES`] if nothing is said.
    pub fn scan_at_once(&mut self, bytes: usize) {
        self.portion_bytes = bytes;
    }

    /// Says of which inputs late rows are wanted.
    pub fn want_late(&mut self, inputs: &[bool]) {
        self.late.want(inputs);
    }

    /// Late rows since the last call, each with its input.
    pub fn take_late(&mut self) -> Vec<(usize, LateRows)> {
        self.late.take()
    }

    /// Its counters, once finished; `None`: it keeps nothing.
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
