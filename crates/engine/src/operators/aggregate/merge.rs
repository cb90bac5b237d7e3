//! The half of a GROUP BY that keeps state: merges partial rows into it, gives what changed or closed.
//!
//! Owns: the state of groups in this task's shards. A group's value: its close time, then its accumulators'
//! states as one encoded row. With a TTL, a group expires that had no row for that long.
//! Invariants: each group is looked up and written once per batch; a group that closes leaves the state.

use super::groups::{Accumulators, Groups};
use crate::changelog::ChangeBatch;
use crate::dataflow::EmitMode;
use crate::dataflow::close_times;
use crate::error::EngineError;
use crate::operators::aggregate::AggregateSpec;
use crate::runtime::BatchContext;
use crate::runtime::exchange::pick;
use crate::runtime::keys::{Codec, Encoded, normalize, shard_of};
use crate::runtime::pipeline::{OUTPUT_ROWS, batch};
use crate::runtime::stateful::Stateful;
use crate::runtime::ttl::Ttl;
use crate::state::{NEVER, TaskState};
use arrow::array::{Array, ArrayRef, Int64Array, UInt32Array};
use arrow::compute::take;
use arrow::error::ArrowError;
use highwater_protocol::ids::{OperatorId, ShardId};
use std::sync::Arc;

pub struct FinalAggregate {
    operator: OperatorId,
    spec: Arc<AggregateSpec>,
    emit: EmitMode,
    shards: u16,
    close_before_ms: Option<i64>,
    ttl: Ttl,
    groups: Groups,
    partial: Accumulators,
    keys: Codec,
    states: Codec,
    values: Codec,
}

/// Some groups of the batch, with what the state says of them.
struct Part {
    keys: Vec<ArrayRef>,
    encoded: Encoded,
    shards: Vec<ShardId>,
    /// When each closes, milliseconds.
    closes: Vec<i64>,
    /// Number of groups, from the first, that have a state already.
    old: usize,
    old_states: Vec<ArrayRef>,
    /// Merged partial states of this batch; `None` for groups that only close.
    new_states: Option<Vec<ArrayRef>>,
}

impl FinalAggregate {
    pub fn new(
        operator: OperatorId,
        spec: Arc<AggregateSpec>,
        emit: EmitMode,
        context: &BatchContext,
    ) -> Result<Self, EngineError> {
        let width = spec.group_schema.fields().len();
        let types = |schema: &arrow::datatypes::SchemaRef| {
            Codec::new(schema.fields().iter().skip(width).map(|field| field.data_type()))
        };
        Ok(Self {
            operator,
            emit,
            shards: context.shards,
            ttl: Ttl::of(operator, context),
            close_before_ms: BatchContext::least(&context.close_before, &spec.watermark)
                .filter(|_| spec.close.is_some()),
            groups: Groups::new(&spec)?,
            partial: Accumulators::new(&spec.aggregates)?,
            keys: Codec::of(&spec.group_schema)?,
            states: types(&spec.partial_schema)?,
            values: types(&spec.output_schema)?,
            spec,
        })
    }

    /// Groups of the state that close although no row of this batch was theirs.
    fn close_untouched(&self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let Some(close_before) = self.close_before_ms else { return Ok(()) };
        let due = state.due(self.operator, close_before);
        if self.emit != EmitMode::OnClose {
            for (shard, key) in due {
                state.put(self.operator, shard, &key, None);
            }
            return Ok(());
        }
        for due in due.chunks(OUTPUT_ROWS) {
            let keys = self.keys.decode(due.iter().map(|(_, key)| key.as_ref()))?;
            let part = self.look_up(keys, due.len(), None, state)?;
            self.settle(part, due.len(), state, out)?;
        }
        Ok(())
    }

    fn look_up(
        &self,
        keys: Vec<ArrayRef>,
        rows: usize,
        new_states: Option<Vec<ArrayRef>>,
        state: &TaskState,
    ) -> Result<Part, EngineError> {
        let encoded = self.keys.encode(&keys, rows)?;
        let mut shards = Vec::with_capacity(rows);
        let (mut old, mut fresh) = (Vec::new(), Vec::new());
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for row in 0..rows {
            let key = encoded.row(row);
            let shard = shard_of(key, self.shards);
            if !state.owns(shard) {
                return Err(EngineError::MissingShard(shard));
            }
            shards.push(shard);
            let start = bytes.len();
            if state.read(self.operator, shard, key, &mut bytes) {
                old.push(row as u32);
                ends.push((start + size_of::<i64>(), bytes.len()));
            } else {
                fresh.push(row as u32);
            }
        }
        let old_states = match old.is_empty() {
            true => Vec::new(),
            false => self.states.decode(ends.iter().map(|(start, end)| &bytes[*start..*end]))?,
        };
        let closes = match self.spec.close {
            Some(close) => close_times(close, &keys)?.iter().map(|time| time.unwrap_or(NEVER)).collect(),
            None => vec![self.ttl.deadline(); rows],
        };
        let count = old.len();
        let part = Part { keys, encoded, shards, closes, old: count, old_states, new_states };
        if old.last().is_none_or(|last| (*last as usize) < count) {
            return Ok(part);
        }
        old.append(&mut fresh);
        self.reorder(part, old, rows)
    }

