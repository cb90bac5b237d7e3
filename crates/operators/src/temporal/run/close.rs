//! Closing rows and versions that the watermark has passed.
//!
//! Owns: emitting final rows, if only final rows are emitted, and evicting state that no later row can need.

use super::Temporal;
use super::emit::Emitted;
use super::keys::{VERSION, decode_time, split_key};
use super::versions::{prune, versions_at};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::pipeline::OUTPUT_ROWS;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Keys, Values, Writes};
use highwater_protocol::ids::ShardId;
use std::collections::BTreeSet;

impl Temporal {
    /// Closes rows that the watermark has passed, and prunes versions of these keys and of `touched`.
    pub fn close(
        &self,
        touched: impl Iterator<Item = Vec<u8>>,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        if state.close_before_ms().is_none() {
            return Ok(());
        }
        let mut over: BTreeSet<(ShardId, Vec<u8>)> = touched.map(|key| (state.shard_of(&key), key)).collect();
        let (mut rows, mut writes) = (Keys::default(), Writes::default());
        for (shard, bytes) in state.closing()?.iter() {
            let (kind, key, _) = split_key(bytes)?;
            if kind == VERSION {
                over.insert((shard, key.to_vec()));
                continue;
            }
            rows.push(shard, &[bytes]);
            writes.delete(shard, &[bytes]);
        }
        if self.spec.on_close {
            self.emit_closed(&rows, state, out)?;
        }
        state.put(&mut writes)?;
        prune(&over.into_iter().collect::<Vec<_>>(), state)
    }

    /// Emits rows that are final now, each with its version.
    fn emit_closed(&self, rows: &Keys, state: &KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let (mut part, mut values) = (Keys::default(), Values::default());
        for start in (0..rows.len()).step_by(OUTPUT_ROWS) {
            part.clear();
            for (shard, key) in (start..rows.len().min(start + OUTPUT_ROWS)).map(|place| rows.get(place)) {
                part.push(shard, &[key]);
            }
            state.get(&part, &mut values)?;
            let keys = part.iter().map(|(shard, bytes)| split_key(bytes).map(|(_, key, suffix)| (shard, key, suffix)));
            let keys: Vec<(ShardId, &[u8], &[u8])> = keys.collect::<Result<_, _>>()?;
            let times: Vec<i64> = keys.iter().map(|(_, _, suffix)| decode_time(suffix)).collect::<Result<_, _>>()?;
            let wanted = keys.iter().zip(times).map(|((shard, key, _), time)| Some((*shard, *key, time)));
            let versions = versions_at(state, wanted)?;
            let mut emitted = Vec::with_capacity(part.len());
            for (place, ((_, _, suffix), new)) in keys.into_iter().zip(versions).enumerate() {
                let new_weight = StoredRow::weight_of(values.get(place))?;
                emitted.push(Emitted { row: suffix[8..].to_vec(), old: None, new, old_weight: 0, new_weight });
            }
            self.emit(emitted, out)?;
        }
        Ok(())
    }
}
