//! Partitions and order of rows, for functions OVER them.

use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// The keys that partition rows, and the order within a partition.
pub struct Parts<'a> {
    pub input: &'a LogicalPlan,
    pub partition: &'a [Expr],
    pub order: &'a [SortExpr],
}
