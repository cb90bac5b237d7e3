//! DataFusion's analyzer and the optimizer rules that keep a plan incremental.
//!
//! Owns: the choice of rules. Does not own: any rule. Invariant: no rule here adds a join, a sort, a limit
//! or a second aggregate, or removes a branch; volatile expressions (the batch clock) are never folded.

use super::errors::sql_error;
use crate::sql::error::SqlError;
use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimize_unions::OptimizeUnions;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Analyzer, Optimizer, OptimizerContext};
use datafusion::sql::sqlparser::tokenizer::Location;
use std::sync::Arc;

/// Resolves types, so that the schema of the plan is what its rows will be.
pub fn analyze(plan: LogicalPlan, config: &ConfigOptions, at: Location) -> Result<LogicalPlan, SqlError> {
    Analyzer::new().execute_and_check(plan, config, |_, _| {}).map_err(|error| sql_error(error, at))
}

/// Resolves types, then simplifies, pushes filters down and drops what nobody reads.
pub fn optimize(plan: LogicalPlan, config: &ConfigOptions, at: Location) -> Result<LogicalPlan, SqlError> {
    let analyzed = analyze(plan, config, at)?;
    let rules = Optimizer::with_rules(vec![
        Arc::new(OptimizeUnions::new()),
        Arc::new(SimplifyExpressions::new()),
        Arc::new(ReplaceDistinctWithAggregate::new()),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(OptimizeProjections::new()),
    ]);
    let context = OptimizerContext::new_with_config_options(Arc::new(config.clone()))
        .without_query_execution_start_time()
        .with_skip_failing_rules(false);
    rules.optimize(analyzed, &context, |_, _| {}).map_err(|error| sql_error(error, at))
}
