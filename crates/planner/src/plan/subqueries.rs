//! Rewrites subqueries in expressions to forms that become joins and keep SQL's three-valued logic.
//!
//! Owns: `NOT IN` with NULLs anywhere in an expression, `IN` and `EXISTS` outside of conditions, and which scalar subqueries
//! give one row. Does not own: turning them into joins (DataFusion), `NOT IN` as a whole condition over an uncorrelated
//! subquery (`not_in`). Invariant: an expression is replaced by one with the same value for every row.

use super::decorrelate::{joined, lateral};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ExprSchema, Result, ScalarValue};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Expr, FetchType, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Projection, Subquery,
    lit, not, when,
};
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_sql::error::SqlError;
use std::sync::Arc;

/// Rewrites the subqueries in a node's expressions.
pub fn rewrite(plan: LogicalPlan, names: &mut usize) -> Result<Transformed<LogicalPlan>> {
    if let Some(plan) = lateral(&plan, names)? {
        return Ok(Transformed::yes(plan));
    }
    if !plan.expressions().iter().any(holds_subquery) {
        return Ok(Transformed::no(plan));
    }
    match plan {
        LogicalPlan::Filter(filter) => {
            let mut conjuncts = Vec::new();
            for conjunct in split_conjunction_owned(filter.predicate) {
                conjuncts.push(condition(conjunct, &filter.input)?);
            }
            let columns: Vec<Expr> = filter.input.schema().iter().map(Expr::from).collect();
            let input = lift_operands(Arc::unwrap_or_clone(filter.input), &mut conjuncts)?;
            let (input, conjuncts) = joined(input, conjuncts, names)?;
            let is_joined = input.schema().fields().len() != columns.len();
            let predicate = conjunction(conjuncts).unwrap_or(lit(true));
            let filter = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(input))?);
            match is_joined {
                true => LogicalPlanBuilder::from(filter).project(columns)?.build().map(Transformed::yes),
                false => Ok(Transformed::yes(filter)),
            }
        }
        LogicalPlan::Projection(projection) => {
            let mut exprs = Vec::with_capacity(projection.expr.len());
            for (expr, (qualifier, field)) in projection.expr.iter().zip(projection.schema.iter()) {
                let value = value(expr.clone(), &projection.input, Form::Count)?;
                let is_same = value == *expr;
                exprs.push(if is_same {
                    value
                } else {
                    value.unalias().alias_qualified(qualifier.cloned(), field.name())
                });
            }
            let names_of: Vec<_> =
                projection.schema.iter().map(|(table, field)| (table.cloned(), field.clone())).collect();
            let (input, exprs) = joined(Arc::unwrap_or_clone(projection.input), exprs, names)?;
            let named = exprs.into_iter().zip(names_of).map(|(expr, (table, field))| match &expr {
                Expr::Column(column) if column.relation == table && column.name == *field.name() => expr,
                _ => expr.unalias().alias_qualified(table, field.name()),
            });
            let projection = Projection::try_new(named.collect(), Arc::new(input))?;
            Ok(Transformed::yes(LogicalPlan::Projection(projection)))
        }
        LogicalPlan::Aggregate(aggregate) => aggregated(aggregate, names).map(Transformed::yes),
        other => Ok(Transformed::no(other)),
    }
}

/// Makes columns of the subqueries in the arguments and keys of `OVER`, which DataFusion's analyzer refuses there.
pub fn lift_from_windows(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Window(window) = &plan else { return Ok(Transformed::no(plan)) };
    let mut columns: Vec<Expr> = window.input.schema().iter().map(Expr::from).collect();
    let width = columns.len();
    let mut calls = Vec::with_capacity(window.window_expr.len());
    for call in &window.window_expr {
        let lifted = call.clone().transform_down(|expr| match expr {
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) => {
                let name = format!("__hw_over_{}", columns.len() - width);
                columns.push(expr.alias(&name));
                Ok(Transformed::new(Expr::Column(Column::from_name(name)), true, TreeNodeRecursion::Jump))
            }
            other => Ok(Transformed::no(other)),
        })?;
        calls.push(lifted.data.alias_if_changed(call.schema_name().to_string())?);
    }
    if columns.len() == width {
        return Ok(Transformed::no(plan));
    }
    let names: Vec<Expr> = window.schema.iter().map(Expr::from).collect();
    let rows = LogicalPlanBuilder::from(window.input.as_ref().clone()).project(columns)?;
    rows.window(calls)?.project(names)?.build().map(Transformed::yes)
}

/// Makes a column of what is compared by `NOT IN` as a condition: DataFusion looks at columns to learn what may be NULL.
fn lift_operands(input: LogicalPlan, conjuncts: &mut [Expr]) -> Result<LogicalPlan> {
    let mut columns: Vec<Expr> = input.schema().iter().map(Expr::from).collect();
    let width = columns.len();
    for conjunct in conjuncts {
        if let Expr::InSubquery(call) = conjunct
            && call.negated
            && !matches!(call.expr.as_ref(), Expr::Column(_))
        {
            let name = format!("__hw_operand_{}", columns.len() - width);
            columns.push(std::mem::replace(call.expr.as_mut(), Expr::Column(Column::from_name(&name))).alias(name));
        }
    }
    if columns.len() == width {
        return Ok(input);
    }
    LogicalPlanBuilder::from(input).project(columns)?.build()
}

