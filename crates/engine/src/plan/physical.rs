//! Logical expressions become expressions that run.
//!
//! Owns: the few arguments DataFusion wants for that. Does not own: which expressions there are.

use super::errors::sql_error;
use super::sliding::over_any_frame;
use crate::sql::error::Result;
use datafusion::common::DFSchema;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::aggregate::{LoweredAggregate, LoweredAggregateBuilder};
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_planner::create_window_expr;
use datafusion::sql::sqlparser::tokenizer::Location;
use std::sync::Arc;

/// An expression over rows of `input`.
pub fn expr(logical: &Expr, input: &DFSchema, at: Location) -> Result<Arc<dyn PhysicalExpr>> {
    create_physical_expr(logical, input, &ExecutionProps::new(), &PhysicalPlanningContext::default())
        .map_err(|error| sql_error(error, at))
}

/// An aggregate function over rows of `input`, with its FILTER.
pub fn aggregate(logical: &Expr, input: &DFSchema, at: Location) -> Result<LoweredAggregate> {
    let (props, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
    LoweredAggregateBuilder::new(logical, input, input.as_arrow(), &props, &context)
        .build()
        .map_err(|error| sql_error(error, at))
}

/// A function OVER rows of `input`.
pub fn window(logical: &Expr, input: &DFSchema, at: Location) -> Result<Arc<dyn WindowExpr>> {
    let logical = over_any_frame(logical.clone());
    create_window_expr(&logical, input, &ExecutionProps::new(), &PhysicalPlanningContext::default())
        .map_err(|error| sql_error(error, at))
}
