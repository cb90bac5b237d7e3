//! The state of one task: its store, and the counter of the memory of its rows.

use super::budget::{Growth, Taker};
use super::map::Layout;
use super::memory::MemoryStore;
use super::overlay::Overlay;
use super::shard::{ShardState, entry_bytes};
use super::store::StateStore;
use crate::error::EngineError;
use highwater_protocol::ids::{OperatorId, ShardId};
use highwater_protocol::report::StateDelta;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// State of one task attempt.
#[derive(Debug)]
pub struct TaskState {
    store: MemoryStore,
    /// Memory of rows that the task has made and not handed on.
    rows: Growth,
}

/// Counts of one operator's state in a task's shards, including the task's changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSize {
    pub rows: u64,
    pub bytes: u64,
    pub updated: u64,
    pub removed: u64,
}

impl TaskState {
    pub(super) fn new(
        operators: Vec<(OperatorId, Layout)>,
        range: Range<u16>,
        shards: BTreeMap<ShardId, Arc<ShardState>>,
        growth: Growth,
    ) -> Self {
        let rows = growth.part();
        let operators = operators.into_iter().collect();
        Self { store: MemoryStore { operators, range, shards, overlay: Overlay::default(), growth }, rows }
    }

    /// Splits the task into parts of neighbouring shards, as even as possible, and at most one part for each shard.
    pub fn split(self, parts: usize) -> Vec<Self> {
        let Range { start, end } = self.store.range;
        let count = parts.clamp(1, usize::from((end - start).max(1))) as u16;
        if count == 1 {
            return vec![self];
        }
        let edge = |part: u16| start + (u32::from(end - start) * u32::from(part) / u32::from(count)) as u16;
        let Self { store: MemoryStore { operators, mut shards, growth, .. }, .. } = self;
        let mut split = Vec::with_capacity(usize::from(count));
        for part in (0..count).rev() {
            let mine = shards.split_off(&ShardId(edge(part)));
            let operators = operators.iter().map(|(operator, layout)| (*operator, *layout)).collect();
            split.push(Self::new(operators, edge(part)..edge(part + 1), mine, growth.part()));
        }
        split.reverse();
        split
    }

    /// Returns the task's shards; the end is exclusive.
    pub fn range(&self) -> Range<ShardId> {
        self.store.shards()
    }

    /// Returns the number of committed entries of all operators in the task's shards.
    pub fn entries(&self) -> usize {
        let maps = |state: &Arc<ShardState>| -> usize {
            self.store.operators.keys().filter_map(|id| state.map(*id)).map(|map| map.read().entries.len()).sum()
        };
        self.store.shards.values().map(maps).sum()
    }

    /// Returns the store for operators, and the counter of the memory of their rows.
    pub fn parts(&mut self) -> (&mut dyn StateStore, &mut Growth) {
        (&mut self.store, &mut self.rows)
    }

    /// Counts `bytes` of rows until they are settled.
    pub fn charge(&mut self, by: impl Into<Taker>, bytes: usize) -> Result<(), EngineError> {
        self.rows.charge(by, bytes as u64)
    }

    /// Returns an operator's name, for messages.
    pub fn name(&self, operator: OperatorId) -> String {
        self.rows.name(operator.into())
    }

    /// Returns the bytes of rows counted since they were last settled.
    pub fn charged(&self) -> u64 {
        self.rows.emitted()
    }

    /// Counts only `bytes` of the rows counted since they were last settled, since the others are dropped.
    pub fn charge_only(&mut self, bytes: u64) {
        self.rows.take_back(self.rows.emitted().saturating_sub(bytes));
    }

    /// Stops counting rows, since they have been handed on.
    pub fn settle(&mut self) {
        self.rows.settle();
    }

    /// Returns an error if the memory limit was exceeded; the task's changes are incomplete then.
    pub fn check(&self) -> Result<(), EngineError> {
        self.store.growth.check()?;
        self.rows.check()
    }

    /// Returns the size of an operator's state once the task's changes are committed.
    pub fn size(&self, operator: OperatorId) -> StateSize {
        let mut size = StateSize::default();
        for state in self.store.shards.values() {
            if let Some(map) = state.map(operator) {
                let map = map.read();
                size.rows += map.entries.len() as u64;
                size.bytes += map.bytes;
            }
        }
        for (shard, changes) in self.store.overlay.of(operator) {
            let Some(map) = self.store.shards.get(&shard).and_then(|state| state.map(operator)) else { continue };
            let map = map.read();
            for (key, value) in changes.iter() {
                let old = map.entries.get(key);
                size.rows = size.rows + u64::from(value.is_some()) - u64::from(old.is_some());
                let bytes = |value: &[u8]| entry_bytes(key.len(), value);
                size.bytes = size.bytes + value.as_deref().map_or(0, bytes) - old.map_or(0, |old| bytes(old));
                match value {
                    Some(_) => size.updated += 1,
                    None => size.removed += u64::from(old.is_some()),
                }
            }
        }
        size
    }

    /// Returns the changes as an overlay, to be kept here, and as deltas for the checkpoint.
    pub fn finish(self) -> (Overlay, Vec<StateDelta>) {
        let Self { store, rows } = self;
        let MemoryStore { operators, range, mut overlay, growth, .. } = store;
        let deltas = operators.keys().filter_map(|operator| overlay.delta(*operator, &range)).collect();
        overlay.hold(growth);
        overlay.hold(rows);
        (overlay, deltas)
    }
}
