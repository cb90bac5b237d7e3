//! Encodes keys as bytes, which are comparable, hashable and the same in every process.
//!
//! Owns: the row encoding (arrow-row) of key columns, and the shard of a key.

use super::row_check::is_row;
use crate::error::EngineError;
use arrow::array::{ArrayRef, AsArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use arrow_row::{RowConverter, Rows, SortField};
use highwater_protocol::ids::ShardId;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Returns the shard of an encoded key. The empty key, of a GROUP BY without columns, is in the first shard.
pub fn shard_of(key: &[u8], shards: u16) -> ShardId {
    if key.is_empty() {
        return ShardId(0);
    }
    ShardId((xxh3_64(key) % u64::from(shards.max(1))) as u16)
}

/// Encodes and decodes rows of some columns. Rows without columns are empty.
#[derive(Debug)]
pub struct Codec {
    converter: Option<RowConverter>,
    columns: Vec<(DataType, SortOptions)>,
}

/// Encoded rows.
pub enum Encoded {
    Rows(Rows),
    /// This many empty rows.
    Empty(usize),
}

impl Codec {
    pub fn new<'a>(types: impl Iterator<Item = &'a DataType>) -> Result<Self, EngineError> {
        Self::sorted(types.map(|data_type| (data_type.clone(), SortOptions::default())))
    }

    /// Returns the codec of rows whose bytes sort in this order.
    pub fn sorted(columns: impl Iterator<Item = (DataType, SortOptions)>) -> Result<Self, EngineError> {
        let columns: Vec<(DataType, SortOptions)> = columns.collect();
        let field =
            |(data_type, options): &(DataType, SortOptions)| SortField::new_with_options(data_type.clone(), *options);
        let fields: Vec<SortField> = columns.iter().map(field).collect();
        let converter = if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) };
        Ok(Self { converter, columns })
    }

    pub fn of(schema: &SchemaRef) -> Result<Self, EngineError> {
        Self::new(schema.fields().iter().map(|field| field.data_type()))
    }

    pub fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<Encoded, EngineError> {
        match &self.converter {
            Some(converter) => Ok(Encoded::Rows(converter.convert_columns(columns)?)),
            None => Ok(Encoded::Empty(rows)),
        }
    }

    /// True if these bytes are a row of this codec, which [`Codec::decode`] requires.
    pub fn holds(&self, row: &[u8]) -> bool {
        is_row(&self.columns, row)
    }

    /// Decodes rows that this codec, or one of the same types, has encoded. Returns their columns.
    pub fn decode<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, EngineError> {
        let Some(converter) = &self.converter else { return Ok(Vec::new()) };
        let parser = converter.parser();
        Ok(converter.convert_rows(rows.map(|row| parser.parse(row)))?)
    }
}

impl Encoded {
    pub fn row(&self, index: usize) -> &[u8] {
        match self {
            // The bytes borrow from all rows, not from the view of one.
            Encoded::Rows(rows) => rows.row(index).data(),
            Encoded::Empty(_) => &[],
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Encoded::Rows(rows) => rows.num_rows(),
            Encoded::Empty(rows) => *rows,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Replaces −0.0 with 0.0 and every NaN with the same one, since floats that are equal in SQL must have equal bytes.
pub fn normalize(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => {
            let one = |value: f64| if value.is_nan() { f64::NAN } else { value + 0.0 };
            Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(one))
        }
        DataType::Float32 => {
            let one = |value: f32| if value.is_nan() { f32::NAN } else { value + 0.0 };
            Arc::new(array.as_primitive::<Float32Type>().unary::<_, Float32Type>(one))
        }
        _ => array,
    }
}
