//! Shows the groups in an aggregate's state as rows, with their current values, computed by the accumulators.
//!
//! If an accumulator fails to compute a value, such as a sum beyond its type, its state columns are shown instead,
//! named as DataFusion names them.

use super::groups::Accumulators;
use super::{AggregateSpec, FinalAggregateSpec};
use arrow::array::{ArrayRef, RecordBatch};
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::runtime::state_reader::{
    Held, Piece, StateEntry, StateLayout, StatePart, StateReader, StateRows, close_fields, close_numbers, named,
    read_layout, split_close,
};
use highwater_protocol::ids::OperatorId;
use std::sync::Arc;

pub fn reader(operator: &FinalAggregateSpec) -> Result<Box<dyn StateReader>, EngineError> {
    let spec = operator.spec.clone();
    let (keys, states) = (spec.key_codec()?, spec.state_codec()?);
    Ok(Box::new(View { op: operator.op, spec, keys, states }))
}

struct View {
    op: OperatorId,
    spec: Arc<AggregateSpec>,
    keys: Codec,
    states: Codec,
}

impl View {
    /// Replaces states by values. Rows for which a function fails are emitted as single rows.
    fn with_values(&self, rows: &RecordBatch, out: &mut Vec<RecordBatch>) -> Result<(), EngineError> {
        let count = rows.num_rows();
        match self.evaluated(rows, count == 1)? {
            Some(rows) => out.push(rows),
            None => {
                let half = count / 2;
                self.with_values(&rows.slice(0, half), out)?;
                self.with_values(&rows.slice(half, count - half), out)?;
            }
        }
        Ok(())
    }

    /// Returns the rows with values. If a function fails, keeps its states with `shows_states`, and returns `None`
    /// without.
    fn evaluated(&self, rows: &RecordBatch, shows_states: bool) -> Result<Option<RecordBatch>, EngineError> {
        let (schema, count) = (rows.schema(), rows.num_rows());
        let column = |at: usize| (schema.field(at).name().clone(), rows.column(at).clone());
        let mut at = 1 + self.spec.group_schema.fields().len();
        let mut columns: Vec<(String, ArrayRef)> = (0..at).map(column).collect();
        for (place, function) in self.spec.aggregates.iter().enumerate() {
            let states = at..at + function.state_fields()?.len();
            let mut accumulator = Accumulators::new(std::slice::from_ref(function))?;
            accumulator.merge(&rows.columns()[states.clone()], &(0..count).collect::<Vec<_>>(), count)?;
            match accumulator.values() {
                Ok(values) => columns.extend(values.into_iter().map(|value| (self.spec.call(place), value))),
                Err(_) if shows_states => columns.extend(states.clone().map(column)),
                Err(_) => return Ok(None),
            }
            at = states.end;
        }
        columns.extend((at..rows.num_columns()).map(column));
        named(columns).map(Some)
    }
}

impl StateReader for View {
    fn read(&self, entries: &[StateEntry<'_>]) -> Result<Vec<StateRows>, EngineError> {
        let mut parts = Vec::new();
        for StateRows { part, key, rows } in read_layout(self, entries)? {
            let mut valued = Vec::new();
            self.with_values(&rows, &mut valued)?;
            parts.extend(valued.into_iter().map(|rows| StateRows { part: part.clone(), key: key.clone(), rows }));
        }
        Ok(parts)
    }
}

impl StateLayout for View {
    fn operator(&self) -> OperatorId {
        self.op
    }

    fn parts(&self) -> Vec<StatePart<'_>> {
        let spec = &self.spec;
        let width = spec.group_schema.fields().len();
        let states: Vec<usize> = (width..spec.partial_schema.fields().len()).collect();
        vec![StatePart {
            name: if spec.aggregates.is_empty() { "rows".into() } else { "groups".into() },
            pieces: vec![
                Piece::of(&self.keys, &spec.group_schema),
                Piece::some(&self.states, &spec.partial_schema, &states),
            ],
            key: (0..width).collect(),
            numbers: close_fields().into(),
        }]
    }

    fn split<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<Vec<Held<'a>>, EngineError> {
        let (close_ms, states) = split_close("a kept group", value)?;
        Ok(vec![Held::of(0, &[key, states], close_numbers(close_ms))])
    }
}
