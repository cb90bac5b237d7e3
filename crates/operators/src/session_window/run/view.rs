//! Shows the state of sessions as rows.

use super::Sessions;
use super::place::{ROW, SESSION, cut_off, number, prefix_in};
use crate::session_window::SessionOperator;
use arrow::datatypes::{DataType, Field};
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::state_reader::{
    Held, LayoutReader, Piece, StateLayout, StatePart, StateReader, close_fields, close_numbers, count_field,
};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_protocol::ids::OperatorId;

const SESSIONS_PART: usize = 0;
const ROWS_PART: usize = 1;

pub fn reader(operator: &SessionOperator) -> Result<Box<dyn StateReader>, EngineError> {
    Ok(Box::new(LayoutReader(View { op: operator.op, sessions: Sessions::new(operator.spec.clone())? })))
}

struct View {
    op: OperatorId,
    sessions: Sessions,
}

impl StateLayout for View {
    fn operator(&self) -> OperatorId {
        self.op
    }

    fn parts(&self) -> Vec<StatePart<'_>> {
        let Sessions { spec, changes, .. } = &self.sessions;
        let time = spec.input_schema.field(spec.time).data_type();
        let bounds = ["_session_start", "_session_end"].map(|name| Field::new(name, time.clone(), true));
        let closed = Field::new("_closed", DataType::Boolean, true);
        let sessions = StatePart {
            name: "sessions".into(),
            pieces: vec![Piece::some(&changes.keys, &spec.input_schema, &spec.partition)],
            key: (0..spec.partition.len()).collect(),
            numbers: bounds.into_iter().chain([closed]).chain(close_fields()).collect(),
        };
        let rows = StatePart {
            name: "rows".into(),
            pieces: vec![Piece::of(&changes.rows, &spec.input_schema)],
            key: spec.partition.clone(),
            numbers: vec![count_field("_weight")],
        };
        vec![sessions, rows]
    }

    fn split<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<Vec<Held<'a>>, EngineError> {
        let prefix = prefix_in(key)?;
        let (partition, suffix) = (&prefix[size_of::<u32>()..], &key[1 + prefix.len()..]);
        let (start, kept) = (number(suffix)?, StoredRow::decode(value)?);
        let row = &suffix[size_of::<i64>()..];
        match key.first() {
            Some(&SESSION) if row.is_empty() => {
                let end = kept.weight.saturating_add(self.sessions.gap);
                let bounds = [Some(start), Some(end), Some(i64::from(kept.count == 1))];
                let numbers = bounds.into_iter().chain(close_numbers(kept.close_ms));
                Ok(vec![Held::of(SESSIONS_PART, &[partition], numbers)])
            }
            Some(&ROW) => Ok(vec![Held::of(ROWS_PART, &[row], [Some(kept.weight)])]),
            _ => Err(cut_off()),
        }
    }
}
