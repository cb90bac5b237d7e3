//! Compiles logical expressions to physical ones.
//!
//! Owns: DataFusion's arguments for that, and trying out the result. Does not own: the expressions.

use super::errors::sql_error;
use super::sliding::over_any_frame;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, WindowFunctionDefinition};
use datafusion::physical_expr::aggregate::{LoweredAggregate, LoweredAggregateBuilder};
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_planner::create_window_expr;
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_expressions::{any_fails, guarded};
use highwater_functions::bounds::all_bounded;
use highwater_sql::error::SqlError;
use highwater_sql::limits::check_expr;
use std::sync::Arc;

/// Compiles an expression over rows of `input`. Evaluates it once, since some functions refuse argument types only when they
/// run.
pub fn expr(logical: &Expr, input: &DFSchema, at: Location) -> Result<Arc<dyn PhysicalExpr>, SqlError> {
    check_expr(logical, at)?;
    let logical = &within_bounds(logical, at)?;
    create_physical_expr(logical, input, &ExecutionProps::new(), &PhysicalPlanningContext::default())
        .and_then(|expr| {
            try_out(input, |rows| expr.evaluate(rows).map(drop))?;
            guarded(expr, input.as_arrow())
        })
        .map_err(|error| sql_error(error, at))
}

/// Compiles an aggregate function over rows of `input`, with its FILTER.
pub fn aggregate(logical: &Expr, input: &DFSchema, at: Location) -> Result<LoweredAggregate, SqlError> {
    check_expr(logical, at)?;
    let logical = &within_bounds(logical, at)?;
    let (props, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
    let built = LoweredAggregateBuilder::new(logical, input, input.as_arrow(), &props, &context).build();
    let guarded = built.and_then(|built| guarded_aggregate(built, input.as_arrow()));
    guarded.map_err(|error| sql_error(error, at))
}

fn guarded_aggregate(mut built: LoweredAggregate, input: &Schema) -> datafusion::common::Result<LoweredAggregate> {
    if let Some(filter) = built.filter.take() {
        built.filter = Some(guarded(filter, input)?);
    }
    for sort in &mut built.order_bys {
        sort.expr = guarded(sort.expr.clone(), input)?;
    }
    let args = built.aggregate.expressions();
    let order: Vec<_> = built.aggregate.order_bys().iter().map(|sort| sort.expr.clone()).collect();
    if args.iter().chain(&order).any(|expr| any_fails(expr, input)) {
        let all = |exprs: Vec<_>| exprs.into_iter().map(|expr| guarded(expr, input)).collect::<Result<Vec<_>, _>>();
        if let Some(aggregate) = built.aggregate.with_new_expressions(all(args)?, all(order)?) {
            built.aggregate = aggregate.into();
        }
    }
    Ok(built)
}

/// Compiles a function OVER rows of `input`. Aggregates are evaluated once, as expressions are.
pub fn window(logical: &Expr, input: &DFSchema, at: Location) -> Result<Arc<dyn WindowExpr>, SqlError> {
    check_expr(logical, at)?;
    let logical = over_any_frame(within_bounds(logical, at)?);
    let call = logical.clone().unalias();
    let is_aggregate =
        matches!(&call, Expr::WindowFunction(call) if matches!(call.fun, WindowFunctionDefinition::AggregateUDF(_)));
    create_window_expr(&logical, input, &ExecutionProps::new(), &PhysicalPlanningContext::default())
        .and_then(|window| {
            if is_aggregate {
                try_out(input, |rows| window.evaluate(rows).map(drop))?;
            }
            Ok(window)
        })
        .map_err(|error| sql_error(error, at))
}

/// Adds size checks to the calls of an expression.
fn within_bounds(logical: &Expr, at: Location) -> Result<Expr, SqlError> {
    all_bounded(logical.clone()).map_err(|error| sql_error(error, at))
}

/// Evaluates `over` on a row of NULLs and, if that fails, on no row. If both fail, it would fail on every row. Errors of
/// values are no failure: constants are computed here even in a branch that no row may reach.
fn try_out(
    input: &DFSchema,
    over: impl Fn(&RecordBatch) -> datafusion::common::Result<()>,
) -> datafusion::common::Result<()> {
    let nullable = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
    let schema = Arc::new(Schema::new(input.fields().iter().map(nullable).collect::<Vec<_>>()));
    let nulls = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    let one = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(schema.clone(), nulls, &one)?;
    let tried = over(&row).or_else(|_| over(&RecordBatch::new_empty(schema)));
    tried.or_else(|error| if is_of_values(&error) { Ok(()) } else { Err(error) })
}

fn is_of_values(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::ArrowError(error, _) => matches!(
            error.as_ref(),
            ArrowError::DivideByZero
                | ArrowError::CastError(_)
                | ArrowError::ParseError(_)
                | ArrowError::ArithmeticOverflow(_)
        ),
        _ => false,
    }
}