    /// Groups with a state first: accumulators take it that all groups below the total they are told have been fed.
    fn reorder(&self, part: Part, order: Vec<u32>, rows: usize) -> Result<Part, EngineError> {
        let shards = order.iter().map(|row| part.shards[*row as usize]).collect();
        let closes = order.iter().map(|row| part.closes[*row as usize]).collect();
        let order = UInt32Array::from(order);
        let picked = |columns: &[ArrayRef]| -> Result<Vec<ArrayRef>, ArrowError> {
            columns.iter().map(|column| take(column, &order, None)).collect()
        };
        let keys = picked(&part.keys)?;
        let new_states = part.new_states.as_deref().map(picked).transpose()?;
        Ok(Part { encoded: self.keys.encode(&keys, rows)?, keys, shards, closes, new_states, ..part })
    }

    fn accumulators(&self, part: &Part, rows: usize, with_new: bool) -> Result<Accumulators, EngineError> {
        let mut accumulators = Accumulators::new(&self.spec.aggregates)?;
        let all: Vec<usize> = (0..rows).collect();
        if part.old > 0 {
            let total = if with_new && part.new_states.is_some() { part.old } else { rows };
            accumulators.merge(&part.old_states, &all[..part.old], total)?;
        }
        if let (true, Some(states)) = (with_new, &part.new_states) {
            accumulators.merge(states, &all, rows)?;
        }
        Ok(accumulators)
    }

    /// Writes the part's new state and gives the rows its emit mode wants.
    fn settle(
        &self,
        part: Part,
        rows: usize,
        state: &mut TaskState,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let is_due = |row: usize| self.close_before_ms.is_some_and(|before| part.closes[row] <= before);
        let states = self.accumulators(&part, rows, true)?.states()?;
        let encoded = self.states.encode(&states, rows)?;
        for row in 0..rows {
            let value = (!is_due(row)).then(|| [&part.closes[row].to_le_bytes()[..], encoded.row(row)].concat().into());
            state.put(self.operator, part.shards[row], part.encoded.row(row), value);
        }
        match self.emit {
            EmitMode::OnFirst => {
                let new = (part.old..rows).map(|row| row as u32).collect();
                let all = batch(&self.spec.output_schema, part.keys.clone(), rows)?;
                out.push(pick(&ChangeBatch::inserts(all), new)?);
            }
            EmitMode::OnClose => {
                let due: Vec<u32> = (0..rows).filter(|row| is_due(*row)).map(|row| row as u32).collect();
                if !due.is_empty() {
                    let all = self.rows(&part, rows, true)?;
                    out.push(pick(&ChangeBatch::inserts(all), due)?);
                }
            }
            EmitMode::Updates => self.updates(&part, rows, out)?,
        }
        Ok(())
    }

    /// Key columns and values of the first so many groups; of the old state only, or with the new one.
    fn rows(&self, part: &Part, rows: usize, with_new: bool) -> Result<arrow::array::RecordBatch, EngineError> {
        let mut columns: Vec<ArrayRef> = part.keys.iter().map(|key| key.slice(0, rows)).collect();
        columns.extend(self.accumulators(part, rows, with_new)?.values()?);
        batch(&self.spec.output_schema, columns, rows)
    }

    /// Old rows with weight −1 and new ones with +1, where they differ.
    fn updates(&self, part: &Part, rows: usize, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let width = part.keys.len();
        let new = self.rows(part, rows, true)?;
        let new_bytes = self.values.encode(&new.columns()[width..], rows)?;
        let mut changed = vec![true; rows];
        if part.old > 0 {
            // Of these alone: an average that nothing was fed to divides by zero.
            let old = self.rows(part, part.old, false)?;
            let old_bytes = self.values.encode(&old.columns()[width..], part.old)?;
            (0..part.old).for_each(|row| changed[row] = old_bytes.row(row) != new_bytes.row(row));
            let gone: Vec<u32> = (0..part.old).filter(|row| changed[*row]).map(|row| row as u32).collect();
            let weights = Some(Int64Array::from(vec![-1; gone.len()]));
            let ChangeBatch { batch, .. } = pick(&ChangeBatch::inserts(old), gone)?;
            out.push(ChangeBatch { batch, weights });
        }
        let come: Vec<u32> = (0..rows).filter(|row| changed[*row]).map(|row| row as u32).collect();
        let weights = Some(Int64Array::from(vec![1; come.len()]));
        let ChangeBatch { batch, .. } = pick(&ChangeBatch::inserts(new), come)?;
        out.push(ChangeBatch { batch, weights });
        Ok(())
    }
}

impl Stateful for FinalAggregate {
    fn operator(&self) -> Option<OperatorId> {
        Some(self.operator)
    }

    fn push(&mut self, _: usize, rows: ChangeBatch) -> Result<(), EngineError> {
        let width = self.spec.group_schema.fields().len();
        let columns = rows.batch.columns();
        self.groups.intern(&columns[..width], rows.num_rows())?;
        let total = self.groups.len();
        self.partial.merge(&columns[width..], self.groups.indexes(), total)
    }

    fn finish(&mut self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        self.ttl.forget_due(state);
        let rows = self.groups.len();
        if rows > 0 {
            let keys: Vec<ArrayRef> = self.groups.emit()?.into_iter().map(normalize).collect();
            let states = self.partial.states()?;
            for start in (0..rows).step_by(OUTPUT_ROWS) {
                let length = OUTPUT_ROWS.min(rows - start);
                let slice = |columns: &[ArrayRef]| columns.iter().map(|c| c.slice(start, length)).collect::<Vec<_>>();
                let part = self.look_up(slice(&keys), length, Some(slice(&states)), state)?;
                self.settle(part, length, state, out)?;
            }
        }
        self.close_untouched(state, out)
    }

    fn ttl(&self) -> Option<&Ttl> {
        Some(&self.ttl)
    }
}
