//! Shows the keys that have arrived as rows.

use super::{FirstRowOperator, FirstRowSpec};
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::changes::ChangeCodec;
use highwater_dataflow::runtime::state_reader::{
    Held, LayoutReader, Piece, StateLayout, StatePart, StateReader, close_fields, close_numbers, split_close,
};
use highwater_protocol::ids::OperatorId;
use std::sync::Arc;

pub fn reader(operator: &FirstRowOperator) -> Result<Box<dyn StateReader>, EngineError> {
    let spec = operator.spec.clone();
    let changes = ChangeCodec::new(&spec.input_schema, &spec.key)?;
    Ok(Box::new(LayoutReader(View { op: operator.op, spec, changes })))
}

struct View {
    op: OperatorId,
    spec: Arc<FirstRowSpec>,
    changes: ChangeCodec,
}

impl StateLayout for View {
    fn operator(&self) -> OperatorId {
        self.op
    }

    fn parts(&self) -> Vec<StatePart<'_>> {
        vec![StatePart {
            name: "keys".into(),
            pieces: vec![Piece::some(&self.changes.keys, &self.spec.input_schema, &self.spec.key)],
            key: (0..self.spec.key.len()).collect(),
            numbers: close_fields().into(),
        }]
    }

    fn split<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<Vec<Held<'a>>, EngineError> {
        let (close_ms, _) = split_close("the time of a kept key", value)?;
        Ok(vec![Held::of(0, &[key], close_numbers(close_ms))])
    }
}
