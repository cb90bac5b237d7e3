//! Metadata columns: `_key`, `_topic`, `_partition`, `_offset`, `_timestamp`, `_headers`.
//!
//! Owns: their names, types and values. Does not own: which of them a query uses.

use super::raw::RawRecords;
use arrow::array::*;
use arrow::datatypes::{DataType, Field};
use highwater_connector_api::error::ConnectorError;
use highwater_protocol::offsets::TopicPartition;
use std::sync::Arc;

/// A metadata column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    Key,
    Topic,
    Partition,
    Offset,
    Timestamp,
    Headers,
}

impl Meta {
    /// Returns the metadata column of this name; `None` for any other column.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "_key" => Self::Key,
            "_topic" => Self::Topic,
            "_partition" => Self::Partition,
            "_offset" => Self::Offset,
            "_timestamp" => Self::Timestamp,
            "_headers" => Self::Headers,
            _ => return None,
        })
    }

    /// Returns the column's values for all of `raw`, in the type of `field`.
    pub fn column(self, field: &Field, tp: &TopicPartition, raw: &RawRecords) -> Result<ArrayRef, ConnectorError> {
        let column: ArrayRef = match self {
            Self::Key => Arc::new(BinaryArray::from_iter((0..raw.len()).map(|index| raw.key(index)))),
            Self::Topic => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(tp.topic.as_ref(), raw.len()))),
            Self::Partition => Arc::new(Int32Array::from_value(tp.partition, raw.len())),
            Self::Offset => Arc::new(Int64Array::from(raw.offsets.clone())),
            Self::Timestamp => {
                Arc::new(TimestampMillisecondArray::from_iter(raw.timestamps.iter().copied()).with_timezone("UTC"))
            }
            Self::Headers => headers(field, raw)?,
        };
        if column.data_type() == field.data_type() {
            return Ok(column);
        }
        arrow::compute::cast(&column, field.data_type())
            .map_err(|_| ConnectorError::Config(format!("column '{}' must be {}", field.name(), column.data_type())))
    }
}

/// Returns headers as `List<Struct<key: Utf8, value: Binary>>`; NULL for a record without headers.
fn headers(field: &Field, raw: &RawRecords) -> Result<ArrayRef, ConnectorError> {
    let wrong =
        || ConnectorError::Config(format!("column '{}' must be ARRAY<ROW<key STRING, value BYTES>>", field.name()));
    let DataType::List(item) = field.data_type() else { return Err(wrong()) };
    let DataType::Struct(parts) = item.data_type() else { return Err(wrong()) };
    let mut keys = StringBuilder::new();
    let mut values = BinaryBuilder::new();
    for (key, value) in raw.headers.iter().flatten() {
        keys.append_value(key);
        values.append_option(value.as_deref());
    }
    let columns: Vec<ArrayRef> = vec![Arc::new(keys.finish()), Arc::new(values.finish())];
    let items = StructArray::try_new(parts.clone(), columns, None).map_err(|_| wrong())?;
    let lengths = raw.headers.iter().map(Vec::len);
    let nulls = raw.headers.iter().map(|headers| !headers.is_empty()).collect::<Vec<_>>();
    let offsets = arrow::buffer::OffsetBuffer::from_lengths(lengths);
    let list = ListArray::try_new(item.clone(), offsets, Arc::new(items), Some(nulls.into())).map_err(|_| wrong())?;
    Ok(Arc::new(list))
}
