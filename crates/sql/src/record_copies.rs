//! Columns of the hidden tables that hold unchanged records of other tables: dead letters and late rows.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::sync::Arc;

/// Returns their schema: the record's value, key and timestamp unchanged, and headers that name its position and the reason.
pub fn schema() -> SchemaRef {
    let header = [("key", DataType::Utf8), ("value", DataType::Binary)];
    let header = header.map(|(name, data_type)| Field::new(name, data_type, true));
    let item = Field::new("item", DataType::Struct(header.to_vec().into()), true);
    Arc::new(Schema::new(vec![
        Field::new("value", DataType::Binary, true),
        Field::new("_key", DataType::Binary, true),
        Field::new("_timestamp", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        Field::new("_headers", DataType::List(Arc::new(item)), true),
    ]))
}
