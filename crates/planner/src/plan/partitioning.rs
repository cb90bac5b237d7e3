//! How rows are brought together, for functions over them.

use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// What rows are brought together by, and in which order.
pub struct Parts<'a> {
    pub input: &'a LogicalPlan,
    pub partition: &'a [Expr],
    pub order: &'a [SortExpr],
}
