//! Rows of the two tables every case reads, `t` and `u`, and their Arrow form.

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use proptest::prelude::*;
use std::sync::Arc;

/// Partitions of each table.
pub const PARTITIONS: i32 = 3;
/// Size of the tumbling windows.
pub const WINDOW_MS: i64 = 10_000;

/// One record. Its id is its place in the case.
#[derive(Clone, Debug)]
pub struct Row {
    /// 0 = `t`, 1 = `u`.
    pub table: u32,
    pub partition: i32,
    pub k: Option<u8>,
    pub b: Option<i8>,
    pub x: Option<i16>,
    /// In quarters, since sums of such floats are exact in any order.
    pub f: Option<i8>,
    /// Milliseconds added to the event time that follows from its place in the case; `None` = no event time.
    pub jitter_ms: Option<i64>,
}

/// Returns random rows: few distinct keys, many NULLs, event times out of order.
pub fn row() -> impl Strategy<Value = Row> {
    // Most come a little out of order, some so late that their windows are closed.
    let seconds = prop_oneof![4 => -6i64..7, 1 => -60i64..-6];
    let jitter = (seconds, prop_oneof![Just(0i64), Just(-1), Just(1)]).prop_map(|(seconds, ms)| seconds * 1_000 + ms);
    (
        0u32..2,
        0..PARTITIONS,
        prop::option::weighted(0.9, 0u8..4),
        prop::option::weighted(0.9, 0i8..3),
        prop::option::weighted(0.8, -50i16..50),
        prop::option::weighted(0.8, -20i8..20),
        prop::option::weighted(0.9, jitter),
    )
        .prop_map(|(table, partition, k, b, x, f, jitter_ms)| Row { table, partition, k, b, x, f, jitter_ms })
}

impl Row {
    /// Returns the event time of the row at this place.
    pub fn ts_ms(&self, id: usize) -> Option<i64> {
        Some(100_000 + id as i64 * 1_000 + self.jitter_ms?)
    }

    /// Returns the end of the row's window.
    pub fn window_end_ms(&self, id: usize) -> Option<i64> {
        Some(self.ts_ms(id)?.div_euclid(WINDOW_MS) * WINDOW_MS + WINDOW_MS)
    }
}

/// Columns of both tables.
pub const COLUMNS: &str = "id BIGINT, k STRING, b BIGINT, x BIGINT, f DOUBLE, ts TIMESTAMP(3)";

pub fn schema() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![
        field("id", DataType::Int64),
        field("k", DataType::Utf8),
        field("b", DataType::Int64),
        field("x", DataType::Int64),
        field("f", DataType::Float64),
        field("ts", DataType::Timestamp(TimeUnit::Millisecond, None)),
    ]))
}

/// Returns the rows with these ids.
pub fn record_batch(rows: &[Row], ids: &[usize]) -> RecordBatch {
    let of = |get: &dyn Fn(&Row) -> Option<i64>| -> Int64Array { ids.iter().map(|id| get(&rows[*id])).collect() };
    let keys: StringArray = ids.iter().map(|id| rows[*id].k.map(|k| format!("K{k}"))).collect();
    let floats: Float64Array = ids.iter().map(|id| rows[*id].f.map(|f| f64::from(f) / 4.0)).collect();
    let times: TimestampMillisecondArray = ids.iter().map(|id| rows[*id].ts_ms(*id)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| *id as i64))),
        Arc::new(keys),
        Arc::new(of(&|row| row.b.map(i64::from))),
        Arc::new(of(&|row| row.x.map(i64::from))),
        Arc::new(floats),
        Arc::new(times),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}
