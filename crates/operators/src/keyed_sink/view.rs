//! Shows the live rows in a keyed sink's state.

use super::KeyedSinkSpec;
use super::run::decode;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::runtime::state_reader::{
    Held, LayoutReader, Piece, StateLayout, StatePart, StateReader, split_close, stored_fields, stored_numbers,
};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_protocol::ids::OperatorId;

pub fn reader(operator: &KeyedSinkSpec) -> Result<Box<dyn StateReader>, EngineError> {
    let rows = Codec::of(&operator.schema)?;
    Ok(Box::new(LayoutReader(View { spec: operator.clone(), rows })))
}

struct View {
    spec: KeyedSinkSpec,
    rows: Codec,
}

impl StateLayout for View {
    fn operator(&self) -> OperatorId {
        self.spec.op
    }

    fn parts(&self) -> Vec<StatePart<'_>> {
        vec![StatePart {
            name: "rows".into(),
            pieces: vec![Piece::of(&self.rows, &self.spec.schema)],
            key: self.spec.key.clone(),
            numbers: stored_fields(),
        }]
    }

    fn split<'a>(&self, _: &'a [u8], value: &'a [u8]) -> Result<Vec<Held<'a>>, EngineError> {
        let (close_ms, _) = split_close("a kept row", value)?;
        let held = |(row, count): (&'a [u8], u32)| {
            let kept = StoredRow { close_ms, weight: count.into(), count: 0 };
            Held::of(0, &[row], stored_numbers(kept))
        };
        Ok(decode(value)?.into_iter().map(held).collect())
    }
}
