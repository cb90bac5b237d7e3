//! DataFusion's analyzer and the optimizer rules that keep a plan incremental.
//!
//! Owns: the choice of rules. Does not own: any rule. Invariant: no rule here adds a join, a sort, a limit
//! or a second aggregate, or removes a branch; volatile expressions (the batch clock) are never folded.

use super::as_of::FilterRowsFirst;
use super::errors::sql_error;
use super::push_down::PushDown;
use datafusion::common::Result as DataFusionResult;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    Distinct, Expr, ExprFunctionExt, Filter, LogicalPlanBuilder, Projection, Sort, ident, lit,
};
use datafusion::optimizer::decorrelate_lateral_join::DecorrelateLateralJoin;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimize_unions::OptimizeUnions;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::rewrite_set_comparison::RewriteSetComparison;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Analyzer, Optimizer, OptimizerContext};
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_sql::error::SqlError;
use std::sync::Arc;

/// The column with the rank for `DISTINCT ON`.
const RANK: &str = "__hw_rank";

/// Resolves types, so that the plan has the schema of its rows.
pub fn analyze(plan: LogicalPlan, config: &ConfigOptions, at: Location) -> Result<LogicalPlan, SqlError> {
    let check = |plan| Analyzer::new().execute_and_check(plan, config, |_, _| {});
    let steady = plan.transform_up_with_subqueries(order_sort_columns).map_err(|error| sql_error(error, at))?;
    let lifted = steady.data.transform_up_with_subqueries(super::subqueries::lift_from_windows);
    let ordered = lifted.and_then(|plan| highwater_expressions::order_by_length(plan.data));
    let ordered = ordered.map_err(|error| sql_error(error, at))?.data;
    let analyzed =
        check(ordered).and_then(super::constants::literal_arguments).and_then(|folded| match folded.transformed {
            true => check(folded.data),
            false => Ok(folded.data),
        });
    let analyzed = analyzed.and_then(|plan| highwater_expressions::exact(plan).map(|exact| exact.data));
    analyzed.map_err(|error| sql_error(error, at))
}

/// Resolves types, then simplifies, pushes filters down and prunes unused columns.
pub fn optimize(plan: LogicalPlan, config: &ConfigOptions, at: Location) -> Result<LogicalPlan, SqlError> {
    let analyzed = analyze(plan, config, at)?;
    super::subqueries::check_single(&analyzed, at)?;
    let context = OptimizerContext::new_with_config_options(Arc::new(config.clone()))
        .without_query_execution_start_time()
        .with_skip_failing_rules(false);
    let located = |error| sql_error(error, at);
    let mut names = 0;
    let counted = analyzed.transform_up_with_subqueries(|plan| super::sets::rewrite(plan, &mut names));
    let analyzed = counted.map_err(located)?.data;
    // Runs before the other rules, which would make mark joins of its result.
    let comparisons = Optimizer::with_rules(vec![Arc::new(RewriteSetComparison::new())]);
    let analyzed = comparisons.optimize(analyzed, &context, |_, _| {}).map_err(located)?;
    let rewritten = analyzed.transform_up_with_subqueries(distinct_on);
    let rewritten = rewritten.and_then(|plan| plan.data.transform_up_with_subqueries(super::lateral::inline));
    let rewritten = rewritten
        .and_then(|plan| plan.data.transform_up_with_subqueries(|plan| super::subqueries::rewrite(plan, &mut names)));
    let analyzed = rewritten.map_err(located)?.data;
    let rules = Optimizer::with_rules(vec![
        Arc::new(OptimizeUnions::new()),
        Arc::new(SimplifyExpressions::new()),
        Arc::new(ReplaceDistinctWithAggregate::new()),
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(DecorrelateLateralJoin::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(EliminateOuterJoin::new()),
        Arc::new(PushDown::default()),
        Arc::new(FilterRowsFirst),
        Arc::new(OptimizeProjections::new()),
    ]);
    let optimized = rules.optimize(analyzed, &context, |_, _| {});
    let limited = optimized.and_then(|plan| plan.transform_up(limit_ranks_first).map(|plan| plan.data));
    limited.and_then(super::columns::keep_one).map_err(located)
}

/// Moves a filter on ranks below a projection that only drops columns, so that the filter is recognized as a limit.
fn limit_ranks_first(plan: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Filter(filter) = &plan else { return Ok(Transformed::no(plan)) };
    let LogicalPlan::Projection(projection) = filter.input.as_ref() else { return Ok(Transformed::no(plan)) };
    let only_drops = projection.expr.iter().all(|expr| matches!(expr, Expr::Column(_)));
    if !only_drops || !matches!(projection.input.as_ref(), LogicalPlan::Window(_)) {
        return Ok(Transformed::no(plan));
    }
    let below = LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), projection.input.clone())?);
    let projection = Projection::try_new(projection.expr.clone(), Arc::new(below))?;
    Ok(Transformed::yes(LogicalPlan::Projection(projection)))
}

/// Orders the columns that the planner adds below ORDER BY: it takes them from a set whose order changes with every process,
/// but plans of one script are the same everywhere.
fn order_sort_columns(plan: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Projection(shown) = &plan else { return Ok(Transformed::no(plan)) };
    let LogicalPlan::Sort(sort) = shown.input.as_ref() else { return Ok(Transformed::no(plan)) };
    let LogicalPlan::Projection(below) = sort.input.as_ref() else { return Ok(Transformed::no(plan)) };
    let mut exprs = below.expr.clone();
    let Some(added) = exprs.get_mut(shown.expr.len()..).filter(|added| added.len() > 1) else {
        return Ok(Transformed::no(plan));
    };
    added.sort_by_cached_key(|expr| expr.to_string());
    let below = LogicalPlan::Projection(Projection::try_new(exprs, below.input.clone())?);
    let sort = LogicalPlan::Sort(Sort { input: Arc::new(below), ..sort.clone() });
    let shown = Projection::try_new(shown.expr.clone(), Arc::new(sort))?;
    Ok(Transformed::yes(LogicalPlan::Projection(shown)))
}

/// Rewrites `DISTINCT ON`, which keeps the first row of each key, to a rank with a limit of one. DataFusion's own rewrite to
/// `first_value` would choose the row column by column.
fn distinct_on(plan: LogicalPlan) -> DataFusionResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Distinct(Distinct::On(node)) = plan else { return Ok(Transformed::no(plan)) };
    let rank = Expr::from(WindowFunction::new(row_number_udwf(), Vec::new()))
        .partition_by(node.on_expr.clone())
        .order_by(node.sort_expr.clone().unwrap_or_default())
        .build()?
        .alias(RANK);
    let names: Vec<Expr> = (node.schema.iter().zip(&node.select_expr))
        .map(|((qualifier, field), expr)| expr.clone().unalias().alias_qualified(qualifier.cloned(), field.name()))
        .collect();
    let ranked = LogicalPlanBuilder::from(node.input.as_ref().clone()).window(vec![rank])?;
    let plan = ranked.filter(ident(RANK).eq(lit(1u64)))?.project(names)?.build()?;
    Ok(Transformed::yes(plan))
}
