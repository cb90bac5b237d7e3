//! Emitting the first row of each key.
//!
//! Owns: the keys that have arrived, in this task's shards. In state: the key; its value is the time when it expires.
//! Invariants: an emitted row is final; of the rows of one batch the first in the order counts, and ties are broken by
//! the rows themselves. With a TTL, a key expires that long after its first row, even if more rows of it arrive.

use crate::first_row::FirstRowSpec;
use arrow::array::{ArrayRef, Int64Array};
use arrow::compute::cast;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::runtime::changes::{ChangeCodec, Changes};
use highwater_dataflow::runtime::exchange::pick;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::runtime::late::Late;
use highwater_dataflow::runtime::pipeline::{OUTPUT_ROWS, batch};
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::state::{Keys, Values, Writes};
use std::sync::Arc;

pub struct FirstRow {
    spec: Arc<FirstRowSpec>,
    changes: ChangeCodec,
    order: Codec,
    input: Vec<ChangeBatch>,
}

impl FirstRow {
    pub fn new(spec: Arc<FirstRowSpec>) -> Result<Self, EngineError> {
        let data_type = |column: usize| spec.input_schema.field(column).data_type().clone();
        Ok(Self {
            changes: ChangeCodec::new(&spec.input_schema, &spec.key)?,
            order: Codec::sorted(spec.order.iter().map(|(column, options)| (data_type(*column), *options)))?,
            input: Vec::new(),
            spec,
        })
    }

    /// Returns the first change of each key, in the order of keys.
    fn firsts(&self, changes: &Changes) -> Result<Vec<usize>, EngineError> {
        if (0..changes.len()).any(|change| changes.weight(change) < 0) {
            return Err(Fault::Retracts("the input of a first row").into());
        }
        let columns = changes.batch.columns();
        let ordering: Vec<ArrayRef> = self.spec.order.iter().map(|(column, _)| columns[*column].clone()).collect();
        let orders = self.order.encode(&ordering, changes.batch.num_rows())?;
        // The changes of a key are sorted by row, and `min_by_key` takes the first of equals.
        let first = |run: std::ops::Range<usize>| run.min_by_key(|change| orders.row(changes.index(*change) as usize));
        Ok(changes.runs().filter_map(first).collect())
    }

    fn emit(&self, changes: &Changes, rows: &[u32]) -> Result<ChangeBatch, EngineError> {
        let picked = pick(&ChangeBatch::inserts(changes.batch.clone()), rows.to_vec())?.batch;
        let mut columns = picked.columns()[..self.spec.width].to_vec();
        let rank = Int64Array::from(vec![1; rows.len()]);
        for field in self.spec.output_schema.fields().iter().skip(self.spec.width) {
            columns.push(cast(&rank, field.data_type())?);
        }
        Ok(ChangeBatch::inserts(batch(&self.spec.output_schema, columns, rows.len())?))
    }
}

impl Stateful for FirstRow {
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
        let Some(changes) = self.changes.consolidate(&input)? else { return Ok(()) };
        let firsts = self.firsts(&changes)?;
        let (mut keys, mut values, mut writes) = (Keys::default(), Values::default(), Writes::default());
        for first in &firsts {
            let key = changes.key(*first);
            keys.push(state.shard_of(key), &[key]);
        }
        state.get(&keys, &mut values)?;
        let mut come: Vec<u32> = Vec::new();
        for (place, (first, (shard, key))) in firsts.iter().zip(keys.iter()).enumerate() {
            if values.get(place).is_none() {
                writes.put(shard, &[key], &[&state.deadline().to_le_bytes()]);
                come.push(changes.index(*first));
            }
        }
        state.put(&mut writes)?;
        for rows in come.chunks(OUTPUT_ROWS) {
            out.push(self.emit(&changes, rows)?);
        }
        Ok(())
    }
}
