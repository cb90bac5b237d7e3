//! Failing rows among good ones, with a function in place of operators.

use super::*;
use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use highwater_expressions::{Cause, ExpressionError};
use proptest::prelude::*;
use std::sync::Arc;

/// Rows 0 to `count`.
fn rows(count: usize) -> ChangeBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let column = Int64Array::from_iter_values(0..count as i64);
    ChangeBatch::inserts(RecordBatch::try_new(schema, vec![Arc::new(column)]).unwrap())
}

fn numbers(rows: &ChangeBatch) -> Vec<usize> {
    rows.batch.column(0).as_primitive::<Int64Type>().values().iter().map(|n| *n as usize).collect()
}

/// The rows that were applied, the rows that failed with their errors, and the number of calls.
fn run(count: usize, on_failure: OnFailure, bad: &[usize]) -> (Vec<usize>, Vec<(usize, String)>, usize) {
    let (mut applied, mut failed, mut calls) = (Vec::new(), FailedRows::new(), 0);
    let apply = &mut |rows: ChangeBatch| {
        calls += 1;
        let numbers = numbers(&rows);
        if let Some(first) = numbers.iter().find(|n| bad.contains(n)) {
            let cause = Cause::DivisionByZero;
            return Ok(Some(EngineError::Value(ExpressionError { expression: first.to_string(), cause })));
        }
        applied.extend(numbers);
        Ok(None)
    };
    apply_to_good(&rows(count), on_failure, &mut failed, apply).unwrap();
    (applied, failed.into_iter().map(|(row, error)| (row, error.reason())).collect(), calls)
}

#[test]
fn good_rows_cost_one_call_and_a_bad_one_among_a_thousand_few() {
    assert_eq!(run(1_000, OnFailure::LeaveOut, &[]), ((0..1_000).collect(), vec![], 1));
    let (applied, failed, calls) = run(1_000, OnFailure::LeaveOut, &[617]);
    assert_eq!(applied, (0..1_000).filter(|n| *n != 617).collect::<Vec<_>>());
    assert_eq!(failed, [(617, "division by zero: 617".to_string())]);
    assert!(calls <= 21, "{calls} calls");
}

#[test]
fn stopping_ends_at_the_first_failing_row() {
    let (applied, failed, _) = run(100, OnFailure::Stop, &[40, 41, 90]);
    assert_eq!(failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [40]);
    assert!(applied.iter().all(|n| *n < 40), "{applied:?}");
}

#[test]
fn an_error_that_is_not_of_a_row_ends_everything() {
    let mut failed = FailedRows::new();
    let apply = &mut |_| Err(EngineError::Internal("broken".into()));
    assert!(apply_to_good(&rows(10), OnFailure::LeaveOut, &mut failed, apply).is_err());
    assert!(failed.is_empty());
}

#[test]
fn a_row_is_shown_by_its_columns_and_cut() {
    let schema =
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8, true)]));
    let text = |s: &str| {
        let columns: Vec<arrow::array::ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![None])), Arc::new(StringArray::from(vec![s]))];
        row_text(&ChangeBatch::inserts(RecordBatch::try_new(schema.clone(), columns).unwrap()))
    };
    assert_eq!(text("x"), "n = NULL, s = x");
    assert_eq!(text(&"é".repeat(500)).chars().count(), MAX_ROW_TEXT + 1);
}

proptest! {
    #[test]
    fn exactly_the_bad_rows_are_left_out_and_the_others_keep_their_order(
        count in 0usize..200,
        bad in prop::collection::btree_set(0usize..200, 0..40),
    ) {
        let bad: Vec<usize> = bad.into_iter().filter(|row| *row < count).collect();
        let (applied, failed, _) = run(count, OnFailure::LeaveOut, &bad);
        prop_assert_eq!(applied, (0..count).filter(|row| !bad.contains(row)).collect::<Vec<_>>());
        prop_assert_eq!(failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), bad);
    }
}
