//! Small changes to a query's syntax, so that DataFusion's planner takes what SQL allows.
//!
//! Owns: `a[1].b`, `UNNEST` in FROM, and names for columns an INSERT selects twice. Does not own: what anything means.
//! Invariant: a rewritten query has the same columns in the same order, and the same rows.

use super::refuse::function_name;
use super::syntax::{call, query_of, select_of};
use super::types::fold;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, DuplicateTreatment, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query,
    Select, SelectItem, SetExpr, Spanned, TableFactor, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// `a[1].b` becomes `a[1]['b']` in the planner's terms.
pub fn name_fields(query: &mut Query) {
    struct Fields;
    impl VisitorMut for Fields {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::CompoundFieldAccess { root, access_chain } = expr {
                // `t.a[1]`: what a name starts with is a column, possibly of a table; the planner finds out.
                let is_name = matches!(root.as_ref(), Expr::Identifier(_) | Expr::CompoundIdentifier(_));
                let is_dot = |access: &AccessExpr| matches!(access, AccessExpr::Dot(Expr::Identifier(_)));
                let names = if is_name { access_chain.iter().take_while(|access| is_dot(access)).count() } else { 0 };
                for access in access_chain.iter_mut().skip(names) {
                    if let AccessExpr::Dot(Expr::Identifier(field)) = access {
                        let name = Value::SingleQuotedString(fold(field));
                        *access = AccessExpr::Dot(Expr::Value(name.with_span(field.span)));
                    }
                }
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Fields);
}

/// `FROM t CROSS JOIN UNNEST(t.list) AS u (x)` becomes `FROM t CROSS JOIN LATERAL (SELECT UNNEST(t.list)) AS u (x)`.
pub fn make_unnest_lateral(query: &mut Query) {
    struct Lists;
    impl VisitorMut for Lists {
        type Break = ();
        fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table { alias, name, args: Some(args), .. } = factor
                && function_name(name) == "unnest"
            {
                let lists = args.args.iter().filter_map(|list| match list {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(list)) => Some(list.clone()),
                    _ => None,
                });
                let columns = lists.map(|list| SelectItem::UnnamedExpr(call("unnest", vec![list], Span::empty())));
                let subquery = Box::new(query_of(select_of(columns.collect())));
                *factor = TableFactor::Derived { lateral: true, subquery, alias: alias.take(), sample: None };
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Lists);
}

/// Names and forms that other engines have for the same: `COUNT_IF(x)`, `COLLECT_SET(x)`, `EXPLODE(x)`,
/// `TIMESTAMPDIFF(SECOND, a, b)`.
pub fn use_standard_names(query: &mut Query) {
    struct Names;
    impl VisitorMut for Names {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
            let span = function.name.span();
            let FunctionArguments::List(list) = &mut function.args else { return ControlFlow::Continue(()) };
            let rename = |name: &str| ObjectName::from(vec![Ident::with_span(span, name)]);
            match (function_name(&function.name).as_str(), list.args.as_mut_slice()) {
                ("explode", [_]) => function.name = rename("unnest"),
                ("collect_set", [_]) => {
                    function.name = rename("array_agg");
                    list.duplicate_treatment = Some(DuplicateTreatment::Distinct);
                }
                ("count_if", [FunctionArg::Unnamed(argument @ FunctionArgExpr::Expr(_))])
                    if function.filter.is_none() =>
                {
                    if let FunctionArgExpr::Expr(condition) = std::mem::replace(argument, FunctionArgExpr::Wildcard) {
                        function.name = rename("count");
                        function.filter = Some(Box::new(condition));
                    }
                }
                (
                    "timestampdiff" | "timestampadd",
                    [FunctionArg::Unnamed(FunctionArgExpr::Expr(unit @ Expr::Identifier(_))), ..],
                ) => {
                    let name = Value::SingleQuotedString(unit.to_string());
                    *unit = Expr::Value(name.with_span(unit.span()));
                }
                _ => {}
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Names);
}

/// Gives columns that an INSERT selects more than once names of their own: only their positions count.
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
            SelectItem::UnnamedExpr(expr) => (expr.to_string(), false),
            SelectItem::ExprWithAlias { alias, .. } => (fold(alias), false),
            _ => continue,
        };
        // A star may show the same column.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::script::{Statement, parse_script};

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
        assert_eq!(rewritten("SELECT a[1].B FROM s"), "SELECT a[1].'b' FROM s");
        assert_eq!(rewritten("SELECT t.a[1].\"B\"[2], t.a FROM t"), "SELECT t.a[1].'B'[2], t.a FROM t");
    }
}
