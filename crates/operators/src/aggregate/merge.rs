//! The final half of a GROUP BY: merges partial rows into state, and emits groups that changed or closed.
//!
//! Owns: the state of groups in this task's shards. A group's value: its close time, then its accumulators' states as
//! one encoded row. With a TTL, a group that had no row for that long expires.
//! Invariants: each group is looked up and written once per batch; a group that closes is removed from state.

use super::groups::{Accumulators, Groups};
use crate::aggregate::AggregateSpec;
use arrow::array::{Array, ArrayRef, Int64Array, UInt32Array};
use arrow::compute::take;
use arrow::error::ArrowError;
use highwater_dataflow::EmitMode;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::close_times;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::exchange::pick;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::{Codec, normalize};
use highwater_dataflow::runtime::late::Late;
use highwater_dataflow::runtime::pipeline::{OUTPUT_ROWS, batch};
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::state::{Keys, NEVER, Values, Writes};
use std::sync::Arc;

pub struct FinalAggregate {
    spec: Arc<AggregateSpec>,
    emit: EmitMode,
    groups: Groups,
    partial: Accumulators,
    keys: Codec,
    states: Codec,
    values: Codec,
}

/// Some groups of the batch, with their state.
struct Part {
    columns: Vec<ArrayRef>,
    keys: Keys,
    /// When each group closes, in milliseconds.
    closes: Vec<i64>,
    /// Number of groups, from the first, that already have a state.
    old: usize,
    old_states: Vec<ArrayRef>,
    /// Merged partial states of this batch; `None` for groups that only close.
    new_states: Option<Vec<ArrayRef>>,
}

impl FinalAggregate {
    pub fn new(spec: Arc<AggregateSpec>, emit: EmitMode) -> Result<Self, EngineError> {
        let values = spec.output_schema.fields().iter().skip(spec.group_schema.fields().len());
        Ok(Self {
            emit,
            groups: Groups::new(&spec)?,
            partial: Accumulators::new(&spec.aggregates)?,
            keys: spec.key_codec()?,
            states: spec.state_codec()?,
            values: Codec::new(values.map(|field| field.data_type()))?,
            spec,
        })
    }

    /// Closes groups of the state that no row of this batch has touched.
    fn close_untouched(&self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let due = state.closing()?;
        if self.emit != EmitMode::OnClose {
            let mut writes = Writes::default();
            due.iter().for_each(|(shard, key)| writes.delete(shard, &[key]));
            return state.put(&mut writes);
        }
        for start in (0..due.len()).step_by(OUTPUT_ROWS) {
            let rows = OUTPUT_ROWS.min(due.len() - start);
            let columns = self.keys.decode((start..start + rows).map(|at| due.get(at).1))?;
            let part = self.look_up(columns, rows, None, state)?;
            self.settle(part, rows, state, out)?;
        }
        Ok(())
    }

    /// Returns the state keys of groups.
    fn keys_of(&self, columns: &[ArrayRef], rows: usize, state: &KeyedState<'_>) -> Result<Keys, EngineError> {
        let encoded = self.keys.encode(columns, rows)?;
        let mut keys = Keys::default();
        (0..rows).for_each(|row| keys.push(state.shard_of(encoded.row(row)), &[encoded.row(row)]));
        Ok(keys)
    }

    fn look_up(
        &self,
        columns: Vec<ArrayRef>,
        rows: usize,
        new_states: Option<Vec<ArrayRef>>,
        state: &KeyedState<'_>,
    ) -> Result<Part, EngineError> {
        let keys = self.keys_of(&columns, rows, state)?;
        let mut values = Values::default();
        state.get(&keys, &mut values)?;
        let states = |row: usize| values.get(row).map(|value| value.get(size_of::<i64>()..).unwrap_or_default());
        let is_old = |row: &u32| states(*row as usize).is_some();
        let (mut old, mut fresh): (Vec<u32>, Vec<u32>) = (0..rows as u32).partition(is_old);
        let old_states = match old.is_empty() {
            true => Vec::new(),
            false => self.states.decode(old.iter().filter_map(|row| states(*row as usize)))?,
        };
        let closes = match self.spec.close {
            Some(close) => close_times(close, &columns)?.iter().map(|time| time.unwrap_or(NEVER)).collect(),
            None => vec![state.deadline(); rows],
        };
        let count = old.len();
        let part = Part { columns, keys, closes, old: count, old_states, new_states };
        if old.last().is_none_or(|last| (*last as usize) < count) {
            return Ok(part);
        }
        old.append(&mut fresh);
        self.reorder(part, old)
    }

