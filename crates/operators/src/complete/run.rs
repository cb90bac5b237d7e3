//! Running `output_mode = 'complete'`.
//!
//! Owns: the live rows of this task's shards with their weights. Invariant: a batch emits every row of the result after
//! it, whether or not the batch has changed the row.

use arrow::datatypes::SchemaRef;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::changes::ChangeCodec;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::runtime::late::Late;
use highwater_dataflow::runtime::pipeline::{OUTPUT_ROWS, batch};
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Keys, NEVER, Scan, Values, Writes};
use std::ops::ControlFlow;

pub struct CompleteResult {
    schema: SchemaRef,
    changes: ChangeCodec,
    rows: Codec,
    input: Vec<ChangeBatch>,
}

impl CompleteResult {
    pub fn new(schema: &SchemaRef) -> Result<Self, EngineError> {
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        Ok(Self {
            schema: schema.clone(),
            changes: ChangeCodec::new(schema, &all)?,
            rows: Codec::of(schema)?,
            input: Vec::new(),
        })
    }

    fn update(&mut self, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        let input = std::mem::take(&mut self.input);
        let Some(changes) = self.changes.consolidate(&input)? else { return Ok(()) };
        let (mut keys, mut values, mut writes) = (Keys::default(), Values::default(), Writes::default());
        for change in 0..changes.len() {
            keys.push(state.shard_of(changes.key(change)), &[changes.row(change)]);
        }
        state.get(&keys, &mut values)?;
        for (change, (shard, row)) in keys.iter().enumerate() {
            let before = StoredRow::weight_of(values.get(change))?;
            let weight = state.weight("complete result", before + changes.weight(change))?;
            let kept = StoredRow { close_ms: NEVER, weight, count: 0 }.encode();
            writes.set(shard, &[row], (weight > 0).then_some(&kept));
        }
        state.put(&mut writes)
    }
}

impl Stateful for CompleteResult {
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
        self.update(state)?;
        let mut live: Vec<Vec<u8>> = Vec::new();
        let scans: Vec<Scan<'_>> = state.shards().map(|shard| Scan::prefix(shard, &[])).collect();
        state.scan(&scans, &mut |_, row, value| {
            let kept = StoredRow::decode(value)?;
            live.extend(std::iter::repeat_n(row.to_vec(), kept.weight.max(0) as usize));
            Ok(ControlFlow::Continue(()))
        })?;
        for rows in live.chunks(OUTPUT_ROWS) {
            let columns = self.rows.decode(rows.iter().map(Vec::as_slice))?;
            out.push(ChangeBatch::inserts(batch(&self.schema, columns, rows.len())?));
        }
        Ok(())
    }
}
