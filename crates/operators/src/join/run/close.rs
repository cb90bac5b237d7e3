//! Evicting rows that no later row can match.
//!
//! Owns: emitting unmatched rows among them, if the join shows them, and evicting. Does not own: rows that the batch
//! has touched, which are closed when their pairs are computed.

use super::{Join, Lonely};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::pipeline::OUTPUT_ROWS;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Keys, Values, Writes};

impl Join {
    /// Evicts rows that no row of this batch has touched and that no later row can match.
    pub fn close_untouched(&self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let due = state.closing()?;
        let (mut keys, mut values, mut writes) = (Keys::default(), Values::default(), Writes::default());
        for start in (0..due.len()).step_by(OUTPUT_ROWS) {
            keys.clear();
            for place in start..due.len().min(start + OUTPUT_ROWS) {
                let (shard, key) = due.get(place);
                let (side, _) = split_key(key)?;
                if self.spec.on_close && self.spec.output.shows_unmatched(side) {
                    keys.push(shard, &[key]);
                }
                writes.delete(shard, &[key]);
            }
            state.get(&keys, &mut values)?;
            self.emit_closed(&keys, &values, out)?;
            state.put(&mut writes)?;
        }
        Ok(())
    }

    /// Emits the unmatched rows among these.
    fn emit_closed(&self, keys: &Keys, values: &Values, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let mut lonely: [(Vec<&[u8]>, Vec<i64>); 2] = Default::default();
        for (place, (_, key)) in keys.iter().enumerate() {
            let (side, row) = split_key(key)?;
            if let Some(kept) = StoredRow::read(values.get(place))?.filter(|kept| kept.count == 0) {
                lonely[side].0.push(row);
                lonely[side].1.push(kept.weight);
            }
        }
        for (side, (rows, weights)) in lonely.into_iter().enumerate().filter(|(_, (rows, _))| !rows.is_empty()) {
            let columns = self.codecs[side].rows.decode(rows.iter().copied())?;
            let marks = vec![false; rows.len()];
            let places = (0..rows.len() as u32).collect();
            self.emit_lonely(side, &columns, rows.len(), Lonely { places, weights, marks }, out)?;
        }
        Ok(())
    }
}

/// Returns side and row of a state key.
pub fn split_key(bytes: &[u8]) -> Result<(usize, &[u8]), EngineError> {
    let split = || {
        let (side, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        Some((usize::from(*side), rest.get(u32::from_be_bytes(*length) as usize..)?))
    };
    split().filter(|(side, _)| *side < 2).ok_or_else(|| EngineError::CutOff("a join's key"))
}
