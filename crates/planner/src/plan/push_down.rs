//! DataFusion's rule that pushes filters down, stopped above totals.
//!
//! Owns: where a filter stops. Does not own: pushing. Invariants: no condition grows beyond a limit; one that may fail
//! sees only the rows that it would see in its original place, so it stays above joins and other filters; none goes below
//! an aggregate that has a row even without input: pushed below, a condition that is never true would not remove that row.
//! DataFusion pushes constants, too, since it takes them for conditions on the groups.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Expr, Filter, GroupingSet, Join, JoinType, LogicalPlan, Operator, Projection,
};
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use highwater_expressions::can_fail;
use std::sync::Arc;

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
        let filter = match plan {
            LogicalPlan::Filter(filter) => filter,
            LogicalPlan::Join(join) => return self.join(join, config),
            other => return self.0.rewrite(other, config),
        };
        if matches!(filter.predicate, Expr::Literal(ScalarValue::Boolean(Some(true)), _)) {
            return Ok(Transformed::yes(filter.input.as_ref().clone()));
        }
        let is_held = match filter.input.as_ref() {
            LogicalPlan::Aggregate(aggregate) => has_total(aggregate),
            LogicalPlan::Projection(below) => grows_too_large(&filter.predicate, below),
            _ => false,
        };
        if is_held {
            return Ok(Transformed::no(LogicalPlan::Filter(filter)));
        }
        if !may_drop_rows(&filter.input) {
            return self.0.rewrite(LogicalPlan::Filter(filter), config);
        }
        let (mut safe, held) = by_safety(&filter.predicate, filter.input.schema());
        let held = match filter.input.as_ref() {
            LogicalPlan::Join(join) => without_keys(join, held, &mut safe),
            _ => held,
        };
        let (safe, held) = match (conjunction(safe), conjunction(held)) {
            (_, None) => return self.0.rewrite(LogicalPlan::Filter(filter), config),
            (None, Some(_)) => return Ok(Transformed::no(LogicalPlan::Filter(filter))),
            (Some(safe), Some(held)) => (safe, held),
        };
        let pushed = self.0.rewrite(LogicalPlan::Filter(Filter::try_new(safe, filter.input.clone())?), config)?;
        // Nothing was pushed. A changed plan would make the optimizer try again and again.
        if !pushed.transformed {
            return Ok(Transformed::no(LogicalPlan::Filter(filter)));
        }
        Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(held, Arc::new(pushed.data))?)))
    }
}

impl PushDown {
    /// Rewrites a join. Conditions that may fail are evaluated only for rows that pass the others, so they stay at the join
    /// (outer joins) or above it (inner joins).
    fn join(&self, join: Join, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let Some(filter) = &join.filter else { return self.0.rewrite(LogicalPlan::Join(join), config) };
        let (mut safe, held) = by_safety(filter, &join.left.schema().join(join.right.schema())?);
        let held = without_keys(&join, held, &mut safe);
        let Some(held) = conjunction(held) else { return self.0.rewrite(LogicalPlan::Join(join), config) };
        let is_inner = join.join_type == JoinType::Inner;
        if safe.is_empty() && !is_inner {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        let before = LogicalPlan::Join(join.clone());
        let pushed = self.0.rewrite(LogicalPlan::Join(Join { filter: conjunction(safe), ..join }), config)?;
        match pushed.data {
            plan if is_inner => Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(held, Arc::new(plan))?))),
            LogicalPlan::Join(mut join) => {
                join.filter = Some(join.filter.take().map_or(held.clone(), |filter| filter.and(held)));
                Ok(Transformed::new_transformed(LogicalPlan::Join(join), pushed.transformed))
            }
            _ => Ok(Transformed::no(before)),
        }
    }
}

/// Moves the equalities of one side with the other to `safe`: as keys of the join, they are computed for the rows of a side.
/// Held above the join, they would leave it without keys.
fn without_keys(join: &Join, held: Vec<Expr>, safe: &mut Vec<Expr>) -> Vec<Expr> {
    let is_of = |expr: &Expr, side: &LogicalPlan| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.into_iter().all(|column| side.schema().has_column(column))
    };
    let is_key = |part: &Expr| match part {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            is_of(left, &join.left) && is_of(right, &join.right) || is_of(left, &join.right) && is_of(right, &join.left)
        }
        _ => false,
    };
    let (keys, held): (Vec<Expr>, Vec<Expr>) = held.into_iter().partition(is_key);
    safe.extend(keys);
    held
}

/// True if the node drops rows of its input, which a condition that may fail must not see.
fn may_drop_rows(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Join(_) | LogicalPlan::Filter(_) | LogicalPlan::Aggregate(_))
}

/// Splits a condition into the parts that cannot fail, and those that may, each in their order.
pub fn by_safety(predicate: &Expr, schema: &DFSchema) -> (Vec<Expr>, Vec<Expr>) {
    split_conjunction(predicate).into_iter().cloned().partition(|part| !can_fail(part, schema))
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
