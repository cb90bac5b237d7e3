//! Late rows, which operators have dropped, as rows of the hidden sink for `late_topic`.
//!
//! Owns: the content of the records. Does not own: which rows are late (operators), the columns of the sink
//! (`sql::record_copies`). Invariant: the same rows give the same records in every process.

use crate::error::ConnectorError;
use crate::formats::{self, RowEncoder};
use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, Int64Array, ListBuilder, RecordBatch, StringBuilder, StructBuilder,
    TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field};
use highwater_dataflow::OperatorInfo;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::runtime::LateRows;
use highwater_protocol::ids::BatchId;
use highwater_sql::record_copies::schema;
use highwater_sql::values::iso_ms;
use std::sync::Arc;

/// Returns one record per row, with its columns as a JSON object. Headers name the operator, its watermark and the
/// reason why the row was late.
pub fn late_rows(
    late: &LateRows,
    operator: Option<&OperatorInfo>,
    batch: BatchId,
) -> Result<ChangeBatch, ConnectorError> {
    let rows = &late.rows;
    let count = rows.num_rows();
    let objects = formats::json::ObjectEncoder::new((0..rows.batch.num_columns()).collect()).encode(&rows.batch)?;
    let values: BinaryArray = objects.iter().collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(values),
        Arc::new(BinaryArray::new_null(count)),
        Arc::new(TimestampMillisecondArray::new_null(count)),
        headers(late, operator, batch),
    ];
    let batch = RecordBatch::try_new(schema(), columns)
        .map_err(|error| ConnectorError::Fatal(format!("internal: late rows: {error}")))?;
    Ok(ChangeBatch::inserts(batch))
}

fn headers(late: &LateRows, operator: Option<&OperatorInfo>, batch: BatchId) -> ArrayRef {
    let fields = vec![Field::new("key", DataType::Utf8, true), Field::new("value", DataType::Binary, true)];
    let item = StructBuilder::new(fields, vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())]);
    let mut lists = ListBuilder::new(item);
    let description = operator.map(|info| format!("{} {}", info.name, info.description)).unwrap_or_default();
    for row in 0..late.rows.num_rows() {
        let all = [
            ("highwater.batch", Some(batch.to_string())),
            ("highwater.operator", Some(late.operator.to_string())),
            ("highwater.description", Some(description.clone())),
            ("highwater.watermark", late.watermark_ms.map(iso_ms)),
            ("highwater.reason", Some(reason(&late.over_at, row))),
            ("highwater.weight", Some(late.rows.weight(row).to_string())),
        ];
        for (key, value) in all {
            let item = lists.values();
            // The builders were created above with these types.
            if let Some(keys) = item.field_builder::<StringBuilder>(0) {
                keys.append_value(key);
            }
            if let Some(values) = item.field_builder::<BinaryBuilder>(1) {
                values.append_option(value);
            }
            item.append(true);
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}

fn reason(over_at: &Int64Array, row: usize) -> String {
    match over_at.is_valid(row) {
        true => format!("its time was over at {}, and the watermark had passed that", iso_ms(over_at.value(row))),
        false => "it has no time, so it is in no window".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, StringArray};
    use arrow::datatypes::Schema;
    use highwater_protocol::ids::OperatorId;

    #[test]
    fn a_record_says_what_was_late_and_why() {
        let schema = Arc::new(Schema::new(vec![Field::new("user", DataType::Utf8, true)]));
        let users: ArrayRef = Arc::new(StringArray::from(vec![Some("ann"), None]));
        let rows = ChangeBatch::inserts(RecordBatch::try_new(schema, vec![users]).unwrap());
        let over_at = Int64Array::from(vec![Some(1_767_225_600_000), None]);
        let late = LateRows { operator: OperatorId(3), watermark_ms: Some(1_767_225_605_000), rows, over_at };
        let rows = late_rows(&late, None, BatchId(7)).unwrap();
        let values = rows.batch.column(0).as_binary::<i32>();
        assert_eq!((values.value(0), values.value(1)), (&br#"{"user":"ann"}"#[..], &br#"{"user":null}"#[..]));
        let headers = |row: usize| -> Vec<(String, String)> {
            let list = rows.batch.column(3).as_list::<i32>().value(row);
            let (keys, values) = (list.as_struct().column(0).clone(), list.as_struct().column(1).clone());
            let text = |at: usize| String::from_utf8(values.as_binary::<i32>().value(at).to_vec()).unwrap();
            (0..list.len()).map(|at| (keys.as_string::<i32>().value(at).to_string(), text(at))).collect()
        };
        let pair = |key: &str, value: &str| (key.to_string(), value.to_string());
        assert!(headers(0).contains(&pair("highwater.operator", "3")));
        assert!(headers(0).contains(&pair("highwater.watermark", "2026-01-01T00:00:05.000Z")));
        let reason = "its time was over at 2026-01-01T00:00:00.000Z, and the watermark had passed that";
        assert!(headers(0).contains(&pair("highwater.reason", reason)));
        assert!(headers(1).contains(&pair("highwater.reason", "it has no time, so it is in no window")));
    }
}
