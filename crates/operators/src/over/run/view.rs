//! Shows the state of `OVER` as rows.

use super::Over;
use super::partition::{Entry, of_deadline, prefix_in};
use crate::over::OverOperator;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::state_reader::{
    Held, LayoutReader, Piece, StateLayout, StatePart, StateReader, close_fields, close_numbers, stored_fields,
    stored_numbers,
};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_protocol::ids::OperatorId;
use std::borrow::Cow;

const ROWS: usize = 0;
const PARTITIONS: usize = 1;

pub fn reader(operator: &OverOperator) -> Result<Box<dyn StateReader>, EngineError> {
    Ok(Box::new(LayoutReader(View { op: operator.op, over: Over::new(operator.spec.clone())? })))
}

struct View {
    op: OperatorId,
    over: Over,
}

impl StateLayout for View {
    fn operator(&self) -> OperatorId {
        self.op
    }

    fn parts(&self) -> Vec<StatePart<'_>> {
        let Over { spec, changes, .. } = &self.over;
        let rows = StatePart {
            name: "rows".into(),
            pieces: vec![Piece::of(&changes.rows, &spec.input_schema)],
            key: spec.partition.clone(),
            numbers: stored_fields(),
        };
        let partitions = StatePart {
            name: "partitions".into(),
            pieces: vec![Piece::some(&changes.keys, &spec.input_schema, &spec.partition)],
            key: (0..spec.partition.len()).collect(),
            numbers: close_fields().into(),
        };
        vec![rows, partitions]
    }

    fn split<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<Vec<Held<'a>>, EngineError> {
        // With `state_ttl`, a partition has a key for its deadline.
        if let Ok(prefix) = of_deadline(key) {
            let partition = prefix_in(&prefix)?.get(size_of::<u32>()..).unwrap_or_default();
            if prefix.len() != size_of::<u32>() + partition.len() {
                return Err(EngineError::CutOff("a partition's deadline"));
            }
            let pieces = vec![Some(Cow::Owned(partition.to_vec()))];
            let numbers = close_numbers(StoredRow::decode(value)?.close_ms).into();
            return Ok(vec![Held { part: PARTITIONS, pieces, numbers }]);
        }
        let kept = StoredRow::decode(value)?;
        let entry = Entry::new(key, prefix_in(key)?.len(), kept)?;
        let row = Some(Cow::Owned(entry.row().to_vec()));
        Ok(vec![Held { part: ROWS, pieces: vec![row], numbers: stored_numbers(kept) }])
    }
}
