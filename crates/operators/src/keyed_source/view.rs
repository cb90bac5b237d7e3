//! Shows the live rows in a keyed source's state.

use super::{UpsertOperator, UpsertSpec};
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::runtime::state_reader::{
    Held, LayoutReader, Piece, StateLayout, StatePart, StateReader, split_close,
};
use highwater_protocol::ids::OperatorId;
use std::sync::Arc;

pub fn reader(operator: &UpsertOperator) -> Result<Box<dyn StateReader>, EngineError> {
    let spec = operator.spec.clone();
    let (keys, rows) = (spec.key_codec()?, Codec::of(&spec.output_schema)?);
    Ok(Box::new(LayoutReader(View { op: operator.op, spec, keys, rows })))
}

struct View {
    op: OperatorId,
    spec: Arc<UpsertSpec>,
    keys: Codec,
    rows: Codec,
}

impl StateLayout for View {
    fn operator(&self) -> OperatorId {
        self.op
    }

    fn parts(&self) -> Vec<StatePart<'_>> {
        let (spec, width) = (&self.spec, self.spec.width);
        // Key columns that the query does not use are only in the key.
        let mut key = Piece::some(&self.keys, &spec.input_schema, &spec.key);
        key.shown.retain(|place| spec.key[*place] >= width);
        let alone = key.shown.len();
        let kept = spec.key.iter().filter(|column| **column < width).map(|column| alone + column);
        vec![StatePart {
            name: "rows".into(),
            key: (0..alone).chain(kept).collect(),
            pieces: vec![key, Piece::of(&self.rows, &spec.output_schema)],
            numbers: Vec::new(),
        }]
    }

    fn split<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<Vec<Held<'a>>, EngineError> {
        let (_, row) = split_close("a kept row", value)?;
        Ok(vec![Held::of(0, &[key, row], [])])
    }
}
