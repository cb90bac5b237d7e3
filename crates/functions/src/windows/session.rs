//! Sessions: the function that returns the session of a time.
//!
//! Owns: the arithmetic of `SESSION`, as a function OVER a partition in order of time. Does not own: keeping sessions
//! from batch to batch (`operators::session_window`), which merges and closes them one by one.
//! Invariant: rows are in one session if and only if no two neighbours are further apart than the gap.

use super::hop::fields;
use super::tumble::Shape;
use super::tumble::{Window, per_second};
use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, StructArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{
    Expr, LimitEffect, PartitionEvaluator, Signature, Volatility, WindowFunctionDefinition, WindowUDFImpl,
};
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// `hw_session(ts, gap_ms) OVER (PARTITION BY … ORDER BY ts)`: `{window_start, window_end, window_time}`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Session {
    signature: Signature,
}

impl Default for Session {
    fn default() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl Session {
    /// Recognizes a call: returns the call, its time and its window. `None` for other expressions.
    pub fn recognize(expr: &Expr) -> Option<(&WindowFunction, &Expr, Window)> {
        match expr {
            Expr::Alias(alias) => Self::recognize(&alias.expr),
            Expr::WindowFunction(call) => {
                let WindowFunctionDefinition::WindowUDF(function) = &call.fun else { return None };
                let [time, Expr::Literal(ScalarValue::Int64(Some(gap_ms)), _)] = call.params.args.as_slice() else {
                    return None;
                };
                let window = Window { shape: Shape::Session, size_ms: *gap_ms, offset_ms: 0 };
                (function.name() == "hw_session").then_some((call, time, window))
            }
            _ => None,
        }
    }
}

impl WindowUDFImpl for Session {
    fn name(&self) -> &str {
        "hw_session"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn partition_evaluator(&self, _: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(Evaluator))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        match args.get_input_field(0).map(|field| field.data_type().clone()) {
            Some(time @ DataType::Timestamp(_, _)) => {
                Ok(Arc::new(Field::new(args.name(), DataType::Struct(fields(&time)), true)))
            }
            other => plan_err!("SESSION needs a TIMESTAMP column, got {other:?}"),
        }
    }

    fn limit_effect(&self, _: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        LimitEffect::Unknown
    }
}

#[derive(Debug)]
struct Evaluator;

impl PartitionEvaluator for Evaluator {
    fn evaluate_all(&mut self, values: &[ArrayRef], _: usize) -> Result<ArrayRef> {
        let (DataType::Timestamp(unit, _), Some(gaps)) =
            (values[0].data_type(), values[1].as_primitive_opt::<Int64Type>())
        else {
            return exec_err!("SESSION needs a TIMESTAMP column and a gap");
        };
        let gap = gap_in(*unit, if gaps.is_empty() { 0 } else { gaps.value(0) });
        let times = cast(&values[0], &DataType::Int64)?;
        let times = times.as_primitive::<Int64Type>().values();
        let mut bounds = Vec::with_capacity(times.len());
        for session in times.chunk_by(|a, b| b.saturating_sub(*a) <= gap) {
            if let (Some(first), Some(last)) = (session.first(), session.last()) {
                bounds.extend(std::iter::repeat_n((*first, *last), session.len()));
            }
        }
        windows(&bounds, values[0].data_type(), gap)
    }
}

/// Returns the gap in units of the time column.
pub fn gap_in(unit: TimeUnit, gap_ms: i64) -> i64 {
    (gap_ms as i128 * per_second(unit) as i128 / 1_000) as i64
}

/// Returns the windows of sessions with these first and last times, as structs of the type `time`. `gap` is in its unit.
pub fn windows(bounds: &[(i64, i64)], time: &DataType, gap: i64) -> Result<ArrayRef> {
    let DataType::Timestamp(unit, _) = time else { return exec_err!("SESSION needs a TIMESTAMP column, got {time}") };
    let millisecond = (per_second(*unit) / 1_000).max(i64::from(*unit != TimeUnit::Second));
    let column = |of: &dyn Fn((i64, i64)) -> i64| -> Result<ArrayRef> {
        let values: Int64Array = bounds.iter().map(|bounds| Some(of(*bounds))).collect();
        Ok(cast(&values, time)?)
    };
    let columns = vec![
        column(&|(start, _)| start)?,
        column(&|(_, last)| last.saturating_add(gap))?,
        column(&|(_, last)| last.saturating_add(gap) - millisecond)?,
    ];
    Ok(Arc::new(StructArray::try_new(fields(time), columns, None)?))
}
