//! The answer by DataFusion over the rows of a committed prefix.

use crate::data::record_batch;
use crate::harness::answer::{answer, assigned, difference, second_answer};
use crate::harness::fold::Text;
use crate::queries::{Kind, Query};
use crate::watch::{TABLES, Watch};
use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use std::sync::Arc;

/// Checks that the cluster's sink holds the batch answer.
pub fn check(query: &Query, watch: &Watch<'_>) -> Result<(), String> {
    match difference(&expected(query, watch), &watch.cluster.sink().rows()) {
        None => Ok(()),
        Some(difference) => Err(format!(
            "after batch {} the sink is not the batch answer: {difference}\n{}",
            watch.cluster.batches(),
            query.script()
        )),
    }
}

fn expected(query: &Query, watch: &Watch<'_>) -> Vec<Text> {
    let tables = TABLES.into_iter().enumerate().map(|(table, name)| {
        let accepted: Vec<usize> =
            watch.accepted.iter().copied().filter(|id| watch.rows[*id].table as usize == table).collect();
        (name.to_string(), with_watermarks(record_batch(watch.rows, &accepted), &accepted, watch))
    });
    let tables: Vec<(String, RecordBatch)> = tables.collect();
    // Where its first operators stumble over their own types, others of DataFusion answer.
    let batches =
        answer(tables.clone(), &query.meaning()).or_else(|_| second_answer(tables, &query.meaning())).unwrap();
    let mut rows = assigned(&batches, &watch.cluster.sink_schema());
    if query.kind == Kind::Global && watch.cluster.kept_nothing() {
        // Before its first row a global aggregate has written nothing.
        rows.clear();
    }
    if query.waits() {
        let closed = watch.closed_before_ms();
        let (over_later, no_time) = match query.kind {
            Kind::IntervalJoin => (4_001, true),
            _ => (0, false),
        };
        rows.retain(|row| {
            let is_over = match row[0].as_str() {
                "NULL" => no_time,
                time => closed.is_some_and(|closed| time_ms(time) + over_later <= closed),
            };
            // A row whose key is NULL matches nothing at once.
            row[1] != "NULL" || row[3] == "NULL" || is_over
        });
    }
    if matches!(query.kind, Kind::ClosedWindows | Kind::WindowTop | Kind::BestOfWindow) {
        let closed = watch.closed_before_ms();
        rows.retain(|row| closed.is_some_and(|closed| time_ms(&row[0]) <= closed));
    }
    rows
}

/// Adds a column `w` with the watermark at which each row was read.
fn with_watermarks(batch: RecordBatch, ids: &[usize], watch: &Watch<'_>) -> RecordBatch {
    let met: Int64Array = ids.iter().map(|id| watch.met.get(id).copied()).collect();
    let mut fields = batch.schema().fields().to_vec();
    fields.push(Arc::new(Field::new("w", DataType::Int64, true)));
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(met));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// Returns the milliseconds of a timestamp's text.
fn time_ms(text: &str) -> i64 {
    chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").unwrap().and_utc().timestamp_millis()
}
