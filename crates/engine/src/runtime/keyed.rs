//! What operators with state have in common: their shards, watermarks, TTL, late rows and memory.
//!
//! Owns: the one place where each of these is looked at. Does not own: what an operator makes of its rows ([`Stateful`]),
//! how state is kept (`state`).
//! Invariants: an operator reaches no state but its own, in the shards of its task; what expires is forgotten before the
//! operator looks at its rows; late rows are dropped before it does.

use super::BatchContext;
use super::keys::shard_of;
use super::late::{Late, LateRows};
use super::stateful::{Counts, Keeps, Stateful};
use super::ttl::Ttl;
use crate::changelog::ChangeBatch;
use crate::dataflow::Upstream;
use crate::error::EngineError;
use crate::state::{Growth, Keys, Scan, StateSize, StateStore, TaskState, Until, Values, Visit, Writes};
use highwater_protocol::ids::{OperatorId, ShardId};
use highwater_protocol::report::OperatorMetrics;
use std::ops::ControlFlow;

/// An operator with state, in one task of a batch.
pub struct Keyed {
    operator: OperatorId,
    shards: u16,
    close_before_ms: Option<i64>,
    ttl: Ttl,
    late: Late,
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
            logic: Box::new(logic),
        }
    }

    /// Takes rows of one of its inputs.
    pub fn push(&mut self, port: usize, rows: ChangeBatch) -> Result<(), EngineError> {
        self.logic.push(port, rows, &mut self.late)
    }

    /// The input is complete: forgets what expires, then gives its rows. Returns them, and whether they are to be counted.
    pub fn finish(&mut self, task: &mut TaskState) -> Result<(Vec<ChangeBatch>, Option<OperatorId>), EngineError> {
        let Self { operator, shards, close_before_ms, ttl, late, logic } = self;
        let (store, rows) = task.parts();
        let (operator, close_before_ms) = (*operator, *close_before_ms);
        let mut state = KeyedState { store, rows, operator, shards: *shards, close_before_ms, ttl, late };
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
        })
    }
}

/// What an operator works on: its keys in the task's shards, and the times of the batch.
pub struct KeyedState<'a> {
    store: &'a mut dyn StateStore,
    rows: &'a mut Growth,
    operator: OperatorId,
    shards: u16,
    close_before_ms: Option<i64>,
    ttl: &'a mut Ttl,
    pub late: &'a mut Late,
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

    /// Visits the entries whose keys begin with `prefix`, ascending.
    pub fn scan_prefix(
        &self,
        shard: ShardId,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, EngineError>,
    ) -> Result<(), EngineError> {
        self.scan(&[Scan::prefix(shard, prefix)], &mut |_, key, value| visit(key, value))
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
