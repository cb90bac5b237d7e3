//! The answer by DataFusion over the rows of a committed prefix.

use crate::cluster::Cluster;
use crate::data::record_batch;
use crate::fold::{Text, texts};
use crate::queries::{Kind, Query};
use arrow::array::{Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use std::sync::Arc;

/// The cluster's sink holds the answer.
pub fn check(query: &Query, cluster: &Cluster) -> Result<(), String> {
    let expected = answer(query, cluster);
    let found = cluster.sink.rows();
    if found == expected {
        return Ok(());
    }
    let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
    let wrong: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
    Err(format!(
        "after batch {} the sink is not the batch answer: missing {missing:?}, wrong {wrong:?}, {} rows instead of {}\n{}",
        cluster.batches(),
        found.len(),
        expected.len(),
        query.script()
    ))
}

fn answer(query: &Query, cluster: &Cluster) -> Vec<Text> {
    let context = SessionContext::new();
    for (table, name) in ["t", "u"].into_iter().enumerate() {
        let accepted: Vec<usize> =
            cluster.accepted.iter().copied().filter(|id| cluster.rows[*id].table as usize == table).collect();
        let batch = with_watermarks(record_batch(cluster.rows, &accepted), &accepted, cluster);
        let memory = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
        context.register_table(name, Arc::new(memory)).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let asked = runtime.block_on(async { context.sql(&query.meaning()).await?.collect().await });
    let batches = asked.unwrap_or_else(|error| panic!("{error}\n{}", query.meaning()));
    let mut rows = Vec::new();
    for batch in batches {
        rows.extend(texts(&assigned(&batch, cluster)));
    }
    if query.kind == Kind::Global && cluster.nothing_passed(query) {
        // Before its first row a global aggregate has written nothing.
        rows.clear();
    }
    if query.waits() {
        let closed = cluster.closed_before_ms();
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
        let closed = cluster.closed_before_ms();
        rows.retain(|row| closed.is_some_and(|closed| time_ms(&row[0]) <= closed));
    }
    rows.sort();
    rows
}

/// With a column `w`: the watermark each row met.
fn with_watermarks(batch: RecordBatch, ids: &[usize], cluster: &Cluster) -> RecordBatch {
    let met: Int64Array = ids.iter().map(|id| cluster.met.get(id).copied()).collect();
    let mut fields = batch.schema().fields().to_vec();
    fields.push(Arc::new(Field::new("w", DataType::Int64, true)));
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(met));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// The columns cast as the INSERT casts them.
fn assigned(batch: &RecordBatch, cluster: &Cluster) -> RecordBatch {
    let schema = cluster.sink_schema();
    let columns =
        batch.columns().iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type()).unwrap());
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}

/// Milliseconds of a timestamp's text.
fn time_ms(text: &str) -> i64 {
    chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").unwrap().and_utc().timestamp_millis()
}
