//! A map of one operator's keys to values, hashed or ordered.
//!
//! Owns: the choice between the two, and walking a range of keys of one map with the changes of another applied.
//! Invariant: an operator always uses the same kind.

use super::store::{Direction, Stretch};
use crate::error::EngineError;
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::{Bound, ControlFlow};

/// How an operator looks up its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// By whole key.
    Hashed,
    /// Also by prefix or range, in order.
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

    /// Returns the entries of a stretch of keys, in order; `None` for a hashed map.
    fn range(&self, stretch: Stretch<'_>) -> Option<btree_map::Range<'_, Box<[u8]>, V>> {
        let Self::Ordered(map) = self else { return None };
        let successor = match stretch {
            Stretch::Prefix(prefix) => successor(prefix),
            Stretch::Range { .. } => None,
        };
        let (start, end) = match stretch {
            Stretch::Prefix(prefix) => (prefix, successor.as_deref()),
            Stretch::Range { start, end } => (start, end),
        };
        Some(map.range::<[u8], _>((Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded))))
    }
}

/// Returns the least byte string greater than all that begin with `prefix`; `None` if there is none.
pub fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Called by a walk with key and value of an entry.
type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, EngineError>;

/// Visits a stretch of an ordered map with `changes` applied, until the visitor breaks off or fails.
pub fn walk(
    base: &Map<Box<[u8]>>,
    changes: Option<&Map<Option<Box<[u8]>>>>,
    stretch: Stretch<'_>,
    direction: Direction,
    visit: Visit<'_>,
) -> Result<(), EngineError> {
    let base = base.range(stretch).into_iter().flatten();
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
) -> Result<(), EngineError> {
    let (mut base, mut changes) = (base.peekable(), changes.peekable());
    loop {
        let flow = match (base.peek(), changes.peek()) {
            (None, None) => return Ok(()),
            (Some((key, value)), change) if change.is_none_or(|(changed, _)| first(key, changed)) => {
                let flow = visit(key, value)?;
                base.next();
                flow
            }
            (old, Some((key, value))) => {
                if old.is_some_and(|(old, _)| old == key) {
                    base.next();
                }
                let flow = match value {
                    Some(value) => visit(key, value)?,
                    None => ControlFlow::Continue(()),
                };
                changes.next();
                flow
            }
            (Some(_), None) => return Ok(()),
        };
        if flow.is_break() {
            return Ok(());
        }
    }
}
