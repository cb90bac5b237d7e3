//! The whole result at every batch: what `output_mode = 'complete'` writes.
//!
//! Owns: the live rows of this task's shards, each with how often it is there. Invariant: what is emitted in a batch is
//! the result after it, row for row, whether the batch changed it or not.

use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use crate::runtime::BatchContext;
use crate::runtime::changes::ChangeCodec;
use crate::runtime::keys::{Codec, shard_of};
use crate::runtime::pipeline::{OUTPUT_ROWS, batch};
use crate::runtime::stateful::Stateful;
use crate::runtime::stored_row::{StoredRow, never_inserted};
use crate::state::{Direction, NEVER, TaskState};
use arrow::datatypes::SchemaRef;
use highwater_protocol::ids::OperatorId;
use std::ops::ControlFlow;

pub struct CompleteResult {
    operator: OperatorId,
    schema: SchemaRef,
    shards: u16,
    changes: ChangeCodec,
    rows: Codec,
    input: Vec<ChangeBatch>,
}

impl CompleteResult {
    pub fn new(operator: OperatorId, schema: &SchemaRef, context: &BatchContext) -> Result<Self, EngineError> {
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        Ok(Self {
            operator,
            schema: schema.clone(),
            shards: context.shards,
            changes: ChangeCodec::new(schema, &all)?,
            rows: Codec::of(schema)?,
            input: Vec::new(),
        })
    }

    fn update(&mut self, state: &mut TaskState) -> Result<(), EngineError> {
        let input = std::mem::take(&mut self.input);
        let Some(changes) = self.changes.consolidate(&input)? else { return Ok(()) };
        for change in 0..changes.len() {
            let shard = shard_of(changes.key(change), self.shards);
            if !state.owns(shard) {
                return Err(EngineError::MissingShard(shard));
            }
            let mut value = Vec::new();
            let there = state.read(self.operator, shard, changes.row(change), &mut value);
            let weight = changes.weight(change) + if there { StoredRow::decode(&value)?.weight } else { 0 };
            if weight < 0 {
                return Err(never_inserted("complete result"));
            }
            let kept = StoredRow { close_ms: NEVER, weight, count: 0 };
            state.put(self.operator, shard, changes.row(change), (weight > 0).then(|| kept.encode()));
        }
        Ok(())
    }
}

impl Stateful for CompleteResult {
    fn operator(&self) -> Option<OperatorId> {
        Some(self.operator)
    }

    fn push(&mut self, _: usize, rows: ChangeBatch) -> Result<(), EngineError> {
        self.input.push(rows);
        Ok(())
    }

    fn finish(&mut self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        self.update(state)?;
        let mut live: Vec<Vec<u8>> = Vec::new();
        for shard in state.shards() {
            let mut failed = None;
            state.walk(
                self.operator,
                shard,
                &[],
                Direction::Forward,
                &mut |row, value| match StoredRow::decode(value) {
                    Ok(kept) => {
                        live.extend(std::iter::repeat_n(row.to_vec(), kept.weight.max(0) as usize));
                        ControlFlow::Continue(())
                    }
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                },
            );
            if let Some(error) = failed {
                return Err(error);
            }
        }
        for rows in live.chunks(OUTPUT_ROWS) {
            let columns = self.rows.decode(rows.iter().map(Vec::as_slice))?;
            out.push(ChangeBatch::inserts(batch(&self.schema, columns, rows.len())?));
        }
        Ok(())
    }
}
