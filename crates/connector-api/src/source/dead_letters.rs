//! Bad records as rows of the hidden sink for `dead_letter_topic`.
//!
//! Owns: the content of the rows. Does not own: the columns of the sink (`sql::record_copies`).

use super::BadRecord;
use crate::error::ConnectorError;
use arrow::array::{
    ArrayRef, BinaryArray, BinaryBuilder, ListBuilder, RecordBatch, StringBuilder, StructBuilder,
    TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_sql::record_copies::schema;
use std::sync::Arc;

/// Returns one row per record, with its key, value and timestamp unchanged, and its position and the reason as headers.
pub fn dead_letters(bad: &[BadRecord]) -> Result<ChangeBatch, ConnectorError> {
    let bytes =
        |get: fn(&BadRecord) -> Option<&[u8]>| -> ArrayRef { Arc::new(bad.iter().map(get).collect::<BinaryArray>()) };
    let times: TimestampMillisecondArray = bad.iter().map(|record| record.timestamp_ms).collect();
    let columns = vec![
        bytes(|record| record.payload.as_deref()),
        bytes(|record| record.key.as_deref()),
        Arc::new(times),
        headers(bad),
    ];
    let batch = RecordBatch::try_new(schema(), columns)
        .map_err(|error| ConnectorError::Fatal(format!("internal: dead letters: {error}")))?;
    Ok(ChangeBatch::inserts(batch))
}

fn headers(bad: &[BadRecord]) -> ArrayRef {
    let fields = vec![Field::new("key", DataType::Utf8, true), Field::new("value", DataType::Binary, true)];
    let item = StructBuilder::new(fields, vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())]);
    let mut lists = ListBuilder::new(item);
    for record in bad {
        let place = [
            ("highwater.topic", record.tp.topic.to_string()),
            ("highwater.partition", record.tp.partition.to_string()),
            ("highwater.offset", record.offset.to_string()),
            ("highwater.error", record.reason.clone()),
        ];
        for (key, value) in place {
            let item = lists.values();
            // The builders were created above with these types.
            if let Some(keys) = item.field_builder::<StringBuilder>(0) {
                keys.append_value(key);
            }
            if let Some(values) = item.field_builder::<BinaryBuilder>(1) {
                values.append_value(value);
            }
            item.append(true);
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}
