//! DataFusion's rule that pushes filters down, stopped above totals.
//!
//! Owns: where a filter stops. Does not own: pushing. Invariants: no condition grows beyond a limit; none goes below an
//! aggregate that has a row even without input: pushed below, a condition that is never true would not remove that row.
//! DataFusion pushes constants, too, since it takes them for conditions on the groups.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan, Projection};
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// Most nodes of a condition that is pushed below a projection.
const MOST: usize = 20_000;

#[derive(Debug, Default)]
pub struct PushDown(PushDownFilter);

impl OptimizerRule for PushDown {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = plan else { return self.0.rewrite(plan, config) };
        if matches!(filter.predicate, Expr::Literal(ScalarValue::Boolean(Some(true)), _)) {
            return Ok(Transformed::yes(filter.input.as_ref().clone()));
        }
        let is_held = match filter.input.as_ref() {
            LogicalPlan::Aggregate(aggregate) => has_total(aggregate),
            LogicalPlan::Projection(below) => grows_too_large(&filter.predicate, below),
            _ => false,
        };
        let plan = LogicalPlan::Filter(filter);
        if is_held { Ok(Transformed::no(plan)) } else { self.0.rewrite(plan, config) }
    }
}

/// True if pushing makes the condition too large: columns are replaced by their expressions, so its size may double with
/// each projection.
fn grows_too_large(predicate: &Expr, below: &Projection) -> bool {
    let named = predicate.column_refs_counts().into_iter();
    let sizes = named.map(|(column, times)| {
        let expr = below.schema.maybe_index_of_column(column).and_then(|index| below.expr.get(index));
        times.saturating_mul(expr.map_or(1, |expr| size(expr, MOST)))
    });
    sizes.fold(size(predicate, MOST), usize::saturating_add) > MOST
}

/// Returns the number of nodes of an expression; counting stops at `most`.
fn size(expr: &Expr, most: usize) -> usize {
    let mut parts = 0;
    // The closure never fails, so neither does the walk.
    let _ = expr.apply(|_| {
        parts += 1;
        Ok(if parts < most { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    parts
}

/// True if the group of all rows is one of the groups.
fn has_total(aggregate: &Aggregate) -> bool {
    match aggregate.group_expr.as_slice() {
        [] => true,
        [Expr::GroupingSet(GroupingSet::Rollup(_) | GroupingSet::Cube(_))] => true,
        [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => sets.iter().any(Vec::is_empty),
        _ => false,
    }
}
