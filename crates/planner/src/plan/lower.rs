//! Turns a logical plan into pipelines in stages.
//!
//! Owns: which module plans which node, and nodes too small for a module. Does not own: adding to the dataflow (`builder`).
//! Invariant: nodes that are not named here are refused.

use super::as_of::TemporalJoin;
use super::builder::{Builder, Flow, Target, columns, project, refuse_clock, wanted};
use super::errors::sql_error;
use super::{grouping, join, over, physical, temporal, timed, unnest, upsert};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Projection, TableScan};
use highwater_operators::rows;
use highwater_sql::error::{Result, SqlError};
use std::sync::Arc;

/// Plans `plan`; returns the flows whose union is its output.
pub fn lower(builder: &mut Builder<'_>, plan: &LogicalPlan, target: Target<'_>) -> Result<Vec<Flow>> {
    let refused = |what: &str| SqlError::at(target.at, format!("{what} is not supported in streaming yet"));
    Err(match plan {
        LogicalPlan::TableScan(node) => return scan(builder, node, target),
        LogicalPlan::SubqueryAlias(alias) => return builder.build(&alias.input, target),
        LogicalPlan::Projection(node) => return projection(builder, node, target),
        LogicalPlan::Filter(node) => return filter(builder, node, target),
        LogicalPlan::Union(union) => {
            let mut flows = Vec::new();
            for input in &union.inputs {
                flows.extend(builder.build(input, target)?);
            }
            return Ok(flows);
        }
        LogicalPlan::Aggregate(aggregate) => return grouping::build(builder, aggregate, target),
        LogicalPlan::Join(node) => return join::build(builder, node, target),
        LogicalPlan::Window(node) => return over::window(builder, node, None, target),
        LogicalPlan::Limit(node) => return over::limit(builder, node, target),
        // Flows have no order. ORDER BY matters only with LIMIT, which reads it from the plan.
        LogicalPlan::Sort(sort) => return builder.build(&sort.input, target),
        LogicalPlan::Distinct(_) => refused("this DISTINCT"),
        LogicalPlan::Unnest(node) => return unnest::build(builder, node, target),
        LogicalPlan::Subquery(_) => refused("a LATERAL subquery of this kind").hint(
            "WHERE with equal columns and aggregates work; for the first rows of each: ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) <= n, joined",
        ),
        LogicalPlan::Extension(_) if let Some(node) = TemporalJoin::of(plan) => {
            return temporal::build(builder, node, target);
        }
        LogicalPlan::RecursiveQuery(_) => refused("WITH RECURSIVE"),
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
            SqlError::at(target.at, "this query has no stream to read, or a part of it has none")
                .hint("read a table: SELECT … FROM <table>; VALUES may be a side of a join with one")
        }
        other => refused(&other.display().to_string()),
    })
}

fn projection(builder: &mut Builder<'_>, projection: &Projection, target: Target<'_>) -> Result<Vec<Flow>> {
    let mut flows = builder.build(&projection.input, target)?;
    if flows.iter().any(|flow| flow.retracts) && projection.expr.iter().any(Expr::is_volatile) {
        return Err(SqlError::at(
            target.at,
            "now() over rows that later records correct is not supported in streaming yet",
        )
        .hint("a correction would retract another time than was written: drop now(), or append final rows"));
    }
    let schema = Arc::new(projection.schema.as_arrow().clone());
    let mut exprs = Vec::with_capacity(projection.expr.len());
    for expr in &projection.expr {
        exprs.push(physical::expr(expr, projection.input.schema(), target.at)?);
    }
    flows.iter_mut().for_each(|flow| project(flow, &exprs, &schema));
    Ok(flows)
}

fn filter(builder: &mut Builder<'_>, filter: &Filter, target: Target<'_>) -> Result<Vec<Flow>> {
    let mut flows = match filter.input.as_ref() {
        LogicalPlan::Window(node) => over::window(builder, node, over::rank_limit(filter, node), target)?,
        input => builder.build(input, target)?,
    };
    refuse_clock(&filter.predicate, "a condition", target)?;
    let schema = filter.input.schema();
    let conditions = timed::split(&filter.predicate, schema).map_err(|error| sql_error(error, target.at))?;
    keep_where(&mut flows, conditions.before.as_ref(), schema, target)?;
    for time in &conditions.times {
        flows.iter_mut().try_for_each(|flow| timed::keep(flow, time, schema, target.at))?;
    }
    keep_where(&mut flows, conditions.after.as_ref(), schema, target)?;
    Ok(flows)
}

fn keep_where(flows: &mut [Flow], predicate: Option<&Expr>, schema: &DFSchema, target: Target<'_>) -> Result<()> {
    let is_true = |predicate: &&Expr| matches!(predicate, Expr::Literal(ScalarValue::Boolean(Some(true)), _));
    let Some(predicate) = predicate.filter(|predicate| !is_true(predicate)) else { return Ok(()) };
    let predicate = physical::expr(predicate, schema, target.at)?;
    flows.iter_mut().for_each(|flow| flow.ops.push(Arc::new(rows::Filter(predicate.clone()))));
    Ok(())
}

fn scan(builder: &mut Builder<'_>, scan: &TableScan, target: Target<'_>) -> Result<Vec<Flow>> {
    let (source, mut flow) = builder.records(scan, target)?;
    let wanted = wanted(scan, source);
    let schema = Arc::new(scan.projected_schema.as_arrow().clone());
    if let Some(key) = &source.upsert {
        return Ok(vec![upsert::fold(builder, flow, source, key, &wanted, schema)]);
    }
    let exprs = columns(&flow.schema, &wanted);
    project(&mut flow, &exprs, &schema);
    Ok(vec![flow])
}
