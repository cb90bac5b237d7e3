//! `x NOT IN (SELECT y …)` with NULLs among the `x` or the `y`.
//!
//! Owns: its rewriting to an anti join and a count of the `y`. Does not own: joins and aggregates.

use datafusion::common::{JoinType, Result};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, ident, lit};

/// Rewrites `x NOT IN (SELECT y …)` with SQL's meaning of NULL: if there is no `y`, all rows pass; else rows without a match
/// whose `x` is not NULL pass, unless some `y` is NULL. `None` if the join has another form.
pub fn rewrite(join: &Join) -> Result<Option<LogicalPlan>> {
    let ([(x, y)], None, JoinType::LeftAnti) = (join.on.as_slice(), &join.filter, join.join_type) else {
        return Ok(None);
    };
    let counts = [count(lit(1)).alias("__hw_rows"), count(y.clone()).alias("__hw_values")];
    let counts =
        LogicalPlanBuilder::from(join.right.as_ref().clone()).aggregate(Vec::<Expr>::new(), counts)?.build()?;
    let anti = LogicalPlan::Join(Join { null_aware: false, ..join.clone() });
    let left: Vec<Expr> = join.left.schema().iter().map(Expr::from).collect();
    let none_is_null = ident("__hw_rows").eq(ident("__hw_values")).and(x.clone().is_not_null());
    let condition = ident("__hw_rows").eq(lit(0i64)).or(none_is_null);
    LogicalPlanBuilder::from(anti).cross_join(counts)?.filter(condition)?.project(left)?.build().map(Some)
}
