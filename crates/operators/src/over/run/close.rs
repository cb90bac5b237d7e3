//! Evicting whole partitions: those that close, and those without a change for the TTL.
//!
//! Owns: reading, emitting and deleting them. Invariant: final rows are emitted once, in the batch that closes their
//! partition.

use super::emit::Rows;
use super::partition::{Entry, first, limited, of_deadline, prefix_in};
use super::{Closed, Over};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::pipeline::OUTPUT_ROWS;
use highwater_dataflow::runtime::portions::Portions;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Keys, Scan, Writes};
use highwater_protocol::ids::ShardId;
use std::ops::ControlFlow;

impl Over {
    /// Evicts partitions that close now, including those in `closed`, which the batch has changed. Emits their rows
    /// first if only final rows are emitted.
    pub fn close(
        &self,
        mut closed: Closed,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        for (shard, key) in state.closing()?.iter() {
            closed.insert((shard, prefix_in(key)?.to_vec()));
        }
        let closed: Vec<(ShardId, Vec<u8>)> = closed.into_iter().collect();
        let (mut rows, mut writes) = (Rows::default(), Writes::default());
        let mut portions = Portions::of(closed.len());
        while let Some(asked) = portions.next() {
            let partitions = read(&closed[asked.clone()], state)?;
            portions.done(partitions.len());
            for ((shard, _), all) in closed[asked].iter().zip(partitions) {
                let making = if self.spec.on_close { self.reserve(&all, state)? } else { 0 };
                all.iter().for_each(|entry| writes.delete(*shard, &[&entry.key]));
                if self.spec.on_close {
                    rows.add(&limited(first(&all, self.spec.limit), self.spec.limit));
                }
                if rows.len() > OUTPUT_ROWS {
                    self.emit_final(&std::mem::take(&mut rows), state, out)?;
                }
                state.take_back(making);
            }
            state.put(&mut writes)?;
        }
        self.emit_final(&rows, state, out)
    }
}

/// Reads all rows of a portion of these partitions, from the first.
fn read(closed: &[(ShardId, Vec<u8>)], state: &KeyedState<'_>) -> Result<Vec<Vec<Entry>>, EngineError> {
    let scans: Vec<Scan<'_>> = closed.iter().map(|(shard, prefix)| Scan::prefix(*shard, prefix)).collect();
    let mut found: Vec<Vec<Entry>> = vec![Vec::new(); closed.len()];
    let complete = state.scan_portion(&scans, &mut |place, key, value| {
        found[place].push(Entry::new(key, closed[place].1.len(), StoredRow::decode(value)?)?);
        Ok(ControlFlow::Continue(()))
    })?;
    found.truncate(complete);
    Ok(found)
}

/// Expires partitions without a change for the TTL. `due` are the keys of their deadlines.
pub fn expire(due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
    let (mut prefixes, mut rows, mut deadlines) = (Keys::default(), Keys::default(), Writes::default());
    for (shard, key) in due.iter() {
        prefixes.push(shard, &[&of_deadline(key)?]);
        deadlines.delete(shard, &[key]);
    }
    let scans: Vec<Scan<'_>> = prefixes.iter().map(|(shard, prefix)| Scan::prefix(shard, prefix)).collect();
    state.scan(&scans, &mut |place, key, _| {
        rows.push(scans[place].shard, &[key]);
        Ok(ControlFlow::Continue(()))
    })?;
    state.forget(&rows)?;
    state.put(&mut deadlines)
}
