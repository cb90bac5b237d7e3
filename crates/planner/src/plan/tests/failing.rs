//! Rows whose expressions fail: left out of the pipelines where they fail, and without a trace in counters.

use super::*;
use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::Int64Type;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::{BatchContext, Emit, Lanes, OnFailure, TaskOutcome, TaskRuntime};
use highwater_dataflow::state::QueryState;
use highwater_protocol::ids::{EdgeId, StageId};
use std::collections::BTreeMap;
use std::sync::Arc;

const TABLES: &str = "
CREATE TABLE parts (item STRING, total BIGINT, n BIGINT)
  WITH ('connector'='kafka', 'topic'='parts', 'bootstrap.servers'='h:1', 'format'='json');
CREATE TABLE kept (k STRING, total BIGINT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED)
  WITH ('connector'='kafka', 'topic'='kept', 'bootstrap.servers'='h:1', 'format'='json');
CREATE TABLE o (item STRING, x BIGINT)
  WITH ('connector'='kafka', 'topic'='o', 'bootstrap.servers'='h:1', 'format'='json');
CREATE TABLE sums (item STRING, x BIGINT, PRIMARY KEY (item) NOT ENFORCED)
  WITH ('connector'='kafka', 'topic'='sums', 'bootstrap.servers'='h:1', 'format'='json');
";

fn query(inserts: &str) -> CompiledQuery {
    compile(&format!("{TABLES}{inserts}")).unwrap()
}

/// Records of `parts` (pen, 10, n), one for each n.
fn records(query: &CompiledQuery, n: &[i64]) -> RecordBatch {
    let source = &query.sources[0];
    let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as _;
    let pens = Arc::new(StringArray::from(vec!["pen"; n.len()])) as _;
    let all = vec![pens, column(vec![10; n.len()]), column(n.to_vec())];
    RecordBatch::try_new(source.schema.clone(), all).unwrap().project(&source.columns_used).unwrap()
}

fn context() -> BatchContext {
    let receivers = BTreeMap::from([(EdgeId(0), vec![highwater_protocol::ids::ShardId(0)])]);
    BatchContext { shards: 1, receivers, ..BatchContext::default() }
}

/// The failed rows with their reasons, the rows emitted, and the task's outcome.
fn read(query: &CompiledQuery, n: &[i64], on_failure: OnFailure) -> (Vec<(usize, String)>, Vec<Emit>, TaskOutcome) {
    pushed(query, records(query, n), on_failure)
}

/// As [`read`], of rows in the source's layout.
fn pushed(
    query: &CompiledQuery,
    rows: RecordBatch,
    on_failure: OnFailure,
) -> (Vec<(usize, String)>, Vec<Emit>, TaskOutcome) {
    let state = QueryState::new(&query.dataflow).task(StageId(0), 0..0).unwrap();
    let mut task = TaskRuntime::new(&query.dataflow, &BTreeMap::new(), StageId(0), &context(), state).unwrap();
    let mut out = Vec::new();
    let failed = task.push_source(rows, on_failure, &mut out).unwrap();
    let outcome = task.finish(&mut out).unwrap();
    (failed.into_iter().map(|(row, error)| (row, error.reason())).collect(), out, outcome)
}

