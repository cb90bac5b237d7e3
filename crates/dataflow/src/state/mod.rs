//! State of stateful operators: committed maps by (operator, shard), and tentative changes on top of them.
//!
//! Owns: state in memory. Does not own: the meaning of keys and values (`operators`), checkpoints (the driver's).
//! Invariants: committed maps change only by `load` and `promote`; a task sees the committed maps and its own
//! changes, never another task's; only overlays of one attempt become committed state together.
//!
//! A value begins with its close time (`i64` little-endian milliseconds, `MAX` = never), at which its key is evicted or
//! expires. It has two ranges: from `MIN / 2` on event times, which watermarks pass; below that, `MIN` + the batch time at
//! which a key that was not written for `state_ttl` expires.

mod budget;
#[cfg(test)]
mod contract_tests;
#[cfg(test)]
mod keeps_tests;
mod map;
mod memory;
mod overlay;
mod shard;
mod store;
mod task;
#[cfg(test)]
mod tests;

pub use map::{Layout, successor};
use overlay::Changes;
pub use overlay::Overlay;
pub use shard::{Closing, NEVER, close_of, closes_at, expires_at};
pub use store::{Direction, KeyRange, Keys, Scan, StateStore, Stretch, Until, Values, Visit, Writes};
pub use task::{StateSize, TaskState};

use crate::Dataflow;
use crate::error::EngineError;
use budget::Budget;
pub use budget::{Growth, Taker};
use highwater_protocol::ids::{AttemptId, OperatorId, ShardId, StageId};
use highwater_protocol::parallel::in_parallel;
use highwater_protocol::state_delta::DeltaReader;
use parking_lot::Mutex;
use shard::ShardState;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

/// The state of one query on one executor.
#[derive(Debug)]
pub struct QueryState {
    /// Stateful operators of each stage.
    operators: BTreeMap<StageId, Vec<(OperatorId, Layout)>>,
    budget: Budget,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    shards: BTreeMap<ShardId, Arc<ShardState>>,
    overlays: BTreeMap<AttemptId, Vec<Overlay>>,
}

impl Inner {
    fn committed_bytes(&self) -> u64 {
        self.shards.values().map(|shard| shard.bytes()).sum()
    }
}

impl QueryState {
    /// Returns a state without shards and without a memory limit.
    pub fn new(dataflow: &Dataflow) -> Self {
        Self::with_limit(dataflow, u64::MAX)
    }

    /// Returns a state without shards, whose memory is limited to `limit_bytes`.
    pub fn with_limit(dataflow: &Dataflow, limit_bytes: u64) -> Self {
        let of_stage = |stage: &crate::Stage| {
            let ops = stage.pipelines.iter().flat_map(|pipeline| &pipeline.ops);
            (stage.id, ops.filter_map(|op| op.state()).map(|state| (state.operator, state.layout)).collect())
        };
        let budget = Budget::of(dataflow, limit_bytes);
        Self { operators: dataflow.stages.iter().map(of_stage).collect(), budget, inner: Mutex::default() }
    }

    /// Loads these shards from deltas (oldest first, of any operators; entries of other shards are left out), and
    /// replaces their previous state.
    pub fn load(&self, shards: Range<u16>, deltas: &[Vec<u8>]) -> Result<(), EngineError> {
        let operators: Vec<(OperatorId, Layout)> = self.operators.values().flatten().copied().collect();
        let mut loaded: BTreeMap<ShardId, ShardState> =
            shards.map(|shard| (ShardId(shard), ShardState::new(&operators))).collect();
        for delta in deltas {
            let reader = DeltaReader::new(delta)?;
            let operator = reader.operator();
            if !operators.iter().any(|(known, _)| *known == operator) {
                return Err(EngineError::UndeclaredState(operator));
            }
            for entry in reader {
                let entry = entry?;
                if let Some(shard) = loaded.get_mut(&entry.shard) {
                    shard.apply(operator, entry.key, entry.value);
                }
            }
        }
        let mut inner = self.inner.lock();
        inner.shards.extend(loaded.into_iter().map(|(id, shard)| (id, Arc::new(shard))));
        Ok(())
    }

    /// Returns the shards whose state this executor holds.
    pub fn owned(&self) -> BTreeSet<ShardId> {
        self.inner.lock().shards.keys().copied().collect()
    }

    pub fn forget(&self, shards: impl Iterator<Item = ShardId>) {
        let mut inner = self.inner.lock();
        for shard in shards {
            inner.shards.remove(&shard);
        }
    }

    /// Removes all shards and overlays. Returns them, since dropping them takes a while.
    pub fn clear(&self) -> impl Send + 'static {
        std::mem::take(&mut *self.inner.lock())
    }

    /// Returns the state of a task of `stage` over these shards. Tasks of source stages have an empty range.
    pub fn task(&self, stage: StageId, shards: Range<u16>) -> Result<TaskState, EngineError> {
        let inner = self.inner.lock();
        let operators = self.operators.get(&stage).cloned().unwrap_or_default();
        let mut mine = BTreeMap::new();
        for shard in shards.clone().map(ShardId) {
            let state = inner.shards.get(&shard).ok_or(EngineError::MissingShard(shard))?;
            mine.insert(shard, state.clone());
        }
        Ok(TaskState::new(operators, shards, mine, self.budget.task(inner.committed_bytes())))
    }

    /// Returns a counter for rows that wait for tasks.
    pub fn waiting(&self) -> Growth {
        let committed = self.inner.lock().committed_bytes();
        self.budget.task(committed)
    }

    /// Keeps the changes of a finished task, tentatively.
    pub fn stage(&self, attempt: AttemptId, overlay: Overlay) {
        self.inner.lock().overlays.entry(attempt).or_default().push(overlay);
    }

    /// Commits the overlays of this attempt, and drops all others. Blocks: many changes take a second on all cores.
    pub fn promote(&self, attempt: AttemptId) -> Result<(), EngineError> {
        let mut inner = self.inner.lock();
        let mut overlays = std::mem::take(&mut inner.overlays);
        let mine = overlays.remove(&attempt);
        if let (None, Some(found)) = (&mine, overlays.keys().next()) {
            return Err(EngineError::WrongAttempt { wanted: attempt, found: *found });
        }
        let mut jobs = Vec::new();
        for (operator, shard, changes) in mine.into_iter().flatten().flat_map(Overlay::into_changes) {
            let state = inner.shards.get(&shard).ok_or(EngineError::MissingShard(shard))?;
            jobs.push((state.clone(), operator, changes));
        }
        drop(inner);
        put_all(jobs);
        Ok(())
    }

    /// Removes the overlays of an attempt. Returns them, since dropping them takes a while.
    pub fn discard(&self, attempt: AttemptId) -> Option<Vec<Overlay>> {
        self.inner.lock().overlays.remove(&attempt)
    }
}

/// Changes per thread; fewer are not worth another thread.
const CHANGES_OF_ONE_THREAD: usize = 10_000;

/// Commits changes of operators in shards, in parallel. Tasks of one batch never change the same map.
fn put_all(jobs: Vec<(Arc<ShardState>, OperatorId, Changes)>) {
    let changes: usize = jobs.iter().map(|(_, _, changes)| changes.len()).sum();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = changes.div_ceil(CHANGES_OF_ONE_THREAD).min(cores);
    let put = |(state, operator, changes): (Arc<ShardState>, OperatorId, Changes)| {
        state.put(operator, changes);
        Ok::<_, Infallible>(())
    };
    let Ok(_) = in_parallel(jobs, threads, put);
}
