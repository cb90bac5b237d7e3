//! DataFusion's pushing down of filters, held above totals.
//!
//! Owns: where a filter stops. Does not own: pushing. Invariant: no condition goes below an aggregate that has a row
//! without any input: there even one that is never true would leave that row, since a constant passes as a condition
//! on the groups (DataFusion relies on having folded it away before).

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan};
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

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
        let is_held = matches!(filter.input.as_ref(), LogicalPlan::Aggregate(aggregate) if has_total(aggregate));
        let plan = LogicalPlan::Filter(filter);
        if is_held { Ok(Transformed::no(plan)) } else { self.0.rewrite(plan, config) }
    }
}

/// One of its groups is that of all rows.
fn has_total(aggregate: &Aggregate) -> bool {
    match aggregate.group_expr.as_slice() {
        [] => true,
        [Expr::GroupingSet(GroupingSet::Rollup(_) | GroupingSet::Cube(_))] => true,
        [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => sets.iter().any(Vec::is_empty),
        _ => false,
    }
}
