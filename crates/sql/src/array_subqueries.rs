//! `ARRAY(SELECT x FROM … ORDER BY y)`: the values of a subquery as an array, empty if there are none.
//!
//! Owns: its rewriting to a subquery with `array_agg`. Does not own: that aggregate.

use super::error::SqlError;
use super::refuse::not_yet;
use super::syntax::{call, function_name, query_of, select_of};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArgumentClause, FunctionArguments, GroupByExpr, Ident, OrderByExpr, OrderByKind, Query,
    Select, SelectItem, SetExpr, Spanned, TableAlias, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use std::ops::ControlFlow;

/// Rewrites every `ARRAY(subquery)`.
pub fn aggregate_arrays(query: &mut Query) -> Result<(), SqlError> {
    struct Arrays;
    impl VisitorMut for Arrays {
        type Break = SqlError;
        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
            let span = expr.span();
            let Expr::Function(Function { name, args: FunctionArguments::Subquery(subquery), .. }) = expr else {
                return ControlFlow::Continue(());
            };
            if function_name(name) != "array" {
                return ControlFlow::Break(not_yet("a subquery as the argument of this function", span));
            }
            match array_of(subquery, span) {
                Ok(array) => *expr = array,
                Err(error) => return ControlFlow::Break(error),
            }
            ControlFlow::Continue(())
        }
    }
    match VisitMut::visit(query, &mut Arrays) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn array_of(subquery: &Query, span: Span) -> Result<Expr, SqlError> {
    let order = match subquery.order_by.as_ref().map(|order| &order.kind) {
        None => Vec::new(),
        Some(OrderByKind::Expressions(order)) => order.clone(),
        Some(OrderByKind::All(_)) => return Err(not_yet("ORDER BY ALL in ARRAY(SELECT …)", span)),
    };
    let one_column = || SqlError::in_span(span, "ARRAY(SELECT …) takes a subquery with one column");
    let select = match subquery.body.as_ref() {
        SetExpr::Select(select) if select.projection.len() != 1 => return Err(one_column()),
        SetExpr::Select(select) if is_plain(select) && subquery.limit_clause.is_none() && subquery.fetch.is_none() => {
            let mut select = select.as_ref().clone();
            let (SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. }) =
                &select.projection[0]
            else {
                return Err(one_column());
            };
            select.projection = vec![SelectItem::UnnamedExpr(collected(value.clone(), order, span))];
            Query { order_by: None, body: Box::new(SetExpr::Select(Box::new(select))), ..subquery.clone() }
        }
        _ => around(subquery, order, span)?,
    };
    Ok(call("coalesce", vec![Expr::Subquery(Box::new(select)), call("make_array", Vec::new(), span)], span))
}

/// True if each row of FROM and WHERE gives one value.
fn is_plain(select: &Select) -> bool {
    let is_grouped = !matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    select.distinct.is_none() && !is_grouped && select.having.is_none() && select.qualify.is_none()
}

fn collected(value: Expr, order: Vec<OrderByExpr>, span: Span) -> Expr {
    let mut collected = call("array_agg", vec![value], span);
    if let Expr::Function(Function { args: FunctionArguments::List(list), .. }) = &mut collected
        && !order.is_empty()
    {
        list.clauses.push(FunctionArgumentClause::OrderBy(order));
    }
    collected
}

/// `SELECT array_agg(value ORDER BY key_0, …) FROM (SELECT x AS value, y AS key_0, … )`.
fn around(subquery: &Query, mut order: Vec<OrderByExpr>, span: Span) -> Result<Query, SqlError> {
    let mut inner = subquery.clone();
    let mut names = vec![Ident::with_span(span, "value")];
    // Without LIMIT, the order matters to the array alone.
    if inner.limit_clause.is_none() && inner.fetch.is_none() {
        inner.order_by = None;
    }
    if !order.is_empty() {
        let SetExpr::Select(select) = inner.body.as_mut() else {
            return Err(not_yet("ORDER BY over a UNION in ARRAY(SELECT …)", span));
        };
        let value = match select.projection.first() {
            Some(SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. }) => value.clone(),
            _ => return Err(not_yet("* in ARRAY(SELECT …)", span)),
        };
        for (index, key) in order.iter_mut().enumerate() {
            if key.expr == value || key.expr.to_string() == "1" {
                key.expr = Expr::Identifier(names[0].clone());
                continue;
            }
            if select.distinct.is_some() {
                return Err(SqlError::in_span(span, "with DISTINCT, ARRAY(SELECT …) is ordered by what it selects"));
            }
            let name = Ident::with_span(span, format!("key_{index}"));
            select.projection.push(SelectItem::UnnamedExpr(key.expr.clone()));
            key.expr = Expr::Identifier(name.clone());
            names.push(name);
        }
    }
    let columns =
        names.into_iter().map(|name| datafusion::sql::sqlparser::ast::TableAliasColumnDef { name, data_type: None });
    let alias =
        TableAlias { explicit: true, name: Ident::with_span(span, "__hw_array"), columns: columns.collect(), at: None };
    let value = Expr::Identifier(Ident::with_span(span, "value"));
    let mut select = select_of(vec![SelectItem::UnnamedExpr(collected(value, order, span))]);
    let relation = TableFactor::Derived { lateral: false, subquery: Box::new(inner), alias: Some(alias), sample: None };
    select.from = vec![TableWithJoins { relation, joins: Vec::new() }];
    Ok(query_of(select))
}
