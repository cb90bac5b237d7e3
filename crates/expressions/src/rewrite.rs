//! Expressions of a plan whose types are known, rewritten where DataFusion's answer is not SQL's.
//!
//! Owns: finding them. Does not own: the functions they become. Invariants: names and types of a node's columns stay;
//! rewriting twice changes nothing more.

use crate::arithmetic::Arithmetic;
use crate::can_fail::{can_fail, compares};
use crate::duration::{is_duration, is_length, length};
use crate::narrow::narrowed;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction, Sort, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Between, BinaryExpr, Case, Expr, ExprSchemable, LogicalPlan, Operator, lit, when};

/// Rewrites the expressions of all nodes, those of subqueries too.
pub fn exact(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    plan.transform_up_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_up(|expr| one(expr, &schema))?.update_data(|expr| name.restore(expr)))
        })
    })
}

/// Rewrites window functions ordered by durations, which DataFusion's analyzer refuses to give frames to.
pub fn order_by_length(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Window(_) = &node else { return Ok(Transformed::no(node)) };
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let ordered = expr.transform_up(|expr| match expr {
                Expr::WindowFunction(mut call) => {
                    let changed = ordered(&mut call.params.order_by, &schema)?;
                    let call = Expr::WindowFunction(call);
                    Ok(if changed { Transformed::yes(call) } else { Transformed::no(call) })
                }
                other => Ok(Transformed::no(other)),
            })?;
            Ok(ordered.update_data(|expr| name.restore(expr)))
        })
    })
}

fn one(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::Negative(inner) if inner.get_type(schema)?.is_integer() => {
            let zero = Expr::Literal(ScalarValue::new_zero(&inner.get_type(schema)?)?, None);
            Ok(Transformed::yes(Arithmetic::call(Operator::Minus, zero, *inner)))
        }
        Expr::Cast(cast) => narrowed(cast, schema),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
            let mut both = [*left, *right];
            let changed = by_length(&mut both, schema)?;
            let [left, right] = both.map(Box::new);
            let expr = Expr::BinaryExpr(BinaryExpr { left, op, right });
            Ok(if changed { Transformed::yes(expr) } else { Transformed::no(expr) })
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let mut all = [*expr, *low, *high];
            let changed = by_length(&mut all, schema)?;
            let [expr, low, high] = all.map(Box::new);
            let expr = Expr::Between(Between { expr, negated, low, high });
            Ok(if changed { Transformed::yes(expr) } else { Transformed::no(expr) })
        }
        Expr::InList(mut list) => {
            let mut all = vec![*list.expr];
            all.append(&mut list.list);
            let changed = by_length(&mut all, schema)?;
            list.expr = Box::new(all.remove(0));
            list.list = all;
            Ok(if changed { Transformed::yes(Expr::InList(list)) } else { Transformed::no(Expr::InList(list)) })
        }
        Expr::Case(Case { expr: Some(expr), when_then_expr, else_expr }) => {
            let (whens, thens): (Vec<_>, Vec<_>) = when_then_expr.into_iter().unzip();
            let mut all: Vec<Expr> = std::iter::once(*expr).chain(whens.into_iter().map(|when| *when)).collect();
            let changed = by_length(&mut all, schema)?;
            let expr = Some(Box::new(all.remove(0)));
            let when_then_expr = all.into_iter().map(Box::new).zip(thens).collect();
            let case = Expr::Case(Case { expr, when_then_expr, else_expr });
            Ok(if changed { Transformed::yes(case) } else { Transformed::no(case) })
        }
        Expr::WindowFunction(call) => window(call, schema),
        Expr::AggregateFunction(call) => aggregate(call, schema),
        other => Ok(Transformed::no(other)),
    }
}

/// Where all are durations or intervals, and not all are durations of one unit: each becomes its length.
fn by_length(all: &mut [Expr], schema: &DFSchema) -> Result<bool> {
    let types = all.iter().map(|expr| expr.get_type(schema)).collect::<Result<Vec<_>>>()?;
    let is_alike = types.windows(2).all(|pair| pair[0] == pair[1]);
    let is_plain = is_alike && types.first().is_some_and(|first| first.is_primitive() && !is_interval(first));
    if is_plain || !types.iter().all(is_duration) {
        return Ok(false);
    }
    all.iter_mut().for_each(|expr| *expr = length(std::mem::take(expr)));
    Ok(true)
}

fn is_interval(data_type: &datafusion::arrow::datatypes::DataType) -> bool {
    matches!(data_type, datafusion::arrow::datatypes::DataType::Interval(_))
}

/// Keys of an order that are durations or intervals.
fn ordered(order: &mut [Sort], schema: &DFSchema) -> Result<bool> {
    let mut changed = false;
    for sort in order {
        if !is_length(&sort.expr) && is_duration(&sort.expr.get_type(schema)?) {
            sort.expr = length(std::mem::take(&mut sort.expr));
            changed = true;
        }
    }
    Ok(changed)
}

fn window(mut call: Box<WindowFunction>, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let mut changed = false;
    if let Some(filter) = &call.params.filter {
        changed |= guard(&mut call.params.args, filter, schema)?;
    }
    let call = Expr::WindowFunction(call);
    Ok(if changed { Transformed::yes(call) } else { Transformed::no(call) })
}

fn aggregate(mut call: AggregateFunction, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let mut changed = ordered(&mut call.params.order_by, schema)?;
    if let Some(filter) = &call.params.filter {
        changed |= guard(&mut call.params.args, filter, schema)?;
        for sort in &mut call.params.order_by {
            changed |= guard(std::slice::from_mut(&mut sort.expr), filter, schema)?;
        }
    }
    let call = Expr::AggregateFunction(call);
    Ok(if changed { Transformed::yes(call) } else { Transformed::no(call) })
}

/// Arguments that may fail are computed only for rows that FILTER lets through.
fn guard(args: &mut [Expr], filter: &Expr, schema: &DFSchema) -> Result<bool> {
    let mut changed = false;
    for arg in args {
        let is_guarded = matches!(&*arg, Expr::Case(case)
            if case.expr.is_none() && case.when_then_expr.first().is_some_and(|(when, _)| when.as_ref() == filter));
        if !is_guarded && can_fail(arg, schema) {
            let null = lit(ScalarValue::try_from(&arg.get_type(schema)?)?);
            *arg = when(filter.clone(), std::mem::take(arg)).otherwise(null)?;
            changed = true;
        }
    }
    Ok(changed)
}
