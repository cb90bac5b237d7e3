//! Small changes to a query's syntax, so that DataFusion's planner takes what SQL allows.
//!
//! Owns: `a[1].b`, `FETCH FIRST`, `WITH ROLLUP`, and names for columns an INSERT selects twice. Does not own: what anything means.
//! Invariant: a rewritten query has the same columns in the same order, and the same rows.

use super::types::fold;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, Fetch, GroupByExpr, GroupByWithModifier, Ident, LimitClause, OrderByExpr, OrderByKind, Query,
    Select, SelectItem, SetExpr, SetOperator, SetQuantifier, Spanned, Value, Visit, VisitMut, Visitor, VisitorMut,
};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// `a[1].b` becomes `a[1]['b']` in the planner's terms.
pub fn name_fields(query: &mut Query) {
    struct Fields;
    impl VisitorMut for Fields {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::CompoundFieldAccess { root, access_chain } = expr {
                // `t.a[1]`: leading names are a column, or a table and a column; the planner resolves them.
                let is_name = matches!(root.as_ref(), Expr::Identifier(_) | Expr::CompoundIdentifier(_));
                let is_dot = |access: &AccessExpr| matches!(access, AccessExpr::Dot(Expr::Identifier(_)));
                let names = if is_name { access_chain.iter().take_while(|access| is_dot(access)).count() } else { 0 };
                for access in access_chain.iter_mut().skip(names) {
                    if let AccessExpr::Dot(Expr::Identifier(field)) = access {
                        let name = Value::SingleQuotedString(field.value.clone());
                        *access = AccessExpr::Dot(Expr::Value(name.with_span(field.span)));
                    }
                }
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Fields);
}

/// `FETCH FIRST n ROWS ONLY` is `LIMIT n`.
pub fn use_limits(query: &mut Query) {
    struct Fetches;
    impl VisitorMut for Fetches {
        type Break = ();
        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            let is_limit = |fetch: &Fetch| !fetch.with_ties && !fetch.percent;
            let offset = match &query.limit_clause {
                None => Some(None),
                Some(LimitClause::LimitOffset { limit: None, offset, limit_by }) if limit_by.is_empty() => {
                    Some(offset.clone())
                }
                _ => None,
            };
            if let (Some(offset), Some(fetch)) = (offset, query.fetch.take_if(|fetch| is_limit(fetch))) {
                let one = Expr::Value(Value::Number("1".into(), false).with_empty_span());
                let limit = Some(fetch.quantity.unwrap_or(one));
                query.limit_clause = Some(LimitClause::LimitOffset { limit, offset, limit_by: Vec::new() });
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Fetches);
}

/// Gives the columns of all branches of a UNION but the first, whose names count, unique names. Otherwise DataFusion, which
/// names the columns that it casts after the first branch's, may find a name twice in one branch.
pub fn name_branches(query: &mut Query) {
    struct Unions;
    impl VisitorMut for Unions {
        type Break = ();
        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            name_later_branches(&mut query.body, true);
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Unions);
}

fn name_later_branches(branch: &mut SetExpr, is_first: bool) {
    match branch {
        // BY NAME matches columns by their names, which must stay.
        SetExpr::SetOperation {
            set_quantifier: SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName,
            ..
        } => {}
        SetExpr::SetOperation { op: SetOperator::Union, left, right, .. } => {
            name_later_branches(left, is_first);
            name_later_branches(right, false);
        }
        SetExpr::Select(select) if !is_first => {
            for (place, item) in select.projection.iter_mut().enumerate() {
                if let SelectItem::UnnamedExpr(expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_))) = item {
                    let alias = Ident::with_span(expr.span(), format!("__hw_branch_{place}"));
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                }
            }
        }
        _ => {}
    }
}

/// `ORDER BY ALL` is `ORDER BY 1, 2, …`.
pub fn order_by_places(query: &mut Query) {
    struct Orders;
    impl VisitorMut for Orders {
        type Break = ();
        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            let (Some(order), SetExpr::Select(select)) = (&mut query.order_by, query.body.as_ref()) else {
                return ControlFlow::Continue(());
            };
            let OrderByKind::All(options) = &order.kind else { return ControlFlow::Continue(()) };
            let is_star =
                |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
            if select.projection.iter().any(is_star) {
                return ControlFlow::Continue(());
            }
            let by = |place: usize| OrderByExpr {
                expr: Expr::Value(Value::Number(place.to_string(), false).with_empty_span()),
                options: *options,
                with_fill: None,
            };
            order.kind = OrderByKind::Expressions((1..=select.projection.len()).map(by).collect());
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Orders);
}

