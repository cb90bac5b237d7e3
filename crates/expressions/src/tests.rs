//! Edge values of the operators, against arithmetic of 128 bits and PostgreSQL's answers.

use crate::arithmetic::Arithmetic;
use crate::{can_fail, decimal, duration, guarded};
use datafusion::arrow::array::{ArrayRef, AsArray, Decimal128Array, Int32Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Field, IntervalMonthDayNano, Schema, TimeUnit};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Operator, col, lit};
use datafusion::physical_expr::create_physical_expr;
use std::sync::Arc;

/// The value of an expression over a row with a column `n INT` of 0; errors by their text.
fn value(expr: Expr) -> std::result::Result<ScalarValue, String> {
    values(expr, &[Some(0)]).map(|values| ScalarValue::try_from_array(&values, 0).unwrap())
}

fn values(expr: Expr, rows: &[Option<i32>]) -> std::result::Result<ArrayRef, String> {
    let schema = Schema::new(vec![Field::new("n", DataType::Int32, true)]);
    let batch =
        RecordBatch::try_new(Arc::new(schema.clone()), vec![Arc::new(Int32Array::from(rows.to_vec()))]).unwrap();
    let run = || -> Result<ArrayRef> {
        let named = DFSchema::try_from(schema.clone())?;
        let (props, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        let physical = create_physical_expr(&expr, &named, &props, &context)?;
        guarded(physical, &schema)?.evaluate(&batch)?.into_array(rows.len())
    };
    run().map_err(|error| error.find_root().to_string().replace("External error: ", ""))
}

fn of(op: Operator, left: ScalarValue, right: ScalarValue) -> std::result::Result<ScalarValue, String> {
    value(Arithmetic::call(op, lit(left), lit(right)))
}

#[test]
fn whole_numbers_do_not_wrap() {
    let edges = [i64::MIN, i64::MIN + 1, -2, -1, 0, 1, 2, i64::MAX - 1, i64::MAX];
    let exact = |op, a: i128, b: i128| match op {
        Operator::Plus => a + b,
        Operator::Minus => a - b,
        _ => a * b,
    };
    for op in [Operator::Plus, Operator::Minus, Operator::Multiply] {
        for left in edges {
            for right in edges {
                let found = of(op, ScalarValue::Int64(Some(left)), ScalarValue::Int64(Some(right)));
                match i64::try_from(exact(op, left.into(), right.into())) {
                    Ok(exact) => assert_eq!(found, Ok(ScalarValue::Int64(Some(exact)))),
                    Err(_) => {
                        let error = found.unwrap_err();
                        assert_eq!(error, format!("overflow: {left} {op} {right} is beyond BIGINT"));
                    }
                }
            }
        }
    }
}

#[test]
fn types_of_results_are_sparks() {
    let decimal = |precision, scale| DataType::Decimal128(precision, scale);
    for (op, left, right, expected) in [
        (Operator::Plus, decimal(10, 2), decimal(5, 4), decimal(13, 4)),
        (Operator::Multiply, decimal(10, 2), decimal(5, 4), decimal(16, 6)),
        (Operator::Divide, decimal(10, 2), decimal(5, 4), decimal(20, 8)),
        (Operator::Modulo, decimal(10, 2), decimal(5, 4), decimal(5, 4)),
        (Operator::Plus, decimal(38, 18), decimal(38, 18), decimal(38, 17)),
        (Operator::Multiply, decimal(38, 18), decimal(38, 18), decimal(38, 6)),
        (Operator::Divide, decimal(38, 18), decimal(38, 18), decimal(38, 6)),
        (Operator::Multiply, decimal(38, 0), decimal(38, 0), decimal(38, 0)),
        (Operator::Multiply, decimal(20, 3), decimal(20, 3), decimal(38, 6)),
    ] {
        assert_eq!(decimal::result_type(op, &left, &right).unwrap(), expected, "{left} {op} {right}");
    }
}

#[test]
fn decimals_round_half_up() {
    let numbers = |values: &[i128], precision, scale| -> ArrayRef {
        Arc::new(Decimal128Array::from(values.to_vec()).with_precision_and_scale(precision, scale).unwrap())
    };
    let halves = numbers(&[5, -5, 15, -15, 4, -4], 2, 1);
    let two = numbers(&[2; 6], 1, 0);
    let quotients = decimal::compute(Operator::Divide, &halves, &two, 10, 1).unwrap();
    // 0.25, 0.75 and 0.2 to one digit.
    assert_eq!(quotients.as_primitive::<Decimal128Type>().values(), &[3, -3, 8, -8, 2, -2]);
    // Every quotient of small numbers, by its definition: as near as can be, away from zero where two are.
    let all: Vec<(i128, i128)> = (-60..=60).flat_map(|a| (-12..=12).filter(|b| *b != 0).map(move |b| (a, b))).collect();
    let (a, b): (Vec<i128>, Vec<i128>) = all.iter().copied().unzip();
    let found = decimal::compute(Operator::Divide, &numbers(&a, 5, 1), &numbers(&b, 5, 0), 12, 2).unwrap();
    for ((a, b), found) in all.iter().zip(found.as_primitive::<Decimal128Type>().values()) {
        let twice = |value: i128| (value * b - a * 10).abs() * 2;
        assert!(twice(*found) <= b.abs(), "{a} / {b} = {found}");
        assert!(twice(*found) < b.abs() || found.abs() * b.abs() > a.abs() * 10, "{a} / {b} = {found}");
    }
}

#[test]
fn wide_intermediates_do_not_overflow() {
    let most = 10i128.pow(38) - 1;
    let number = |value, scale| ScalarValue::Decimal128(Some(value), 38, scale);
    // 9.99…E37 * 1.0 at scale 18 has 56 digits on the way.
    let one = of(Operator::Multiply, number(most, 0), number(1, 0)).unwrap();
    assert_eq!(one, number(most, 0));
    let quotient = of(Operator::Divide, number(1000 * 10i128.pow(18), 18), number(2 * 10i128.pow(18), 18)).unwrap();
    assert_eq!(quotient, number(500_000_000, 6));
    let error = of(Operator::Multiply, number(most, 0), number(10, 0)).unwrap_err();
    assert!(error.ends_with("is beyond DECIMAL(38, 0)"), "{error}");
    assert!(of(Operator::Divide, number(1, 0), number(0, 0)).unwrap_err().starts_with("division by zero: "));
}

#[test]
fn intervals_are_as_long_as_postgresql_says() {
    let interval = |months, days, hours: i64| {
        let nanoseconds = hours * 3_600_000_000_000;
        lit(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months, days, nanoseconds })))
    };
    let length = |expr| value(duration::length(expr)).unwrap();
    assert_eq!(length(interval(0, 1, 0)), length(interval(0, 0, 24)));
    assert_eq!(length(interval(1, 0, 0)), length(interval(0, 30, 0)));
    assert!(length(interval(0, 0, 36)) > length(interval(0, 1, 0)));
    let milliseconds = lit(ScalarValue::DurationMillisecond(Some(86_400_000)));
    assert_eq!(length(milliseconds), length(interval(0, 1, 0)));
    let scaled = |op, left: Expr, right: Expr| {
        let schema = DFSchema::empty();
        let type_of = |expr: &Expr| datafusion::logical_expr::ExprSchemable::get_type(expr, &schema).unwrap();
        let (first, second) = (type_of(&left), type_of(&right));
        value(duration::scaled(op, (&left, &first), (&right, &second)).unwrap()).unwrap()
    };
    let shown = |expr| value(expr).unwrap();
    assert_eq!(scaled(Operator::Divide, interval(1, 1, 0), lit(2i64)), shown(interval(0, 15, 12)));
    assert_eq!(scaled(Operator::Multiply, lit(3i64), interval(1, 1, 1)), shown(interval(3, 3, 3)));
    assert_eq!(scaled(Operator::Multiply, interval(0, 1, 0), lit(1.5)), shown(interval(0, 1, 12)));
}

