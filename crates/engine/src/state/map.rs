//! A map of one operator's keys to values, hashed or in order.
//!
//! Owns: the choice between the two, and walking a prefix of one map with the changes of another on top.
//! Invariant: an operator uses one kind, everywhere and for ever.

use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::{Bound, ControlFlow};

/// How an operator looks up its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One by one.
    Hashed,
    /// Also by prefix, in order.
    Ordered,
}

#[derive(Clone, Debug)]
pub enum Map<V> {
    Hashed(HashMap<Box<[u8]>, V>),
    Ordered(BTreeMap<Box<[u8]>, V>),
}

impl<V> Map<V> {
    pub fn new(layout: Layout) -> Self {
        match layout {
            Layout::Hashed => Self::Hashed(HashMap::new()),
            Layout::Ordered => Self::Ordered(BTreeMap::new()),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Hashed(map) => map.len(),
            Self::Ordered(map) => map.len(),
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<&V> {
        match self {
            Self::Hashed(map) => map.get(key),
            Self::Ordered(map) => map.get(key),
        }
    }

    pub fn insert(&mut self, key: Box<[u8]>, value: V) -> Option<V> {
        match self {
            Self::Hashed(map) => map.insert(key, value),
            Self::Ordered(map) => map.insert(key, value),
        }
    }

    pub fn remove(&mut self, key: &[u8]) -> Option<V> {
        match self {
            Self::Hashed(map) => map.remove(key),
            Self::Ordered(map) => map.remove(key),
        }
    }

    pub fn iter(&self) -> Box<dyn Iterator<Item = (&Box<[u8]>, &V)> + '_> {
        match self {
            Self::Hashed(map) => Box::new(map.iter()),
            Self::Ordered(map) => Box::new(map.iter()),
        }
    }

    pub fn into_entries(self) -> Box<dyn Iterator<Item = (Box<[u8]>, V)>>
    where
        V: 'static,
    {
        match self {
            Self::Hashed(map) => Box::new(map.into_iter()),
            Self::Ordered(map) => Box::new(map.into_iter()),
        }
    }

    /// Entries of a stretch of keys, in order; none of a hashed map.
    fn range(&self, stretch: Stretch<'_>) -> Option<btree_map::Range<'_, Box<[u8]>, V>> {
        let Self::Ordered(map) = self else { return None };
        let end = stretch.end.map_or(Bound::Unbounded, Bound::Excluded);
        Some(map.range::<[u8], _>((Bound::Included(stretch.start), end)))
    }
}

/// Keys from one on, up to another; `end: None` = to the last. The end is not before the start.
#[derive(Clone, Copy, Debug)]
pub struct Stretch<'a> {
    pub start: &'a [u8],
    pub end: Option<&'a [u8]>,
}

/// The least text greater than all that begin with `prefix`; `None` if there is none.
pub fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Which end a walk begins at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// What a walk does with an entry.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Walks a stretch of ordered maps, as they are with `changes` applied.
pub fn walk(
    base: Option<&Map<Box<[u8]>>>,
    changes: Option<&Map<Option<Box<[u8]>>>>,
    stretch: Stretch<'_>,
    direction: Direction,
    visit: Visit<'_>,
) {
    let base = base.and_then(|map| map.range(stretch)).into_iter().flatten();
    let changes = changes.and_then(|map| map.range(stretch)).into_iter().flatten();
    match direction {
        Direction::Forward => merge(base, changes, |a, b| a < b, visit),
        Direction::Backward => merge(base.rev(), changes.rev(), |a, b| a > b, visit),
    }
}

fn merge<'a>(
    base: impl Iterator<Item = (&'a Box<[u8]>, &'a Box<[u8]>)>,
    changes: impl Iterator<Item = (&'a Box<[u8]>, &'a Option<Box<[u8]>>)>,
    first: impl Fn(&[u8], &[u8]) -> bool,
    visit: Visit<'_>,
) {
    let (mut base, mut changes) = (base.peekable(), changes.peekable());
    loop {
        let flow = match (base.peek(), changes.peek()) {
            (None, None) => return,
            (Some((key, value)), change) if change.is_none_or(|(changed, _)| first(key, changed)) => {
                let flow = visit(key, value);
                base.next();
                flow
            }
            (old, Some((key, value))) => {
                if old.is_some_and(|(old, _)| old == key) {
                    base.next();
                }
                let flow = match value {
                    Some(value) => visit(key, value),
                    None => ControlFlow::Continue(()),
                };
                changes.next();
                flow
            }
            (Some(_), None) => return,
        };
        if flow.is_break() {
            return;
        }
    }
}
