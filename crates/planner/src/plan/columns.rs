//! Rows of which no column is asked for.
//!
//! Owns: a column for them, since a batch is as long as its columns, and joins keep rows by what they hold.
//! Does not own: which columns are asked for (DataFusion). Invariant: after it only a relation of one row of nothing
//! (`SELECT` without FROM) has no column.

use super::table::Stream;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, TableScan, lit};
use std::sync::Arc;

/// How the columns given here begin.
const ROW: &str = "__hw_row_";

/// Gives every node that has lost its last column one that is always true.
pub fn keep_one(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut names = 0;
    let mut column = || -> Expr {
        names += 1;
        lit(true).alias(format!("{ROW}{names}"))
    };
    let kept = plan.transform_up(|node| match node {
        LogicalPlan::TableScan(scan) if scan.projection.as_ref().is_some_and(Vec::is_empty) => {
            let read = cheapest(&scan);
            let scan = TableScanBuilder::new(scan.table_name, scan.source)
                .with_projection(Some(vec![read]))
                .with_filters(scan.filters)
                .with_fetch(scan.fetch)
                .build()?;
            let projection = Projection::try_new(vec![column()], Arc::new(LogicalPlan::TableScan(scan)))?;
            Ok(Transformed::yes(LogicalPlan::Projection(projection)))
        }
        LogicalPlan::Projection(projection) if projection.expr.is_empty() && !is_nothing(&projection.input) => {
            Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(vec![column()], projection.input)?)))
        }
        // The one node that knows columns by their places.
        LogicalPlan::Union(mut union) => {
            let width = union.schema.fields().len();
            for input in &mut union.inputs {
                *input = Arc::new(as_wide(input.as_ref(), width)?);
            }
            Ok(Transformed::yes(LogicalPlan::Union(union).recompute_schema()?))
        }
        other => Ok(Transformed::yes(other.recompute_schema()?)),
    });
    Ok(kept?.data)
}

/// A column to count rows by: of a keyed table one that is read anyway.
fn cheapest(scan: &TableScan) -> usize {
    let table = scan.source.downcast_ref::<Stream>().map(|stream| &stream.table);
    let key = table.and_then(|table| Some((table, table.def.primary_key.as_ref()?.columns.first()?)));
    key.and_then(|(table, name)| table.schema.index_of(&name.text).ok()).unwrap_or(0)
}

/// Without the columns given here, unless there is no other.
fn as_wide(input: &LogicalPlan, width: usize) -> Result<LogicalPlan> {
    if input.schema().fields().len() == width.max(1) {
        return Ok(input.clone());
    }
    let asked = input.schema().iter().filter(|(_, field)| width == 0 || !field.name().starts_with(ROW));
    let columns = asked.map(Expr::from).take(width.max(1)).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(input.clone()))?))
}

/// One row without columns, from nowhere.
fn is_nothing(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::EmptyRelation(empty) => empty.schema.fields().is_empty(),
        LogicalPlan::SubqueryAlias(alias) => is_nothing(&alias.input),
        LogicalPlan::Projection(projection) => projection.expr.is_empty() && is_nothing(&projection.input),
        _ => false,
    }
}
