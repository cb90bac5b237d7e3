//! Shows the state of a temporal join as rows.

use super::Temporal;
use super::keys::{ROW, VERSION, codec_of, cut_off, decode_time, split_key};
use super::versions::row_of;
use crate::temporal::TemporalOperator;
use arrow::datatypes::{DataType, Field};
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::runtime::state_reader::{
    Held, LayoutReader, Piece, StateLayout, StatePart, StateReader, stored_fields, stored_numbers,
};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_protocol::ids::OperatorId;
use std::borrow::Cow;

const ROWS_PART: usize = 0;
const VERSIONS_PART: usize = 1;

pub fn reader(operator: &TemporalOperator) -> Result<Box<dyn StateReader>, EngineError> {
    let keys = codec_of(&operator.spec.versions.timed)?;
    Ok(Box::new(LayoutReader(View { op: operator.op, temporal: Temporal::new(operator.spec.clone())?, keys })))
}

struct View {
    op: OperatorId,
    temporal: Temporal,
    /// Codec of the keys of versions, which is all that a deletion has.
    keys: Codec,
}

impl StateLayout for View {
    fn operator(&self) -> OperatorId {
        self.op
    }

    fn parts(&self) -> Vec<StatePart<'_>> {
        let Temporal { spec, unit, rows, versions, .. } = &self.temporal;
        let (side, timed) = (&spec.rows, &spec.versions.timed);
        let rows = StatePart {
            name: "rows".into(),
            pieces: vec![Piece::of(&rows.rows, &side.schema)],
            key: side.key.clone(),
            numbers: stored_fields(),
        };
        // The key columns are shown from the state key, since a deletion has no row.
        let columns: Vec<usize> = (0..timed.width).collect();
        let mut row = Piece::some(versions.rows(), &timed.schema, &columns);
        row.shown.retain(|column| !timed.key.contains(column));
        let time = match timed.schema.field(timed.time).data_type() {
            DataType::Timestamp(_, zone) => DataType::Timestamp(*unit, zone.clone()),
            other => other.clone(),
        };
        let own = [Field::new("_valid_from", time, true), Field::new("_deleted", DataType::Boolean, true)];
        let versions = StatePart {
            name: "versions".into(),
            pieces: vec![Piece::some(&self.keys, &timed.schema, &timed.key), row],
            key: (0..timed.key.len()).collect(),
            numbers: own.into_iter().chain(stored_fields()).collect(),
        };
        vec![rows, versions]
    }

    fn split<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<Vec<Held<'a>>, EngineError> {
        let (kind, key, suffix) = split_key(key)?;
        let (time, kept) = (decode_time(suffix)?, StoredRow::decode(value)?);
        match kind {
            ROW => Ok(vec![Held::of(ROWS_PART, &[&suffix[size_of::<i64>()..]], stored_numbers(kept))]),
            VERSION => {
                let row = row_of(suffix, value)?.map(Cow::Borrowed);
                if row.is_none() && suffix.len() > size_of::<i64>() {
                    return Err(cut_off());
                }
                let own = [Some(time), Some(i64::from(row.is_none()))];
                let numbers = own.into_iter().chain(stored_numbers(kept)).collect();
                Ok(vec![Held { part: VERSIONS_PART, pieces: vec![Some(Cow::Borrowed(key)), row], numbers }])
            }
            _ => Err(cut_off()),
        }
    }
}
