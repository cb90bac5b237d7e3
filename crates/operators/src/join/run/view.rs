//! Shows the state of a join as rows.

use super::Join;
use super::close::split_key;
use crate::join::JoinOperator;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::state_reader::{
    Held, LayoutReader, Piece, StateLayout, StatePart, StateReader, close_fields, close_numbers, count_field,
};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_protocol::ids::OperatorId;

pub fn reader(operator: &JoinOperator) -> Result<Box<dyn StateReader>, EngineError> {
    Ok(Box::new(LayoutReader(View { op: operator.op, join: Join::new(operator.spec.clone())? })))
}

struct View {
    op: OperatorId,
    join: Join,
}

impl StateLayout for View {
    fn operator(&self) -> OperatorId {
        self.op
    }

    fn parts(&self) -> Vec<StatePart<'_>> {
        let part = |(side, name): (usize, &str)| {
            let (spec, codec) = (&self.join.spec.sides[side], &self.join.codecs[side].rows);
            let matches = self.join.spec.counts()[side].then(|| count_field("_matches"));
            StatePart {
                name: name.into(),
                pieces: vec![Piece::of(codec, &spec.schema)],
                key: spec.key.clone(),
                numbers: [count_field("_weight")].into_iter().chain(matches).chain(close_fields()).collect(),
            }
        };
        ["left rows", "right rows"].into_iter().enumerate().map(part).collect()
    }

    fn split<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<Vec<Held<'a>>, EngineError> {
        let (side, row) = split_key(key)?;
        let kept = StoredRow::decode(value)?;
        let matches = self.join.spec.counts()[side].then_some(Some(kept.count));
        let numbers = [Some(kept.weight)].into_iter().chain(matches).chain(close_numbers(kept.close_ms));
        Ok(vec![Held::of(side, &[row], numbers)])
    }
}