/// `GROUP BY a, b WITH ROLLUP` is `GROUP BY ROLLUP (a, b)`.
pub fn use_grouping_sets(query: &mut Query) {
    struct Modifiers;
    impl VisitorMut for Modifiers {
        type Break = ();
        fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
            let GroupByExpr::Expressions(keys, modifiers) = &mut select.group_by else {
                return ControlFlow::Continue(());
            };
            let sets = || keys.iter().map(|key| vec![key.clone()]).collect();
            let set = match modifiers.as_slice() {
                [GroupByWithModifier::Rollup] => Expr::Rollup(sets()),
                [GroupByWithModifier::Cube] => Expr::Cube(sets()),
                _ => return ControlFlow::Continue(()),
            };
            (*keys, *modifiers) = (vec![set], Vec::new());
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Modifiers);
}

/// Gives columns that an INSERT selects more than once unique names, since only their positions count.
pub fn tell_columns_apart(query: &mut Query) {
    rename_body(&mut query.body);
}

fn rename_body(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => rename_select(select),
        SetExpr::Query(query) => rename_body(&mut query.body),
        SetExpr::SetOperation { left, right, .. } => {
            rename_body(left);
            rename_body(right);
        }
        _ => {}
    }
}

fn rename_select(select: &mut Select) {
    let is_star = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    let has_star = select.projection.iter().any(is_star);
    let mut seen = BTreeSet::new();
    for (index, item) in select.projection.iter_mut().enumerate() {
        let (name, is_column) = match &*item {
            SelectItem::UnnamedExpr(Expr::Identifier(column)) => (fold(column), true),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
                (parts.last().map(fold).unwrap_or_default(), true)
            }
            SelectItem::UnnamedExpr(expr) => (planned_name(expr), false),
            SelectItem::ExprWithAlias { alias, .. } => (fold(alias), false),
            _ => continue,
        };
        // The star may select the same column, so a column beside it is always renamed.
        if seen.insert(name.clone()) && !(has_star && is_column) {
            continue;
        }
        let alias = Ident::with_quote('"', format!("{name}:{}", index + 1));
        match item {
            SelectItem::UnnamedExpr(expr) => *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias },
            SelectItem::ExprWithAlias { alias: old, .. } => *old = alias,
            _ => {}
        }
    }
}

/// An expression's text without what the planner leaves out of names: brackets, casts, and the text of subqueries.
fn planned_name(expr: &Expr) -> String {
    struct Plain;
    impl VisitorMut for Plain {
        type Break = ();
        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            let inner = match expr {
                Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => inner.as_ref().clone(),
                Expr::Subquery(_) => Expr::Identifier(Ident::new("(subquery)")),
                _ => return ControlFlow::Continue(()),
            };
            *expr = inner;
            ControlFlow::Continue(())
        }
    }
    let mut expr = expr.clone();
    let _ = VisitMut::visit(&mut expr, &mut Plain);
    expr.to_string()
}

/// Gives the unnamed subqueries of every SELECT names, since the planner calls all of them the same.
pub fn name_subqueries(query: &mut Query) {
    struct Subqueries;
    impl VisitorMut for Subqueries {
        type Break = ();
        fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
            let unnamed = |item: &SelectItem| matches!(item, SelectItem::UnnamedExpr(expr) if holds_query(expr));
            if select.projection.iter().filter(|item| unnamed(item)).count() < 2 {
                return ControlFlow::Continue(());
            }
            for (place, item) in select.projection.iter_mut().enumerate() {
                if let SelectItem::UnnamedExpr(expr) = item
                    && holds_query(expr)
                {
                    let alias = Ident::with_quote('"', format!("(subquery):{}", place + 1));
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                }
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Subqueries);
}

fn holds_query(expr: &Expr) -> bool {
    struct Queries;
    impl Visitor for Queries {
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    expr.visit(&mut Queries).is_break()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Statement, parse_script};

    fn rewritten(select: &str) -> String {
        let script = parse_script(&format!("INSERT INTO t {select}")).unwrap();
        let Statement::Insert(insert) = &script[0] else { panic!("no insert") };
        let mut query = insert.query.clone();
        name_fields(&mut query);
        tell_columns_apart(&mut query);
        query.to_string()
    }

    #[test]
    fn only_repeated_columns_get_names() {
        assert_eq!(rewritten("SELECT a, b FROM s"), "SELECT a, b FROM s");
        assert_eq!(rewritten("SELECT a, A, s.a FROM s"), "SELECT a, A AS \"a:2\", s.a AS \"a:3\" FROM s");
        assert_eq!(
            rewritten("SELECT 1, 1 FROM s UNION ALL SELECT b, c AS b FROM s"),
            "SELECT 1, 1 AS \"1:2\" FROM s UNION ALL SELECT b, c AS \"b:2\" FROM s"
        );
        assert_eq!(rewritten("SELECT *, a FROM s"), "SELECT *, a AS \"a:2\" FROM s");
    }

    #[test]
    fn fields_of_elements_are_named() {
        assert_eq!(rewritten("SELECT a[1].B FROM s"), "SELECT a[1].'B' FROM s");
        assert_eq!(rewritten("SELECT t.a[1].\"B\"[2], t.a FROM t"), "SELECT t.a[1].'B'[2], t.a FROM t");
    }
}