    /// Puts groups with a state first, since accumulators assume that all groups below the given total have been fed.
    fn reorder(&self, part: Part, order: Vec<u32>) -> Result<Part, EngineError> {
        let closes = order.iter().map(|row| part.closes[*row as usize]).collect();
        let order = UInt32Array::from(order);
        let picked = |columns: &[ArrayRef]| -> Result<Vec<ArrayRef>, ArrowError> {
            columns.iter().map(|column| take(column, &order, None)).collect()
        };
        let columns = picked(&part.columns)?;
        let new_states = part.new_states.as_deref().map(picked).transpose()?;
        let mut keys = Keys::default();
        for row in order.values() {
            let (shard, key) = part.keys.get(*row as usize);
            keys.push(shard, &[key]);
        }
        Ok(Part { columns, keys, closes, new_states, ..part })
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

    /// Writes the part's new state, and emits the rows that the emit mode asks for.
    fn settle(
        &self,
        part: Part,
        rows: usize,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let due: Vec<u32> = (0..rows).filter(|row| state.closes(part.closes[*row])).map(|row| row as u32).collect();
        let states = self.accumulators(&part, rows, true)?.states()?;
        let encoded = self.states.encode(&states, rows)?;
        let (mut writes, mut next_due) = (Writes::default(), due.iter().peekable());
        for (row, (shard, key)) in part.keys.iter().enumerate() {
            match next_due.next_if(|due| **due as usize == row) {
                Some(_) => writes.delete(shard, &[key]),
                None => writes.put(shard, &[key], &[&part.closes[row].to_le_bytes(), encoded.row(row)]),
            }
        }
        state.put(&mut writes)?;
        match self.emit {
            EmitMode::OnFirst => {
                let new = (part.old..rows).map(|row| row as u32).collect();
                let all = batch(&self.spec.output_schema, part.columns.clone(), rows)?;
                out.push(pick(&ChangeBatch::inserts(all), new)?);
            }
            EmitMode::OnClose => {
                if !due.is_empty() {
                    let all = self.rows(&part, rows, true)?;
                    out.push(pick(&ChangeBatch::inserts(all), due)?);
                }
            }
            EmitMode::Updates => self.updates(&part, rows, out)?,
        }
        Ok(())
    }

    /// Returns key columns and values of the first `rows` groups, of the old state or, with `with_new`, of the new one.
    fn rows(&self, part: &Part, rows: usize, with_new: bool) -> Result<arrow::array::RecordBatch, EngineError> {
        let mut columns: Vec<ArrayRef> = part.columns.iter().map(|key| key.slice(0, rows)).collect();
        columns.extend(self.accumulators(part, rows, with_new)?.values()?);
        batch(&self.spec.output_schema, columns, rows)
    }

    /// Emits old rows with weight −1 and new ones with +1, for groups whose values have changed.
    fn updates(&self, part: &Part, rows: usize, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let width = part.columns.len();
        let new = self.rows(part, rows, true)?;
        let new_bytes = self.values.encode(&new.columns()[width..], rows)?;
        let mut changed = vec![true; rows];
        if part.old > 0 {
            // Only these groups: an average without any value would divide by zero.
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
        let width = self.spec.group_schema.fields().len();
        let columns = rows.batch.columns();
        self.groups.intern(&columns[..width], rows.num_rows())?;
        let total = self.groups.len();
        self.partial.merge(&columns[width..], self.groups.indexes(), total)
    }

    fn expire(&mut self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        state.forget(due)
    }

    fn finish(&mut self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
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
}
