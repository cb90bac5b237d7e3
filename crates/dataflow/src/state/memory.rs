//! State in memory, from the view of one task.
//!
//! Owns: the committed maps of the task's shards, read only, and its own changes.
//! Invariants: those of [`StateStore`]; memory is counted before it is used.

use super::budget::Growth;
use super::map::{Layout, walk};
use super::overlay::{Changes, Overlay};
use super::shard::{KeyMap, ShardState, entry_bytes};
use super::store::{Keys, Scan, StateStore, Until, Values, Visit, Writes};
use crate::error::EngineError;
use highwater_protocol::ids::{OperatorId, ShardId};
use parking_lot::RwLockReadGuard;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug)]
pub struct MemoryStore {
    pub(super) operators: BTreeMap<OperatorId, Layout>,
    pub(super) range: Range<u16>,
    pub(super) shards: BTreeMap<ShardId, Arc<ShardState>>,
    pub(super) overlay: Overlay,
    /// Memory of the changes.
    pub(super) growth: Growth,
}

/// One operator's keys in one shard.
struct View<'a> {
    committed: RwLockReadGuard<'a, KeyMap>,
    changes: Option<&'a Changes>,
}

impl View<'_> {
    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        match self.changes.and_then(|changes| changes.get(key)) {
            Some(changed) => changed.as_deref(),
            None => self.committed.entries.get(key).map(AsRef::as_ref),
        }
    }
}

/// Views that are open for one batch of calls. With more keys than shards, all views stay open; otherwise only the last,
/// since the next key is likely in the same shard.
struct Views<'a> {
    store: &'a MemoryStore,
    operator: OperatorId,
    open: Vec<Option<View<'a>>>,
    last: Option<(ShardId, View<'a>)>,
}

impl<'a> Views<'a> {
    fn new(store: &'a MemoryStore, operator: OperatorId, keys: usize) -> Self {
        let shards = store.range.len();
        let open = if keys > shards { (0..shards).map(|_| None).collect() } else { Vec::new() };
        Self { store, operator, open, last: None }
    }

    fn of(&mut self, shard: ShardId) -> Result<&View<'a>, EngineError> {
        let Self { store, operator, open, last } = self;
        let place = usize::from(shard.0.wrapping_sub(store.range.start));
        if let Some(view) = open.get_mut(place) {
            return match view {
                Some(view) => Ok(view),
                None => Ok(view.insert(store.view(*operator, shard)?)),
            };
        }
        if last.as_ref().is_none_or(|(of, _)| *of != shard) {
            *last = Some((shard, store.view(*operator, shard)?));
        }
        last.as_ref().map(|(_, view)| view).ok_or(EngineError::MissingShard(shard))
    }
}

impl MemoryStore {
    /// Returns the layout of the operator's keys.
    fn layout(&self, operator: OperatorId) -> Result<Layout, EngineError> {
        self.operators.get(&operator).copied().ok_or(EngineError::UndeclaredState(operator))
    }

    fn view(&self, operator: OperatorId, shard: ShardId) -> Result<View<'_>, EngineError> {
        let state = self.shards.get(&shard).ok_or(EngineError::MissingShard(shard))?;
        let map = state.map(operator).ok_or(EngineError::UndeclaredState(operator))?;
        Ok(View { committed: map.read(), changes: self.overlay.map(operator, shard) })
    }
}

impl StateStore for MemoryStore {
    fn shards(&self) -> Range<ShardId> {
        ShardId(self.range.start)..ShardId(self.range.end)
    }

    fn get(&self, operator: OperatorId, keys: &Keys, values: &mut Values) -> Result<(), EngineError> {
        values.clear();
        let mut views = Views::new(self, operator, keys.len());
        for (shard, key) in keys.iter() {
            values.push(views.of(shard)?.get(key));
        }
        Ok(())
    }

    fn scan(&self, operator: OperatorId, scans: &[Scan<'_>], visit: Visit<'_>) -> Result<(), EngineError> {
        let mut views = Views::new(self, operator, scans.len());
        for (place, scan) in scans.iter().enumerate() {
            let view = views.of(scan.shard)?;
            walk(&view.committed.entries, view.changes, scan.keys, scan.direction, &mut |key, value| {
                visit(place, key, value)
            })?;
        }
        Ok(())
    }

    fn due(&self, operator: OperatorId, until: Until, keys: &mut Keys) -> Result<(), EngineError> {
        for shard in self.shards.keys() {
            let view = self.view(operator, *shard)?;
            view.committed.due(until, |key| {
                if view.changes.is_none_or(|changes| changes.get(key).is_none()) {
                    keys.push(*shard, &[key]);
                }
            });
        }
        Ok(())
    }

    fn put(&mut self, operator: OperatorId, writes: &Writes) -> Result<(), EngineError> {
        let layout = self.layout(operator)?;
        for (shard, key, value) in writes.iter() {
            if !self.range.contains(&shard.0) {
                return Err(EngineError::MissingShard(shard));
            }
            let bytes = value.map_or(0, |value| entry_bytes(key.len(), value));
            if !self.growth.keep(operator, bytes) {
                return self.growth.check();
            }
            self.overlay.put(operator, shard, key, value.map(Into::into), layout);
        }
        Ok(())
    }
}
