//! Columns of tables that hold records of other tables as they are: dead letters, and rows that came too late.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::sync::Arc;

/// `value`: the record's bytes; key and time are its own; headers tell the place and the reason.
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
