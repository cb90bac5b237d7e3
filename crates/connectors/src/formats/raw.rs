//! The raw format: one column's bytes, as they are.
//!
//! Owns: writing them. Does not own: which column that is (the table's value or key). Invariant: NULL is no record.

use super::{Codec, Layout, RowDecoder, RowEncoder};
use crate::error::ConnectorError;
use arrow::array::{AsArray, LargeBinaryArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use highwater_engine::formats::{Format, RAW};
use std::sync::Arc;

pub const CODEC: Codec = Codec { spec: &RAW, decoder, encoder };

fn decoder(_: &Layout<'_>) -> Result<Box<dyn RowDecoder>, ConnectorError> {
    Err(ConnectorError::Config("records of format 'raw' are only written".into()))
}

fn encoder(_: &Format, columns: Vec<usize>) -> Result<Arc<dyn RowEncoder>, ConnectorError> {
    match columns.as_slice() {
        [column] => Ok(Arc::new(RawEncoder { column: *column })),
        all => Err(ConnectorError::Config(format!("format 'raw' is one column, not {}", all.len()))),
    }
}

#[derive(Debug)]
struct RawEncoder {
    column: usize,
}

impl RowEncoder for RawEncoder {
    fn encode(&self, batch: &RecordBatch) -> Result<LargeBinaryArray, ConnectorError> {
        let bytes = cast(batch.column(self.column), &DataType::LargeBinary)
            .map_err(|error| ConnectorError::Config(format!("a row cannot be written as it is: {error}")))?;
        Ok(bytes.as_binary::<i64>().clone())
    }
}
