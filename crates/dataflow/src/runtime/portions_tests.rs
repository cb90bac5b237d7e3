//! Portions over a store that makes large entries on demand, and counts scans.

use super::*;
use crate::runtime::BatchContext;
use crate::runtime::late::Late;
use crate::runtime::ttl::Ttl;
use crate::state::{Growth, Keys, StateStore, Stretch, Until, Values, Writes};
use highwater_protocol::ids::{OperatorId, ShardId};
use highwater_protocol::key_conflicts::ConflictChanges;
use std::cell::Cell;

const OP: OperatorId = OperatorId(0);
const ENTRY_BYTES: usize = 1 << 20;

/// A store with `entries[key]` large entries under each key, made on demand.
struct Large {
    entries: Vec<usize>,
    calls: Cell<usize>,
    /// Scans that were begun.
    begun: Cell<usize>,
}

impl StateStore for Large {
    fn shards(&self) -> Range<ShardId> {
        ShardId(0)..ShardId(1)
    }

    fn get(&self, _: OperatorId, _: &Keys, _: &mut Values) -> Result<(), EngineError> {
        unreachable!()
    }

    fn scan(&self, _: OperatorId, scans: &[Scan<'_>], visit: Visit<'_>) -> Result<(), EngineError> {
        self.calls.set(self.calls.get() + 1);
        let value = vec![0; ENTRY_BYTES];
        for (place, scan) in scans.iter().enumerate() {
            self.begun.set(self.begun.get() + 1);
            let Stretch::Prefix(prefix) = scan.keys else { unreachable!() };
            let key = u32::from_be_bytes(*prefix.first_chunk().unwrap()) as usize;
            for _ in 0..self.entries[key] {
                if visit(place, prefix, &value)?.is_break() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn due(&self, _: OperatorId, _: Until, _: &mut Keys) -> Result<(), EngineError> {
        unreachable!()
    }

    fn put(&mut self, _: OperatorId, _: &Writes) -> Result<(), EngineError> {
        unreachable!()
    }
}

/// Scans all keys in portions. Returns the keys of each portion with their entries, the number of calls, and of begun scans.
fn portions(entries: Vec<usize>, wanted: usize) -> (Vec<Vec<(usize, usize)>>, usize, usize) {
    let mut store = Large { entries, calls: Cell::new(0), begun: Cell::new(0) };
    let keys = store.entries.len();
    let (context, mut rows) = (BatchContext::default(), Growth::unlimited());
    let (mut ttl, mut late) = (Ttl::of(OP, &context), Late::new(OP, None));
    let key_conflicts = &mut ConflictChanges::default();
    let mut all = Vec::new();
    let mut portions = Portions::of(keys);
    let (rows, ttl, late) = (&mut rows, &mut ttl, &mut late);
    let (close_before_ms, portion_bytes) = (None, PORTION_BYTES);
    let state = KeyedState {
        store: &mut store,
        rows,
        operator: OP,
        shards: 1,
        close_before_ms,
        ttl,
        portion_bytes,
        late,
        key_conflicts,
    };
    while let Some(asked) = portions.next() {
        let prefixes: Vec<[u8; 4]> = asked.clone().map(|key| (key as u32).to_be_bytes()).collect();
        let scans: Vec<Scan<'_>> = prefixes.iter().map(|prefix| Scan::prefix(ShardId(0), prefix)).collect();
        let mut found: Vec<(usize, usize)> = asked.map(|key| (key, 0)).collect();
        let visit: Visit<'_> = &mut |place, _, _| {
            found[place].1 += 1;
            Ok(if found[place].1 == wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        let complete = state.scan_portion(&scans, visit).unwrap();
        assert!(found[complete..].iter().all(|(_, entries)| *entries == 0), "a key that waits was seen in part");
        found.truncate(complete);
        all.push(found);
        portions.done(complete);
    }
    (all, store.calls.get(), store.begun.get())
}

#[test]
fn a_portion_ends_behind_the_key_that_fills_it() {
    // given a key that is too large by itself among small ones and empty ones
    let entries: Vec<usize> = (0..40).map(|key| if key == 7 { 30 } else { key % 4 }).collect();
    // when
    let (portions, ..) = portions(entries.clone(), usize::MAX);
    // then every key came once, and whole
    let all: Vec<usize> = portions.iter().flatten().map(|(_, found)| *found).collect();
    assert_eq!(all, entries);
    let least = PORTION_BYTES / ENTRY_BYTES;
    for portion in &portions {
        let sizes: Vec<usize> = portion.iter().map(|(_, found)| *found).filter(|found| *found > 0).collect();
        let (_, before) = sizes.split_last().unwrap();
        assert!(before.iter().sum::<usize>() < least, "{portion:?}");
    }
    assert!(portions.len() > 3);
}

#[test]
fn small_keys_are_scanned_together() {
    let (portions, calls, _) = portions(vec![0; 2 * OUTPUT_ROWS + 1], usize::MAX);
    assert_eq!((portions.len(), calls), (3, 3));
}

#[test]
fn few_scans_are_begun_in_vain() {
    // given keys of which each portion takes eight
    let (portions, calls, begun) = portions(vec![1; 4_000], usize::MAX);
    assert_eq!((portions.len(), calls), (500, 500));
    assert!(begun < 4 * 4_000, "{begun} scans for 4000 keys");
}

#[test]
fn what_is_not_wanted_fills_no_portion() {
    let (portions, ..) = portions(vec![1_000; 16], 1);
    assert_eq!(portions.len(), 2);
}
