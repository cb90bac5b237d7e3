//! The tentative changes of one task, which become state when its attempt is committed.

use super::budget::Growth;
use super::map::{Layout, Map};
use highwater_protocol::ids::{OperatorId, ShardId};
use highwater_protocol::report::StateDelta;
use highwater_protocol::state_delta::DeltaWriter;
use std::collections::BTreeMap;
use std::ops::Range;

/// Keys with their new value, or its absence.
pub(super) type Changes = Map<Option<Box<[u8]>>>;

/// Changed keys by operator and shard; no value = deleted.
#[derive(Debug, Default)]
pub struct Overlay {
    changes: BTreeMap<(OperatorId, ShardId), Changes>,
    /// Counters of their memory, until the overlay is dropped.
    held: Vec<Growth>,
}

impl Overlay {
    pub(super) fn put(
        &mut self,
        operator: OperatorId,
        shard: ShardId,
        key: &[u8],
        value: Option<Box<[u8]>>,
        layout: Layout,
    ) {
        self.changes.entry((operator, shard)).or_insert_with(|| Map::new(layout)).insert(key.into(), value);
    }

    /// Returns the changes of one operator in one shard; `None` if there are none.
    pub(super) fn map(&self, operator: OperatorId, shard: ShardId) -> Option<&Changes> {
        self.changes.get(&(operator, shard))
    }

    /// Returns the shards of an operator that changed, with their changes.
    pub(super) fn of(&self, operator: OperatorId) -> impl Iterator<Item = (ShardId, &Changes)> {
        let range = (operator, ShardId(0))..=(operator, ShardId(u16::MAX));
        self.changes.range(range).map(|((_, shard), changes)| (*shard, changes))
    }

    /// Returns the delta of one operator; `None` if nothing changed.
    pub(super) fn delta(&self, operator: OperatorId, shards: &Range<u16>) -> Option<StateDelta> {
        let mut writer = DeltaWriter::new(operator);
        for (shard, changes) in self.of(operator) {
            for (key, value) in changes.iter() {
                writer.push(shard, key, value.as_deref());
            }
        }
        let (keys, digest) = (writer.keys(), writer.digest());
        (keys > 0).then(|| StateDelta {
            operator,
            first_shard: ShardId(shards.start),
            end_shard: ShardId(shards.end),
            keys,
            digest,
            bytes: writer.finish(),
        })
    }

    /// Keeps a counter of memory until the overlay is dropped; its rows count until they are settled.
    pub(super) fn hold(&mut self, growth: Growth) {
        self.held.push(growth);
    }

    /// Stops counting the rows that were emitted with these changes, since they have been handed on.
    pub fn settle(&mut self) {
        self.held.iter_mut().for_each(Growth::settle);
    }

    /// Adds the changes of other shards.
    pub fn extend(&mut self, other: Overlay) {
        self.changes.extend(other.changes);
        self.held.extend(other.held);
    }

    pub(super) fn into_changes(self) -> impl Iterator<Item = (OperatorId, ShardId, Changes)> {
        self.changes.into_iter().map(|((operator, shard), changes)| (operator, shard, changes))
    }
}
