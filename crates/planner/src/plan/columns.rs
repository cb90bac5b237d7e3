//! Relations of which no column is used.
//!
//! Owns: adding a column to them, since a batch takes its number of rows from its columns, and joins store rows by their
//! values. Does not own: which columns are used (DataFusion). Invariant: afterwards only the relation of a `SELECT` without
//! FROM has no column.

use super::table::Stream;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, TableScan, lit};
use std::sync::Arc;

/// Prefix of the added columns.
const ROW: &str = "__hw_row_";

/// Adds a column that is always true to every node without columns.
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
        // UNION matches columns by place, so its inputs need the same number of them.
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

/// Returns the column to read if none is used: for a keyed table a column of the key, which is read anyway.
fn cheapest(scan: &TableScan) -> usize {
    let table = scan.source.downcast_ref::<Stream>().map(|stream| &stream.table);
    let key = table.and_then(|table| Some((table, table.def.primary_key.as_ref()?.columns.first()?)));
    key.and_then(|(table, name)| table.schema.index_of(&name.text).ok()).unwrap_or(0)
}

/// Makes an input `width` columns wide by leaving out columns that were added here; at least one column stays.
fn as_wide(input: &LogicalPlan, width: usize) -> Result<LogicalPlan> {
    if input.schema().fields().len() == width.max(1) {
        return Ok(input.clone());
    }
    let asked = input.schema().iter().filter(|(_, field)| width == 0 || !field.name().starts_with(ROW));
    let columns = asked.map(Expr::from).take(width.max(1)).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(input.clone()))?))
}

/// True for the input of a SELECT without FROM: one row without columns.
fn is_nothing(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::EmptyRelation(empty) => empty.schema.fields().is_empty(),
        LogicalPlan::SubqueryAlias(alias) => is_nothing(&alias.input),
        LogicalPlan::Projection(projection) => projection.expr.is_empty() && is_nothing(&projection.input),
        _ => false,
    }
}
