//! `t CROSS JOIN UNNEST(t.list)`: values that depend on one row alone become columns of that row.
//!
//! Owns: turning a lateral join whose subquery reads no table into projections and UNNEST over the left side.
//! Does not own: lateral joins over tables (DataFusion decorrelates those). Invariant: the columns stay the same, in
//! the same order.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, NullHandling, Result, ScalarValue};
use datafusion::logical_expr::{Expr, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Subquery};

/// Replaces a lateral join whose right side is a function of the left row by projections and UNNEST.
pub fn inline(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Join(join) = &plan else { return Ok(Transformed::no(plan)) };
    let Some(rows) = rewritten(join)? else { return Ok(Transformed::no(plan)) };
    Ok(Transformed::yes(rows))
}

fn rewritten(join: &Join) -> Result<Option<LogicalPlan>> {
    let keeps = match join.join_type {
        JoinType::Inner => false,
        JoinType::Left => true,
        _ => return Ok(None),
    };
    let is_true = |filter: &Expr| matches!(filter, Expr::Literal(ScalarValue::Boolean(Some(true)), _));
    let filter = join.filter.as_ref().filter(|filter| !is_true(filter));
    let Some(subquery) = subquery(&join.right).filter(|_| join.on.is_empty() && !(keeps && filter.is_some())) else {
        return Ok(None);
    };
    let left: Vec<Expr> = join.left.schema().iter().map(Expr::from).collect();
    let Some(rows) = over(&subquery.subquery, &join.left, &left, keeps)? else { return Ok(None) };
    let columns = rows.schema().iter().map(Expr::from).skip(left.len());
    let named = columns
        .zip(join.right.schema().iter())
        .map(|(column, (table, field))| column.alias_qualified(table.cloned(), field.name()));
    let all: Vec<Expr> = left.iter().cloned().chain(named).collect();
    let mut builder = LogicalPlanBuilder::from(rows).project(all)?;
    if let Some(filter) = filter {
        builder = builder.filter(filter.clone())?;
    }
    builder.build().map(Some)
}

fn subquery(plan: &LogicalPlan) -> Option<&Subquery> {
    match plan {
        LogicalPlan::Subquery(subquery) => Some(subquery),
        LogicalPlan::SubqueryAlias(alias) => subquery(&alias.input),
        _ => None,
    }
}

/// Returns the plan with the rows of `left` in the place of its one empty row, and the `columns` of `left` before its own.
/// `None` if the plan reads anything else.
fn over(plan: &LogicalPlan, left: &LogicalPlan, columns: &[Expr], keeps: bool) -> Result<Option<LogicalPlan>> {
    let input = match plan {
        LogicalPlan::EmptyRelation(empty) if empty.produce_one_row => return Ok(Some(left.clone())),
        LogicalPlan::Projection(projection) => &projection.input,
        LogicalPlan::Filter(filter) if !keeps => &filter.input,
        LogicalPlan::Unnest(unnest) => &unnest.input,
        _ => return Ok(None),
    };
    let Some(input) = over(input, left, columns, keeps)? else { return Ok(None) };
    let builder = LogicalPlanBuilder::from(input);
    let plan = match plan {
        LogicalPlan::Projection(projection) => {
            let mut exprs = columns.to_vec();
            for expr in &projection.expr {
                exprs.push(resolved(expr)?);
            }
            builder.project(exprs)?.build()?
        }
        LogicalPlan::Filter(filter) => builder.filter(resolved(&filter.predicate)?)?.build()?,
        LogicalPlan::Unnest(unnest) => {
            let mut options = unnest.options.clone();
            if keeps {
                options.null_handling = NullHandling::PreserveAndExpandEmpty;
            }
            builder.unnest_columns_with_options(unnest.exec_columns.clone(), options)?.build()?
        }
        _ => return Ok(None),
    };
    Ok(Some(plan))
}

/// Turns references to the outer row into columns, since both are one row now.
fn resolved(expr: &Expr) -> Result<Expr> {
    let name = expr.schema_name().to_string();
    let is_column = matches!(expr, Expr::Column(_));
    let column = |expr| match expr {
        Expr::OuterReferenceColumn(_, column) => Ok(Transformed::yes(Expr::Column(column))),
        other => Ok(Transformed::no(other)),
    };
    let resolved = expr.clone().transform(column)?;
    match resolved.transformed && !is_column && resolved.data.schema_name().to_string() != name {
        true => Ok(resolved.data.unalias().alias(Column::from_name(name).name)),
        false => Ok(resolved.data),
    }
}