/// The values of a column of all rows emitted, for a sink or an exchange.
fn column(out: &[Emit], column: usize) -> Vec<i64> {
    let rows = out.iter().filter_map(|emit| match emit {
        Emit::Sink { rows, .. } | Emit::Exchange { rows, .. } => Some(rows),
        Emit::Late { .. } => None,
    });
    rows.flat_map(|rows| rows.batch.column(column).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[test]
fn a_failing_row_is_left_out_where_it_fails_and_counts_once() {
    let query = query("INSERT INTO o SELECT item, total / n FROM parts; INSERT INTO o SELECT item, n FROM parts;");
    let (failed, out, outcome) = read(&query, &[5, 0, 2, 1, 0], OnFailure::LeaveOut);
    let reason = "division by zero: total / n".to_string();
    assert_eq!(failed, [(1, reason.clone()), (4, reason)]);
    assert_eq!(column(&out, 1), [2, 5, 10, 5, 0, 2, 1, 0]);
    let first: Vec<(u64, u64)> = outcome.steps[0].iter().map(|step| (step.input_rows, step.output_rows)).collect();
    assert!(first.iter().all(|rows| *rows == (3, 3)), "{first:?}");
}

#[test]
fn a_table_that_fails_on_bad_records_stops_at_the_first_row() {
    let query = query("INSERT INTO o SELECT item, total / n FROM parts;");
    let (failed, ..) = read(&query, &[5, 2, 0, 1, 0], OnFailure::Stop);
    assert_eq!(failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_failing_argument_of_an_aggregate_leaves_no_trace_in_its_group() {
    let query = query("INSERT INTO sums SELECT item, sum(total / n) FROM parts GROUP BY item;");
    let (failed, out, _) = read(&query, &[0, 5, 2, 0, 1, 0], OnFailure::LeaveOut);
    assert_eq!(failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 3, 5]);
    let Some(Emit::Exchange { rows, .. }) = out.first() else { panic!("{out:?}") };
    assert_eq!((out.len(), rows.num_rows()), (1, 1));
    // Only the group of good rows is there, if the failing ones were its first.
    let (_, out, _) = read(&query, &[0, 0], OnFailure::LeaveOut);
    assert!(out.is_empty(), "{out:?}");
}

#[test]
fn rows_without_time_beside_a_failing_one_are_counted_once() {
    let timed = "CREATE TABLE clicks (id BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
      WITH ('connector'='kafka', 'topic'='clicks', 'bootstrap.servers'='h:1', 'format'='json');";
    let query = query(&format!(
        "{timed} INSERT INTO o SELECT 'x', 12 / id FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' SECOND));"
    ));
    let source = &query.sources[0];
    let times = TimestampMillisecondArray::from(vec![Some(1), None, Some(2), None]);
    let all = vec![Arc::new(Int64Array::from(vec![1, 2, 0, 3])) as _, Arc::new(times) as _];
    let rows = RecordBatch::try_new(source.schema.clone(), all).unwrap().project(&source.columns_used).unwrap();
    let (failed, out, outcome) = pushed(&query, rows, OnFailure::LeaveOut);
    assert_eq!(failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [2]);
    assert_eq!(column(&out, 1), [12]);
    assert_eq!(outcome.operators.iter().map(|operator| operator.late_rows).sum::<u64>(), 2);
}

#[test]
fn a_row_of_a_keyed_table_is_named_with_its_operator() {
    let query = query("INSERT INTO sums SELECT k, total / n FROM kept;");
    let schema = query.dataflow.edges[0].schema.clone();
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "k" => Arc::new(StringArray::from(vec!["pen", "ink"])) as _,
        "n" => Arc::new(Int64Array::from(vec![1, 0])) as _,
        "total" => Arc::new(Int64Array::from(vec![10, 7])) as _,
        _ => Arc::new(arrow::array::BooleanArray::from(vec![false, false])) as _,
    });
    let rows = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
    let rows = highwater_dataflow::changelog::ChangeBatch::inserts(rows);
    let all = QueryState::new(&query.dataflow);
    all.load(0..1, &[]).unwrap();
    let state = all.task(StageId(1), 0..1).unwrap();
    let lanes = Lanes::new(&query.dataflow, &BTreeMap::new(), StageId(1), &context(), state, 1).unwrap();
    let error = lanes.run(vec![(EdgeId(0), rows)], 1, &|| true).unwrap_err();
    assert!(matches!(error, EngineError::ValueOfRow { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("an expression failed on a row of operator 0 (keyed source kept by k"), "{text}");
    for part in ["k = ink", "n = 0: division by zero: total / n; guard the expression"] {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
}