#[test]
fn the_right_side_is_evaluated_for_rows_that_need_it() {
    let quotient = || lit(100i32) / col("n");
    let rows = [Some(0), Some(4), None, Some(200)];
    let found = values(col("n").not_eq(lit(0i32)).and(quotient().gt(lit(1i32))), &rows).unwrap();
    let expected = [Some(false), Some(true), None, Some(false)];
    assert_eq!(found.as_boolean().iter().collect::<Vec<_>>(), expected);
    // What cannot fail goes first.
    let found = values(quotient().gt(lit(1i32)).or(col("n").eq(lit(0i32))), &rows).unwrap();
    let expected = [Some(true), Some(true), None, Some(false)];
    assert_eq!(found.as_boolean().iter().collect::<Vec<_>>(), expected);
    let error = values(quotient().gt(lit(1i32)), &rows).unwrap_err();
    assert_eq!(error, "division by zero: 100 / n");
}

#[test]
fn only_safe_expressions_are_taken_as_safe() {
    let schema = Schema::new(vec![
        Field::new("n", DataType::Int32, true),
        Field::new("x", DataType::Float64, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
    ]);
    let schema = DFSchema::try_from(schema).unwrap();
    for (expr, expected) in [
        (col("n").gt(lit(1i32)), false),
        (col("x") / lit(0.0), false),
        (col("at") - col("at"), false),
        (col("n") / lit(2i32), true),
        (Expr::Cast(datafusion::logical_expr::Cast::new(Box::new(col("n")), DataType::Int64)), false),
        (Expr::Cast(datafusion::logical_expr::Cast::new(Box::new(col("n")), DataType::Int16)), true),
        (Expr::Cast(datafusion::logical_expr::Cast::new(Box::new(col("n")), DataType::Utf8)), false),
        (col("n").gt(lit(1i32)).and(lit(1i32).eq(lit(2i32) % col("n"))), true),
    ] {
        assert_eq!(can_fail(&expr, &schema), expected, "{expr}");
    }
}
