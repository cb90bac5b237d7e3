//! What one task works on: the committed maps of its shards, read only, and its own changes.

use super::budget::{Growth, Taker};
use super::map::{Direction, Layout, Stretch, Visit, successor, walk};
use super::overlay::Overlay;
use super::shard::{ShardState, entry_bytes};
use crate::error::EngineError;
use highwater_protocol::ids::{OperatorId, ShardId};
use highwater_protocol::report::StateDelta;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// State of one task attempt.
#[derive(Debug)]
pub struct TaskState {
    operators: BTreeMap<OperatorId, Layout>,
    range: Range<u16>,
    shards: BTreeMap<ShardId, Arc<ShardState>>,
    overlay: Overlay,
    growth: Growth,
    /// Set when an operator wrote that is not among `operators`.
    undeclared: Option<OperatorId>,
}

/// Counts of one operator's state in a task's shards, its own changes included.
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
        let operators = operators.into_iter().collect();
        Self { operators, range, shards, overlay: Overlay::default(), growth, undeclared: None }
    }

    /// The same in parts: neighbouring shards, as evenly as can be, at most one part for each shard.
    pub fn split(self, parts: usize) -> Vec<Self> {
        let Range { start, end } = self.range;
        let count = parts.clamp(1, usize::from((end - start).max(1))) as u16;
        if count == 1 {
            return vec![self];
        }
        let edge = |part: u16| start + (u32::from(end - start) * u32::from(part) / u32::from(count)) as u16;
        let Self { operators, mut shards, growth, .. } = self;
        let mut split = Vec::with_capacity(usize::from(count));
        for part in (0..count).rev() {
            let mine = shards.split_off(&ShardId(edge(part)));
            let range = edge(part)..edge(part + 1);
            let (operators, growth) = (operators.clone(), growth.part());
            split.push(Self { operators, range, shards: mine, overlay: Overlay::default(), growth, undeclared: None });
        }
        split.reverse();
        split
    }

    /// Its shards: the first, and one past the last.
    pub fn range(&self) -> Range<ShardId> {
        ShardId(self.range.start)..ShardId(self.range.end)
    }

    /// Values there are before this task, of all operators.
    pub fn entries(&self) -> usize {
        let operators = self.operators.keys();
        let of = |operator: &OperatorId| -> usize {
            self.shards.values().filter_map(|state| state.map(*operator)).map(|map| map.read().entries.len()).sum()
        };
        operators.map(of).sum()
    }

    /// Appends the value of a key to `into`; false when there is none.
    pub fn read(&self, operator: OperatorId, shard: ShardId, key: &[u8], into: &mut Vec<u8>) -> bool {
        if let Some(changed) = self.overlay.get(operator, shard, key) {
            into.extend_from_slice(changed.as_deref().unwrap_or_default());
            return changed.is_some();
        }
        let Some(map) = self.shards.get(&shard).and_then(|state| state.map(operator)) else { return false };
        match map.read().entries.get(key) {
            Some(value) => {
                into.extend_from_slice(value);
                true
            }
            None => false,
        }
    }

    /// Sets the value of a key, tentatively; `None` deletes it. Without memory for it nothing is set: see [`Self::check`].
    pub fn put(&mut self, operator: OperatorId, shard: ShardId, key: &[u8], value: Option<Box<[u8]>>) {
        let bytes = value.as_deref().map_or(0, |value| entry_bytes(key.len(), value));
        if !self.growth.keep(operator, bytes) {
            return;
        }
        match self.operators.get(&operator) {
            Some(layout) => self.overlay.put(operator, shard, key, value, *layout),
            None => self.undeclared = Some(operator),
        }
    }

    /// Rows of so many bytes are made, which are all there until they are settled.
    pub fn charge(&mut self, by: impl Into<Taker>, bytes: usize) -> Result<(), EngineError> {
        self.growth.charge(by, bytes as u64)
    }

    /// So many of them are gone.
    pub fn take_back(&mut self, bytes: usize) {
        self.growth.take_back(bytes as u64);
    }

    /// All of them have gone on.
    pub fn settle(&mut self) {
        self.growth.settle();
    }

    /// Whether there was memory for all that was set. If not, the task's changes are worth nothing.
    pub fn check(&self) -> Result<(), EngineError> {
        if let Some(operator) = self.undeclared {
            return Err(EngineError::UndeclaredState(operator));
        }
        self.growth.check()
    }

    /// Visits the entries of an ordered operator whose key begins with `prefix`, in order, this task's changes
    /// included, until the visitor breaks off.
    pub fn walk(&self, operator: OperatorId, shard: ShardId, prefix: &[u8], direction: Direction, visit: Visit<'_>) {
        let end = successor(prefix);
        self.walk_stretch(operator, shard, Stretch { start: prefix, end: end.as_deref() }, direction, visit);
    }

    /// The same over a stretch of keys.
    pub fn walk_stretch(
        &self,
        operator: OperatorId,
        shard: ShardId,
        stretch: Stretch<'_>,
        direction: Direction,
        visit: Visit<'_>,
    ) {
        let committed = self.shards.get(&shard).and_then(|state| state.map(operator)).map(|map| map.read());
        walk(committed.as_ref().map(|map| &map.entries), self.overlay.map(operator, shard), stretch, direction, visit);
    }

    /// Whether this task owns the shard.
    pub fn owns(&self, shard: ShardId) -> bool {
        self.range.contains(&shard.0)
    }

    /// The shards this task owns, ascending.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        self.range.clone().map(ShardId)
    }

    /// Committed keys that close at or before this time and that the task has not changed, in a fixed order.
    pub fn due(&self, operator: OperatorId, close_before_ms: i64) -> Vec<(ShardId, Box<[u8]>)> {
        let mut due = Vec::new();
        for (shard, state) in &self.shards {
            let Some(map) = state.map(operator) else { continue };
            let map = map.read();
            let untouched = |key: &&[u8]| self.overlay.get(operator, *shard, key).is_none();
            due.extend(map.due(close_before_ms).filter(untouched).map(|key| (*shard, key.into())));
        }
        due
    }

    /// Committed keys that expire at or before this time of batches, in a fixed order. Asked before the task changes any.
    pub fn expired(&self, operator: OperatorId, now_ms: i64) -> Vec<(ShardId, Box<[u8]>)> {
        let mut expired = Vec::new();
        for (shard, state) in &self.shards {
            if let Some(map) = state.map(operator) {
                expired.extend(map.read().expired(now_ms).map(|key| (*shard, key.into())));
            }
        }
        expired
    }

    /// Size of an operator's state once the changes are committed.
    pub fn size(&self, operator: OperatorId) -> StateSize {
        let mut size = StateSize::default();
        for state in self.shards.values() {
            if let Some(map) = state.map(operator) {
                let map = map.read();
                size.rows += map.entries.len() as u64;
                size.bytes += map.bytes;
            }
        }
        for (shard, changes) in self.overlay.of(operator) {
            let Some(map) = self.shards.get(&shard).and_then(|state| state.map(operator)) else { continue };
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

    /// The changes: to be kept here, and to be checkpointed.
    pub fn finish(self) -> (Overlay, Vec<StateDelta>) {
        let deltas = self.operators.keys().filter_map(|operator| self.overlay.delta(*operator, &self.range)).collect();
        let Self { mut overlay, growth, .. } = self;
        overlay.hold(growth);
        (overlay, deltas)
    }
}
