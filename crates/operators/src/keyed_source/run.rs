//! Folding the records of a table with PRIMARY KEY to rows.
//!
//! Owns: the current row of each key in this task's shards. In state: the key; its value is its close time (never) and
//! the row. Invariants: of the records of a key the last one counts, in the order of arrival; a batch emits the new row
//! and retracts the old one, or nothing if they are equal.

use crate::keyed_source::UpsertSpec;
use arrow::array::{ArrayRef, AsArray, Int64Array};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::runtime::exchange::pick;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::{Codec, normalize};
use highwater_dataflow::runtime::late::Late;
use highwater_dataflow::runtime::pipeline::{OUTPUT_ROWS, batch};
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::state::{Keys, NEVER, Values, Writes};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Length of the close time before the row in a value.
const HEAD: usize = 8;

pub struct Upsert {
    spec: Arc<UpsertSpec>,
    keys: Codec,
    rows: Codec,
    input: Vec<ChangeBatch>,
}

impl Upsert {
    pub fn new(spec: Arc<UpsertSpec>) -> Result<Self, EngineError> {
        Ok(Self { keys: spec.key_codec()?, rows: Codec::of(&spec.output_schema)?, input: Vec::new(), spec })
    }

    /// Retracts old rows, which are encoded as in state.
    fn emit_old(&self, rows: &[&[u8]], out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        for rows in rows.chunks(OUTPUT_ROWS) {
            let columns = self.rows.decode(rows.iter().copied())?;
            let weights = Some(Int64Array::from(vec![-1; rows.len()]));
            out.push(ChangeBatch { batch: batch(&self.spec.output_schema, columns, rows.len())?, weights });
        }
        Ok(())
    }
}

impl Stateful for Upsert {
    fn keeps(&self) -> Keeps {
        Keeps::State
    }

    fn counts(&self) -> Counts {
        Counts::Taker
    }

    fn check(&self, _: usize, _: &ChangeBatch, _: &Late) -> Result<(), EngineError> {
        Ok(())
    }

    fn push(&mut self, _: usize, rows: ChangeBatch, _: &mut Late) -> Result<(), EngineError> {
        self.input.push(rows);
        Ok(())
    }

    fn expire(&mut self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        state.forget(due)
    }

    fn finish(&mut self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let input = std::mem::take(&mut self.input);
        let Some(all) = ChangeBatch::concat(&self.spec.input_schema, &input)? else { return Ok(()) };
        let columns = all.batch.columns();
        let key: Vec<ArrayRef> = self.spec.key.iter().map(|column| normalize(columns[*column].clone())).collect();
        let keys = self.keys.encode(&key, all.num_rows())?;
        let kept = columns[..self.spec.width].to_vec();
        let rows = self.rows.encode(&kept, all.num_rows())?;
        let deleted = columns.last().and_then(|column| column.as_boolean_opt());
        let deleted = deleted.ok_or(Fault::Lacks { what: "a record of a keyed table", lacks: "deletion column" })?;
        let mut last: BTreeMap<&[u8], usize> = BTreeMap::new();
        last.extend((0..all.num_rows()).map(|row| (keys.row(row), row)));
        let (mut read, mut values, mut writes) = (Keys::default(), Values::default(), Writes::default());
        last.keys().for_each(|key| read.push(state.shard_of(key), &[key]));
        state.get(&read, &mut values)?;
        let (mut gone, mut come): (Vec<&[u8]>, Vec<u32>) = Default::default();
        for (place, (key, row)) in last.into_iter().enumerate() {
            let old = values.get(place).map(|value| value.get(HEAD..).unwrap_or_default());
            let new = (!deleted.value(row)).then(|| rows.row(row));
            if old == new {
                continue;
            }
            let (shard, _) = read.get(place);
            match new {
                Some(row) => writes.put(shard, &[key], &[&NEVER.to_le_bytes(), row]),
                None => writes.delete(shard, &[key]),
            }
            gone.extend(old);
            if new.is_some() {
                come.push(row as u32);
            }
        }
        state.put(&mut writes)?;
        self.emit_old(&gone, out)?;
        let current = ChangeBatch::inserts(batch(&self.spec.output_schema, kept, all.num_rows())?);
        for rows in come.chunks(OUTPUT_ROWS) {
            let batch = pick(&current, rows.to_vec())?.batch;
            out.push(ChangeBatch { batch, weights: Some(Int64Array::from(vec![1; rows.len()])) });
        }
        Ok(())
    }
}
