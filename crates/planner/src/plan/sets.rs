//! Set operations and comparisons that DataFusion plans with another meaning.
//!
//! Owns: `INTERSECT ALL` and `EXCEPT ALL`, which DataFusion plans as joins that do not count equal rows; and
//! `ANY` and `ALL` over a subquery of the same table, whose columns it would take for those of the outer row.
//! Does not own: turning either into joins. Invariant: runs on analyzed plans before optimizing.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{NullEquality, Result};
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::{SetComparison, WindowFunction};
use datafusion::logical_expr::{
    Distinct, Expr, ExprFunctionExt, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Subquery, ident,
};
use std::sync::Arc;

/// Rewrites one node. `names` is the number of names given to subqueries so far.
pub fn rewrite(plan: LogicalPlan, names: &mut usize) -> Result<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Join(join) if counts(&join) => Ok(Transformed::yes(numbered(join)?)),
        plan => plan.map_expressions(|expr| expr.transform_up(|expr| named(expr, names))),
    }
}

/// True for `INTERSECT ALL` and `EXCEPT ALL`. Without ALL, DataFusion makes the left side distinct first.
fn counts(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && join.filter.is_none()
        && !join.on.is_empty()
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(Distinct::All(_)))
}

/// Numbers equal rows on both sides, and joins by number, too: the first of equal rows meets the first, and so on.
fn numbered(join: Join) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = join.left.schema().iter().map(Expr::from).collect();
    let [left, right] = [number(&join.left, "__hw_left_nth")?, number(&join.right, "__hw_right_nth")?];
    let mut on = join.on;
    on.push((ident("__hw_left_nth"), ident("__hw_right_nth")));
    let join = Join::try_new(
        Arc::new(left),
        Arc::new(right),
        on,
        None,
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?;
    LogicalPlanBuilder::from(LogicalPlan::Join(join)).project(columns)?.build()
}

fn number(side: &LogicalPlan, name: &str) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = side.schema().iter().map(Expr::from).collect();
    let order = columns.iter().map(|column| column.clone().sort(true, true)).collect();
    let number = Expr::from(WindowFunction::new(row_number_udwf(), Vec::new()))
        .partition_by(columns)
        .order_by(order)
        .build()?
        .alias(name);
    LogicalPlanBuilder::from(side.clone()).window(vec![number])?.build()
}

fn named(expr: Expr, names: &mut usize) -> Result<Transformed<Expr>> {
    let Expr::SetComparison(comparison) = expr else { return Ok(Transformed::no(expr)) };
    let SetComparison { expr, subquery, op, quantifier } = comparison;
    *names += 1;
    let plan = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone()).alias(format!("__hw_compared_{names}"))?;
    let subquery = Subquery { subquery: Arc::new(plan.build()?), ..subquery };
    Ok(Transformed::yes(Expr::SetComparison(SetComparison { expr, subquery, op, quantifier })))
}
