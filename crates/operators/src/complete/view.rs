//! Shows the state of a complete result as rows.

use super::CompleteSpec;
use arrow::datatypes::SchemaRef;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::runtime::state_reader::{
    Held, LayoutReader, Piece, StateLayout, StatePart, StateReader, stored_fields, stored_numbers,
};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_protocol::ids::OperatorId;

pub fn reader(operator: &CompleteSpec) -> Result<Box<dyn StateReader>, EngineError> {
    let rows = Codec::of(&operator.schema)?;
    Ok(Box::new(LayoutReader(View { op: operator.op, schema: operator.schema.clone(), rows })))
}

struct View {
    op: OperatorId,
    schema: SchemaRef,
    rows: Codec,
}

impl StateLayout for View {
    fn operator(&self) -> OperatorId {
        self.op
    }

    fn parts(&self) -> Vec<StatePart<'_>> {
        vec![StatePart {
            name: "rows".into(),
            pieces: vec![Piece::of(&self.rows, &self.schema)],
            key: (0..self.schema.fields().len()).collect(),
            numbers: stored_fields(),
        }]
    }

    fn split<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<Vec<Held<'a>>, EngineError> {
        Ok(vec![Held::of(0, &[key], stored_numbers(StoredRow::decode(value)?))])
    }
}
