//! Shows the state of a retracting aggregate as rows.

use super::RetractingAggregate;
use crate::retracting::{CallSpec, RetractingAggregateSpec};
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::state_reader::{
    Held, LayoutReader, Piece, StateLayout, StatePart, StateReader, close_fields, close_numbers, count_field,
    split_close, stored_fields, stored_numbers,
};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_protocol::ids::OperatorId;
use std::borrow::Cow;

pub fn reader(operator: &RetractingAggregateSpec) -> Result<Box<dyn StateReader>, EngineError> {
    let logic = RetractingAggregate::new(operator.spec.clone())?;
    Ok(Box::new(LayoutReader(View { op: operator.op, logic })))
}

struct View {
    op: OperatorId,
    logic: RetractingAggregate,
}

impl View {
    fn group(&self) -> Piece<'_> {
        let columns: Vec<usize> = (0..self.logic.spec.group_width).collect();
        Piece::some(&self.logic.changes.keys, &self.logic.spec.input_schema, &columns)
    }

    /// Returns the part of a function that keeps its arguments; `None` for any other function.
    fn part_of(&self, function: usize) -> Option<usize> {
        let before = self.logic.calls.kept().position(|(at, _)| at == function)?;
        Some(1 + before)
    }
}

impl StateLayout for View {
    fn operator(&self) -> OperatorId {
        self.op
    }

    fn parts(&self) -> Vec<StatePart<'_>> {
        let spec = &self.logic.spec;
        let key: Vec<usize> = (0..spec.group_width).collect();
        let results = spec.calls.iter().map(|call| spec.call_text(call));
        let groups = StatePart {
            name: "groups".into(),
            pieces: vec![self.group(), Piece::new(&self.logic.output, results)],
            key: key.clone(),
            numbers: [count_field("_rows")].into_iter().chain(close_fields()).collect(),
        };
        let values = self.logic.calls.kept().map(|(at, codec)| StatePart {
            name: format!("values of {}", spec.call_text(&spec.calls[at])),
            pieces: vec![self.group(), Piece::some(codec, &spec.input_schema, &kept_columns(&spec.calls[at]))],
            key: key.clone(),
            numbers: stored_fields(),
        });
        [groups].into_iter().chain(values).collect()
    }

    fn split<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<Vec<Held<'a>>, EngineError> {
        let (tag, group, rest) = untagged(key)?;
        if tag == 0 && rest.is_empty() {
            let ((close_ms, _), kept) = (split_close("a kept group", value)?, self.logic.parse(Some(value))?);
            let pieces = vec![Some(Cow::Borrowed(group)), kept.emitted.map(Cow::Owned)];
            let numbers = [Some(kept.rows)].into_iter().chain(close_numbers(close_ms)).collect();
            return Ok(vec![Held { part: 0, pieces, numbers }]);
        }
        let (function, arguments) = rest.split_first_chunk::<2>().filter(|_| tag == 1).ok_or_else(cut_off)?;
        let part = self.part_of(u16::from_be_bytes(*function).into()).ok_or_else(cut_off)?;
        Ok(vec![Held::of(part, &[group, arguments], stored_numbers(StoredRow::decode(value)?))])
    }
}

/// Returns the columns that a function keeps of each row: ordering columns, then arguments.
fn kept_columns(call: &CallSpec) -> Vec<usize> {
    call.order.iter().map(|(column, _)| *column).chain(call.arguments.iter().copied()).collect()
}

/// Splits the result of [`super::tagged`] and further bytes: tag, key, rest.
fn untagged(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), EngineError> {
    let split = || {
        let (tag, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        Some((*tag, key, rest))
    };
    split().ok_or_else(cut_off)
}

fn cut_off() -> EngineError {
    EngineError::CutOff("a group's key")
}