fn holds_subquery(expr: &Expr) -> bool {
    let is_one = |expr: &Expr| Ok(matches!(expr, Expr::InSubquery(_) | Expr::Exists(_) | Expr::ScalarSubquery(_)));
    expr.exists(is_one).unwrap_or(false)
}

/// The form to which a subquery in an expression is rewritten.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// EXISTS, in conditions, which becomes a semi, anti or mark join.
    Exists,
    /// A count, elsewhere, which becomes an aggregate and a join.
    Count,
}

/// Turns `NOT (x IN …)` into `x NOT IN …`.
fn without_not(expr: Expr) -> Expr {
    match expr {
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(call) => Expr::InSubquery(InSubquery { negated: !call.negated, ..call }),
            Expr::Exists(call) => Expr::Exists(Exists { negated: !call.negated, ..call }),
            inner => not(inner),
        },
        other => other,
    }
}

/// Rewrites a condition, in which NULL counts as false.
fn condition(expr: Expr, input: &LogicalPlan) -> Result<Expr> {
    match without_not(expr) {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let (left, right) = (inner_condition(*left, input)?, inner_condition(*right, input)?);
            Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
        }
        // Becomes DataFusion's null-aware join, which `not_in` rewrites.
        Expr::InSubquery(call) if !call.negated || !is_correlated(&call.subquery) => Ok(Expr::InSubquery(call)),
        Expr::Exists(call) => Ok(Expr::Exists(call)),
        // NOT IN is true if no row of the subquery is equal, or might be equal but for a NULL.
        Expr::InSubquery(call) => exists(&call.subquery, Some(equal(&call, input)?.is_not_false()), true),
        other => value(other, input, Form::Exists),
    }
}

/// Rewrites a part of a condition below AND and OR. `IN` becomes a mark join there; NULL counts as false.
fn inner_condition(expr: Expr, input: &LogicalPlan) -> Result<Expr> {
    match without_not(expr) {
        Expr::InSubquery(call) if call.negated && !is_correlated(&call.subquery) => {
            // No row is equal, and either the subquery is empty or no NULL is involved.
            let (rows, nulls) = (number(&call.subquery, None)?, number(&call.subquery, Some(output(&call).is_null()))?);
            let known = nulls.eq(lit(0i64)).and(call.expr.as_ref().clone().is_not_null());
            let absent = not(Expr::InSubquery(InSubquery { negated: false, ..call }));
            Ok(absent.and(rows.eq(lit(0i64)).or(known)))
        }
        other => condition(other, input),
    }
}

