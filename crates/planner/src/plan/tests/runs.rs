//! Compiled expressions give the right rows.

use super::*;
use arrow::array::{AsArray, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::compute::{filter_record_batch, is_not_null};
use arrow::datatypes::{Int64Type, TimestampMillisecondType};
use highwater_operators::rows::{Filter, Project};
use std::sync::Arc;

/// Rows of `plain` in the layout that a query decodes.
fn plain(query: &CompiledQuery) -> RecordBatch {
    let source = &query.sources[0];
    let amounts = Decimal128Array::from(vec![500, 1500, 2500]).with_precision_and_scale(10, 2).unwrap();
    let all = RecordBatch::try_new(
        source.schema.clone(),
        vec![
            Arc::new(Int64Array::from(vec![1, 2, 3])),
            Arc::new(StringArray::from(vec![Some("a"), Some("b"), None])),
            Arc::new(amounts),
            Arc::new(TimestampMillisecondArray::from(vec![Some(0), Some(10_001), None])),
        ],
    );
    all.unwrap().project(&source.columns_used).unwrap()
}

/// Runs filters and projections of the first pipeline, up to the first other operator.
fn run(query: &CompiledQuery) -> RecordBatch {
    let mut batch = plain(query);
    for op in &query.dataflow.stages[0].pipelines[0].ops {
        if let Some(Filter(predicate)) = op.downcast_ref() {
            let keep = predicate.evaluate(&batch).unwrap().into_array(batch.num_rows()).unwrap();
            batch = filter_record_batch(&batch, keep.as_boolean()).unwrap();
        } else if let Some(TimedSpec { time, .. }) = op.downcast_ref() {
            let times = time.evaluate(&batch).unwrap().into_array(batch.num_rows()).unwrap();
            batch = filter_record_batch(&batch, &is_not_null(&times).unwrap()).unwrap();
        } else if let Some(Project { exprs, schema }) = op.downcast_ref() {
            let columns = exprs.iter().map(|expr| expr.evaluate(&batch).unwrap().into_array(batch.num_rows()).unwrap());
            batch = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
        } else {
            return batch;
        }
    }
    batch
}

#[test]
fn a_filter_and_an_assignment() {
    let rows = run(&good("INSERT INTO rows_out SELECT id, amount FROM plain WHERE amount > 10;"));
    assert_eq!(rows.column(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("2"), Some("3")]);
    assert_eq!(rows.column(1).as_primitive::<Int64Type>().values(), &[15, 25]);
}

#[test]
fn rows_without_time_are_in_no_window() {
    let sql = "SELECT window_start, card, id FROM TABLE(TUMBLE(TABLE plain, DESCRIPTOR(ts), INTERVAL '10' SECOND, INTERVAL '1' SECOND));";
    let rows = run(&good(&format!("INSERT INTO windows {sql}")));
    assert_eq!(rows.column(0).as_primitive::<TimestampMillisecondType>().values(), &[-9_000, 1_000]);
}

#[test]
fn now_is_the_batchs_time_in_every_row() {
    let query = good("INSERT INTO windows SELECT now(), card, id FROM plain;");
    for time in [5_000, 6_000] {
        query.clock.set_ms(time);
        assert_eq!(run(&query).column(0).as_primitive::<TimestampMillisecondType>().values(), &[time; 3]);
    }
}
