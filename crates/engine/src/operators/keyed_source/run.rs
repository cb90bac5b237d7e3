//! Records of a table with PRIMARY KEY folded to the rows they add up to.
//!
//! Owns: the current row of each key in this task's shards. In state: the key; its value is the time it may be
//! forgotten at (never) and the row. Invariants: of the records of a key the last one counts, in the order they come
//! in; what a batch gives is the row as it is less the row as it was, nothing where the two are equal.

use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use crate::operators::keyed_source::UpsertSpec;
use crate::runtime::BatchContext;
use crate::runtime::exchange::pick;
use crate::runtime::keys::{Codec, normalize, shard_of};
use crate::runtime::pipeline::{OUTPUT_ROWS, batch};
use crate::runtime::stateful::Stateful;
use crate::state::{NEVER, TaskState};
use arrow::array::{ArrayRef, AsArray, Int64Array};
use highwater_protocol::ids::OperatorId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes before the row in a value.
const HEAD: usize = 8;

pub struct Upsert {
    operator: OperatorId,
    spec: Arc<UpsertSpec>,
    shards: u16,
    keys: Codec,
    rows: Codec,
    input: Vec<ChangeBatch>,
}

impl Upsert {
    pub fn new(operator: OperatorId, spec: Arc<UpsertSpec>, context: &BatchContext) -> Result<Self, EngineError> {
        Ok(Self {
            operator,
            shards: context.shards,
            keys: Codec::new(spec.key.iter().map(|column| spec.input_schema.field(*column).data_type()))?,
            rows: Codec::of(&spec.output_schema)?,
            input: Vec::new(),
            spec,
        })
    }

    /// Rows that were, as they are in state.
    fn emit_old(&self, rows: &[Vec<u8>], out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        for rows in rows.chunks(OUTPUT_ROWS) {
            let columns = self.rows.decode(rows.iter().map(Vec::as_slice))?;
            let weights = Some(Int64Array::from(vec![-1; rows.len()]));
            out.push(ChangeBatch { batch: batch(&self.spec.output_schema, columns, rows.len())?, weights });
        }
        Ok(())
    }
}

impl Stateful for Upsert {
    fn operator(&self) -> Option<OperatorId> {
        Some(self.operator)
    }

    fn push(&mut self, _: usize, rows: ChangeBatch) -> Result<(), EngineError> {
        self.input.push(rows);
        Ok(())
    }

    fn finish(&mut self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let input = std::mem::take(&mut self.input);
        let Some(all) = ChangeBatch::concat(&self.spec.input_schema, &input)? else { return Ok(()) };
        let columns = all.batch.columns();
        let key: Vec<ArrayRef> = self.spec.key.iter().map(|column| normalize(columns[*column].clone())).collect();
        let keys = self.keys.encode(&key, all.num_rows())?;
        let kept = columns[..self.spec.width].to_vec();
        let rows = self.rows.encode(&kept, all.num_rows())?;
        let deleted = columns.last().and_then(|column| column.as_boolean_opt());
        let deleted =
            deleted.ok_or_else(|| EngineError::Internal("records that do not say what they delete".into()))?;
        let mut last: BTreeMap<&[u8], usize> = BTreeMap::new();
        last.extend((0..all.num_rows()).map(|row| (keys.row(row), row)));
        let (mut gone, mut come): (Vec<Vec<u8>>, Vec<u32>) = Default::default();
        for (key, row) in last {
            let shard = shard_of(key, self.shards);
            if !state.owns(shard) {
                return Err(EngineError::MissingShard(shard));
            }
            let mut old = Vec::new();
            let was_there = state.read(self.operator, shard, key, &mut old);
            let new = (!deleted.value(row)).then(|| rows.row(row));
            if was_there == new.is_some() && old.get(HEAD..).unwrap_or_default() == new.unwrap_or_default() {
                continue;
            }
            let value = new.map(|row| [NEVER.to_le_bytes().as_slice(), row].concat().into_boxed_slice());
            state.put(self.operator, shard, key, value);
            if was_there {
                gone.push(old.split_off(HEAD.min(old.len())));
            }
            if new.is_some() {
                come.push(row as u32);
            }
        }
        self.emit_old(&gone, out)?;
        let current = ChangeBatch::inserts(batch(&self.spec.output_schema, kept, all.num_rows())?);
        for rows in come.chunks(OUTPUT_ROWS) {
            let batch = pick(&current, rows.to_vec())?.batch;
            out.push(ChangeBatch { batch, weights: Some(Int64Array::from(vec![1; rows.len()])) });
        }
        Ok(())
    }
}