/// Rewrites an expression in which NULL and false differ.
fn value(expr: Expr, input: &LogicalPlan, form: Form) -> Result<Expr> {
    let replaced = expr.transform_up(|expr| match expr {
        Expr::InSubquery(call) => {
            let found = membership(&call, input, form)?;
            Ok(Transformed::yes(if call.negated { not(found) } else { found }))
        }
        Expr::Exists(call) if form == Form::Count => {
            let number = number(&call.subquery, None)?;
            Ok(Transformed::yes(if call.negated { number.eq(lit(0i64)) } else { number.gt(lit(0i64)) }))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(replaced.data)
}

/// Builds the value of `x IN (…)`: true, false, or NULL if no row is equal but a NULL might be.
fn membership(call: &InSubquery, input: &LogicalPlan, form: Form) -> Result<Expr> {
    let equal = equal(call, input)?;
    let is_correlated = is_correlated(&call.subquery);
    let there = match form {
        Form::Exists => exists(&call.subquery, Some(equal.clone()), false)?,
        Form::Count => number(&call.subquery, Some(equal.clone()))?.gt(lit(0i64)),
    };
    let perhaps = match (form, is_correlated) {
        (Form::Exists, true) => exists(&call.subquery, Some(equal.is_null()), false)?,
        _ => {
            let (rows, nulls) = (number(&call.subquery, None)?, number(&call.subquery, Some(output(call).is_null()))?);
            nulls.gt(lit(0i64)).or(call.expr.as_ref().clone().is_null().and(rows.gt(lit(0i64))))
        }
    };
    when(there, lit(true)).when(perhaps, lit(ScalarValue::Boolean(None))).otherwise(lit(false))
}

fn is_correlated(subquery: &Subquery) -> bool {
    !subquery.subquery.all_out_ref_exprs().is_empty()
}

/// Returns the output column of the subquery of `IN`.
fn output(call: &InSubquery) -> Expr {
    Expr::Column(Column::from(call.subquery.subquery.schema().qualified_field(0)))
}

/// Builds `x = y` for a filter inside the subquery, where `x` refers to the outer row.
fn equal(call: &InSubquery, input: &LogicalPlan) -> Result<Expr> {
    let schema = input.schema();
    let outside = call.expr.as_ref().clone().transform_up(|expr| match expr {
        Expr::Column(column) => {
            let field = schema.field_from_column(&column)?.clone();
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(outside.data.eq(output(call)))
}

fn filtered(subquery: &Subquery, filter: Option<Expr>) -> Result<LogicalPlanBuilder> {
    let builder = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone());
    match filter {
        Some(filter) => builder.filter(filter),
        None => Ok(builder),
    }
}

fn subquery_of(plan: LogicalPlan, like: &Subquery) -> Subquery {
    Subquery { outer_ref_columns: plan.all_out_ref_exprs(), subquery: Arc::new(plan), spans: like.spans.clone() }
}

fn exists(subquery: &Subquery, filter: Option<Expr>, negated: bool) -> Result<Expr> {
    let plan = filtered(subquery, filter)?.build()?;
    Ok(Expr::Exists(Exists { subquery: subquery_of(plan, subquery), negated }))
}

/// Builds a subquery that counts the rows that pass `filter`.
fn number(subquery: &Subquery, filter: Option<Expr>) -> Result<Expr> {
    let plan = filtered(subquery, filter)?.aggregate(Vec::<Expr>::new(), [count(lit(1i64))])?.build()?;
    Ok(Expr::ScalarSubquery(subquery_of(plan, subquery)))
}

/// Moves subqueries in keys and arguments of an aggregate to columns of a projection below it.
fn aggregated(aggregate: Aggregate, names: &mut usize) -> Result<LogicalPlan> {
    let mut columns: Vec<Expr> = aggregate.input.schema().iter().map(Expr::from).collect();
    let mut pulled = Vec::new();
    let mut pull = |expr: &Expr| -> Result<Expr> {
        let lifted = expr.clone().transform_down(|expr| match expr {
            Expr::InSubquery(_) | Expr::Exists(_) | Expr::ScalarSubquery(_) => {
                let name = format!("__hw_subquery_{}", pulled.len());
                pulled.push(value(expr, &aggregate.input, Form::Count)?.alias(&name));
                Ok(Transformed::new(Expr::Column(Column::from_name(name)), true, TreeNodeRecursion::Jump))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(lifted.data)
    };
    let groups = aggregate.group_expr.iter().map(&mut pull).collect::<Result<Vec<_>>>()?;
    let calls = aggregate.aggr_expr.iter().map(&mut pull).collect::<Result<Vec<_>>>()?;
    let (input, pulled) = joined(aggregate.input.as_ref().clone(), pulled, names)?;
    columns.extend(pulled);
    let given: Vec<Expr> = aggregate.schema.iter().map(Expr::from).collect();
    let rows = LogicalPlanBuilder::from(input).project(columns)?;
    let plan = rows.aggregate(groups, calls)?.build()?;
    let renamed: Vec<Expr> = (plan.schema().iter().map(Expr::from).zip(aggregate.schema.iter()))
        .map(|(column, (qualifier, field))| column.alias_qualified(qualifier.cloned(), field.name()))
        .collect();
    let is_same = plan.schema().iter().map(Expr::from).eq(given);
    if is_same { Ok(plan) } else { LogicalPlanBuilder::from(plan).project(renamed)?.build() }
}

/// Refuses scalar subqueries that may give several rows, since a join would emit a row for each.
pub fn check_single(plan: &LogicalPlan, at: Location) -> Result<(), SqlError> {
    let mut error = None;
    // The closure never fails, so neither does the walk.
    let _ = plan.apply_with_subqueries(|node| {
        for expr in node.expressions() {
            let _ = expr.apply(|expr| {
                if let Expr::ScalarSubquery(subquery) = expr
                    && !gives_one(&subquery.subquery)
                {
                    let place =
                        subquery.spans.first().map_or(at, |span| Location::new(span.start.line, span.start.column));
                    error = Some(
                        SqlError::at(
                            place,
                            "a subquery that may give several rows for one value is not supported in streaming yet",
                        )
                        .hint("make it one row: an aggregate such as max(…) without GROUP BY, or ORDER BY … LIMIT 1"),
                    );
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            });
        }
        Ok(if error.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    error.map_or(Ok(()), Err)
}

fn gives_one(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => gives_one(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => gives_one(&alias.input),
        LogicalPlan::Filter(filter) => gives_one(&filter.input),
        LogicalPlan::Sort(sort) => gives_one(&sort.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Limit(limit) => {
            matches!(limit.get_fetch_type(), Ok(FetchType::Literal(Some(0 | 1)))) || gives_one(&limit.input)
        }
        LogicalPlan::Values(values) => values.values.len() <= 1,
        LogicalPlan::EmptyRelation(_) => true,
        _ => false,
    }
}
