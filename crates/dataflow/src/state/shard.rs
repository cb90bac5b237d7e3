//! The committed state of one shard: a map per operator, with the keys that can close in order of time.

use super::map::{Layout, Map};
use super::overlay::Changes;
use super::store::Until;
use hashbrown::HashSet;
use highwater_protocol::ids::OperatorId;
use parking_lot::RwLock;
use std::collections::BTreeMap;

/// The close time of a value that is never evicted.
pub const NEVER: i64 = i64::MAX;

/// Close times from here on are event times; those below it are batch times, see [`expires_at`].
const FIRST_EVENT_MS: i64 = i64::MIN / 2;

/// Returns the close time of state that expires at this batch time, independent of the watermark. It is in a range of its
/// own, so that one operator may keep both kinds.
pub fn expires_at(batch_ms: i64) -> i64 {
    i64::MIN + batch_ms.clamp(0, i64::MAX / 2 - 1)
}

/// Returns the close time of state that closes at this event time.
pub fn closes_at(event_ms: i64) -> i64 {
    event_ms.max(FIRST_EVENT_MS)
}

/// A decoded close time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    Never,
    /// Closes once the watermark has reached this, in milliseconds.
    At {
        event_ms: i64,
    },
    /// Expires in the first batch with this time or a later one, in milliseconds.
    Expires {
        batch_ms: i64,
    },
}

impl Closing {
    pub fn of(close_ms: i64) -> Self {
        match close_ms {
            NEVER => Self::Never,
            FIRST_EVENT_MS.. => Self::At { event_ms: close_ms },
            _ => Self::Expires { batch_ms: close_ms.wrapping_sub(i64::MIN) },
        }
    }
}

/// Returns the close time of a value, in milliseconds; [`NEVER`] for a value that is too short to have one.
pub fn close_of(value: &[u8]) -> i64 {
    value.first_chunk::<8>().map_or(NEVER, |bytes| i64::from_le_bytes(*bytes))
}

/// Memory of an entry besides its bytes: its slot in the map, and two allocations, on a 64-bit machine.
const ENTRY_BYTES: u64 = 80;
/// Memory of a key's slot in `due`, besides its bytes.
const DUE_BYTES: u64 = 40;

/// Returns the memory of an entry, in bytes, whose key has `length` bytes.
pub(super) fn entry_bytes(length: usize, value: &[u8]) -> u64 {
    let due = if close_of(value) == NEVER { 0 } else { length as u64 + DUE_BYTES };
    (length + value.len()) as u64 + ENTRY_BYTES + due
}

#[derive(Debug)]
pub(super) struct ShardState {
    maps: BTreeMap<OperatorId, RwLock<KeyMap>>,
}

/// Keys and values of one operator in one shard.
#[derive(Debug)]
pub(super) struct KeyMap {
    pub entries: Map<Box<[u8]>>,
    /// Keys by their close time. A window has many keys, which come in any order, so they are sorted only when they are
    /// due.
    due: BTreeMap<i64, HashSet<Box<[u8]>>>,
    /// Memory of all entries, in bytes.
    pub bytes: u64,
}

impl ShardState {
    pub fn new(operators: &[(OperatorId, Layout)]) -> Self {
        let map = |(operator, layout): &(OperatorId, Layout)| (*operator, RwLock::new(KeyMap::new(*layout)));
        Self { maps: operators.iter().map(map).collect() }
    }

    /// Returns the memory of all operators' entries, in bytes.
    pub fn bytes(&self) -> u64 {
        self.maps.values().map(|map| map.read().bytes).sum()
    }

    pub fn map(&self, operator: OperatorId) -> Option<&RwLock<KeyMap>> {
        self.maps.get(&operator)
    }

    /// Puts or deletes an entry while the shard is loaded, before any task has it.
    pub fn apply(&mut self, operator: OperatorId, key: &[u8], value: Option<&[u8]>) {
        if let Some(map) = self.maps.get_mut(&operator) {
            map.get_mut().put(key.into(), value.map(Into::into));
        }
    }

    pub fn put(&self, operator: OperatorId, changes: Changes) {
        let Some(map) = self.maps.get(&operator) else { return };
        let mut map = map.write();
        for (key, value) in changes.into_entries() {
            map.put(key, value);
        }
    }
}

impl KeyMap {
    fn new(layout: Layout) -> Self {
        Self { entries: Map::new(layout), due: BTreeMap::new(), bytes: 0 }
    }

    fn put(&mut self, key: Box<[u8]>, value: Option<Box<[u8]>>) {
        let close = value.as_deref().map_or(NEVER, close_of);
        // A copy of the key for `due`, if the key is in it or will be.
        let copy = (close != NEVER || !self.due.is_empty()).then(|| key.clone());
        let length = key.len();
        let old = match value {
            Some(value) => {
                self.bytes += entry_bytes(length, &value);
                self.entries.insert(key, value)
            }
            None => self.entries.remove(&key),
        };
        if let Some(old) = &old {
            self.bytes -= entry_bytes(length, old);
        }
        let old_close = old.as_deref().map_or(NEVER, close_of);
        if let Some(key) = copy.filter(|_| close != old_close) {
            if old_close != NEVER {
                self.forget_due(old_close, &key);
            }
            if close != NEVER {
                self.due.entry(close).or_default().insert(key);
            }
        }
    }

    fn forget_due(&mut self, close: i64, key: &[u8]) {
        if let Some(keys) = self.due.get_mut(&close) {
            keys.remove(key);
            if keys.is_empty() {
                self.due.remove(&close);
            }
        }
    }

    /// Calls `give` with the keys that are due, in the order of time and key.
    pub fn due(&self, until: Until, mut give: impl FnMut(&[u8])) {
        let times = match until {
            Until::Watermark(event_ms) => FIRST_EVENT_MS..=closes_at(event_ms),
            Until::Clock(batch_ms) => i64::MIN..=expires_at(batch_ms),
        };
        for keys in self.due.range(times).map(|(_, keys)| keys) {
            let mut keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
            keys.sort_unstable();
            keys.into_iter().for_each(&mut give);
        }
    }
}
