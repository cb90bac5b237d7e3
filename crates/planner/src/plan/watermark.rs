//! Checks and compiles `WATERMARK FOR column AS expr`.
//!
//! Owns: which watermark expressions are allowed. Does not own: folding their values (protocol), closing windows.
//! Invariant: the expression is a function of one row alone and gives a timestamp.

use super::catalog::Catalog;
use super::derived::over_scan;
use super::errors::sql_error;
use super::physical;
use super::table::Table;
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Analyzer, Optimizer, OptimizerContext};
use datafusion::physical_expr::PhysicalExpr;
use highwater_sql::error::{Result, SqlError};
use highwater_sql::refuse::refuse_unsupported;
use highwater_sql::table_def::Watermark;
use highwater_sql::types::type_name;
use std::sync::Arc;

/// A compiled watermark expression.
pub struct CompiledWatermark {
    /// Expression over the table's whole schema that evaluates to `Timestamp(Millisecond)`.
    pub expr: Arc<dyn PhysicalExpr>,
    /// Columns of the schema that it reads.
    pub columns: Vec<usize>,
}

/// Checks and compiles a table's watermark, if it declares one.
pub fn compile(catalog: &Catalog, table: &Arc<Table>) -> Result<Option<CompiledWatermark>> {
    let Some(watermark) = &table.def.watermark else { return Ok(None) };
    let name = &watermark.column.text;
    let rows = catalog.rows_of(table).map_err(|error| sql_error(error, watermark.column.at))?;
    let field = rows.schema().field_with_unqualified_name(name).map_err(|_| {
        SqlError::at(watermark.column.at, format!("table '{}' has no column '{name}'", table.def.name.text))
    })?;
    if !matches!(field.data_type(), DataType::Timestamp(_, _)) {
        return Err(SqlError::at(
            watermark.column.at,
            format!("WATERMARK FOR needs a TIMESTAMP column, and '{name}' is {}", type_name(field.data_type())),
        )
        .hint("declare it TIMESTAMP(3): ISO text and epoch milliseconds are both read"));
    }
    let plan = plan_over_table(catalog, &rows, watermark)?;
    let LogicalPlan::Projection(projection) = &plan else {
        return Err(SqlError::at(watermark.at, "this watermark expression is not supported in streaming yet"));
    };
    let Some(expr) = projection.expr.first() else {
        return Err(SqlError::at(watermark.at, "the watermark expression is empty"));
    };
    let schema = projection.input.schema();
    let columns = expr.column_refs().into_iter().filter_map(|column| schema.maybe_index_of_column(column)).collect();
    Ok(Some(CompiledWatermark { expr: physical::expr(expr, schema, watermark.at)?, columns }))
}

fn plan_over_table(catalog: &Catalog, rows: &LogicalPlan, watermark: &Watermark) -> Result<LogicalPlan> {
    let at = watermark.at;
    refuse_unsupported(&watermark.expr, catalog.functions())?;
    let located = |error| sql_error(error, at);
    let expr = catalog.plan_expr(watermark.expr.clone(), rows.schema(), at)?;
    let (expr, scan) = over_scan(expr, rows).map_err(located)?;
    let scan = LogicalPlanBuilder::from(scan.clone());
    if expr.is_volatile() || expr.exists(|e| Ok(matches!(e, Expr::AggregateFunction(_)))).map_err(located)? {
        return Err(SqlError::at(at, "a watermark is a function of its row alone")
            .hint("write WATERMARK FOR ts AS ts - INTERVAL '5' SECOND"));
    }
    let data_type = expr.get_type(scan.schema()).map_err(located)?;
    if !matches!(data_type, DataType::Timestamp(_, _)) {
        return Err(SqlError::at(
            at,
            format!("a watermark is a TIMESTAMP, and this expression is {}", type_name(&data_type)),
        )
        .hint("write WATERMARK FOR ts AS ts - INTERVAL '5' SECOND"));
    }
    let expr = match data_type {
        DataType::Timestamp(TimeUnit::Millisecond, _) => expr,
        _ => cast(expr, DataType::Timestamp(TimeUnit::Millisecond, None)),
    };
    let plan = scan.project([expr.alias("watermark")]).and_then(LogicalPlanBuilder::build).map_err(located)?;
    let plan = Analyzer::new().execute_and_check(plan, catalog.config(), |_, _| {}).map_err(located)?;
    let context = OptimizerContext::new_with_config_options(Arc::new(catalog.config().clone()))
        .without_query_execution_start_time();
    Optimizer::with_rules(vec![Arc::new(SimplifyExpressions::new())])
        .optimize(plan, &context, |_, _| {})
        .map_err(located)
}
