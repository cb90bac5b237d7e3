//! The older window syntax: `GROUP BY HOP(ts, INTERVAL '1' SECOND, INTERVAL '5' SECOND), user_id`.
//!
//! Owns: rewriting it to the window table functions: `HOP(…)` among the keys becomes `window_start, window_end`, the
//! FROM item its table function, and `HOP_START(…)`, `HOP_END(…)`, `HOP_ROWTIME(…)` the window's times.
//! Does not own: what a window is (`plan::windows`). Invariant: WHERE still filters rows before they get windows.

use super::dialect::{WindowInput, make_table_argument};
use super::error::SqlError;
use super::syntax::function_name;
use super::syntax::{arguments, call, query_of};
use super::window_call::WindowFunction;
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, Query, Select, SelectItem, Spanned, TableAlias, TableFactor, TableWithJoins, Value,
    VisitMut, VisitorMut, WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use std::ops::ControlFlow;

/// Rewrites every SELECT that groups by a window function.
pub fn rewrite_group_windows(query: &mut Query) -> Result<(), SqlError> {
    struct Groups;
    impl VisitorMut for Groups {
        type Break = SqlError;
        fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
            match rewrite(select) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        }
    }
    match VisitMut::visit(query, &mut Groups) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// A window among the keys of a GROUP BY.
struct Grouping {
    function: WindowFunction,
    args: Vec<Expr>,
    span: Span,
}

fn grouping(expr: &Expr) -> Option<Grouping> {
    let Expr::Function(call) = expr else { return None };
    let function = WindowFunction::named(&function_name(&call.name))?;
    Some(Grouping { function, args: arguments(call)?, span: call.name.span() })
}

fn rewrite(select: &mut Select) -> Result<(), SqlError> {
    let GroupByExpr::Expressions(keys, modifiers) = &select.group_by else { return Ok(()) };
    let (mut keys, modifiers) = (keys.clone(), modifiers.clone());
    let mut windows = keys.iter().enumerate().filter_map(|(place, key)| Some((place, grouping(key)?)));
    let Some((place, window)) = windows.next() else { return Ok(()) };
    let refuse = |message: &str, hint: &str| Err(SqlError::in_span(window.span, message.to_string()).hint(hint));
    if windows.next().is_some() {
        return refuse(
            "a GROUP BY has one window",
            "nest window table functions instead: FROM TABLE(HOP(TABLE t, DESCRIPTOR(ts), …))",
        );
    }
    drop(windows);
    let name = window.function.name();
    let Some((time, intervals)) = window.args.split_first() else {
        return refuse(&format!("{name} needs a time column"), window.function.usage());
    };
    let (column, qualifier) = match time {
        Expr::Identifier(column) => (column.clone(), None),
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [table, column] => (column.clone(), Some(table.clone())),
            _ => return refuse(&format!("{name} needs a time column"), window.function.usage()),
        },
        _ => return refuse(&format!("{name} needs a column as its time"), "compute the time in a view or subquery"),
    };
    let [from] = select.from.as_slice() else {
        return refuse(&format!("{name} in GROUP BY needs a single table in FROM"), "join in a view or subquery");
    };
    keys.remove(place);
    let partition = match window.function {
        WindowFunction::Session => keys.iter().map(|key| spelt_out(key, &select.projection)).collect(),
        _ => Vec::new(),
    };
    keys.extend(["window_start", "window_end"].map(|part| Expr::Identifier(Ident::with_span(window.span, part))));
    let group_by = GroupByExpr::Expressions(keys, modifiers);
    let alias = alias_of(from, qualifier);
    let input = input_of(select, from, select.selection.clone());
    let call = table_function(&window, input, partition, &column, intervals);
    select.selection = None;
    select.from =
        vec![TableWithJoins { relation: TableFactor::TableFunction { expr: call, alias }, joins: Vec::new() }];
    select.group_by = group_by;
    replace_times(select, window.function)
}

/// Returns the expression of a key: for a number, as in `GROUP BY 1`, that of the column at this place.
fn spelt_out(key: &Expr, projection: &[SelectItem]) -> Expr {
    let Expr::Value(value) = key else { return key.clone() };
    let Value::Number(number, _) = &value.value else { return key.clone() };
    let item = number.to_string().parse::<usize>().ok().and_then(|n| projection.get(n.checked_sub(1)?));
    match item {
        Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => expr.clone(),
        _ => key.clone(),
    }
}

/// Returns the alias under which the SELECT refers to the windowed rows; `None` if it cannot refer to them.
fn alias_of(from: &TableWithJoins, qualifier: Option<Ident>) -> Option<TableAlias> {
    let name = match &from.relation {
        _ if !from.joins.is_empty() => return None,
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::TableFunction { alias: Some(alias), .. } => alias.name.clone(),
        TableFactor::Table { name, .. } => name.0.last().and_then(|part| part.as_ident().cloned())?,
        _ => qualifier?,
    };
    Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None })
}

/// Returns the input of the window function: the table itself, or a query that joins and filters.
fn input_of(outer: &Select, from: &TableWithJoins, filter: Option<Expr>) -> WindowInput {
    // A table with an alias becomes a query, since keys of sessions refer to it by the alias.
    if let (TableFactor::Table { name, alias: None, args: None, .. }, None, true) =
        (&from.relation, &filter, from.joins.is_empty())
        && let [part] = name.0.as_slice()
        && let Some(name) = part.as_ident()
    {
        return WindowInput::Table(name.clone());
    }
    let mut inner = outer.clone();
    inner.projection = vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())];
    inner.group_by = GroupByExpr::Expressions(Vec::new(), Vec::new());
    inner.selection = filter;
    (inner.distinct, inner.having, inner.qualify, inner.named_window) = (None, None, None, Vec::new());
    WindowInput::Query(Box::new(query_of(inner)))
}

fn table_function(
    window: &Grouping,
    input: WindowInput,
    partition: Vec<Expr>,
    time: &Ident,
    intervals: &[Expr],
) -> Expr {
    let descriptor = call("descriptor", vec![Expr::Identifier(time.clone())], window.span);
    let args = [make_table_argument(input, partition, window.span), descriptor];
    call(window.function.name(), args.into_iter().chain(intervals.iter().cloned()).collect(), window.span)
}

/// Replaces `HOP_START(…)`, `HOP_END(…)` and the like in the SELECT list and in HAVING.
fn replace_times(select: &mut Select, function: WindowFunction) -> Result<(), SqlError> {
    struct Times {
        function: WindowFunction,
        wants_time: bool,
    }
    impl VisitorMut for Times {
        type Break = SqlError;
        // Calls of subqueries with windows of their own have been replaced before.
        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
            let Expr::Function(call) = &*expr else { return ControlFlow::Continue(()) };
            let name = function_name(&call.name);
            let Some((function, part)) = name.rsplit_once('_') else { return ControlFlow::Continue(()) };
            let Some(function) = WindowFunction::named(function) else { return ControlFlow::Continue(()) };
            let column = match part {
                "start" => "window_start",
                "end" => "window_end",
                "rowtime" | "proctime" => "window_time",
                _ => return ControlFlow::Continue(()),
            };
            let span = call.name.span();
            if function != self.function {
                let message = format!("{} goes with GROUP BY {}(…)", name.to_uppercase(), function.name());
                let hint = format!("this query groups by {}(…)", self.function.name());
                return ControlFlow::Break(SqlError::in_span(span, message).hint(hint));
            }
            self.wants_time |= column == "window_time";
            *expr = Expr::Identifier(Ident::with_span(span, column));
            ControlFlow::Continue(())
        }
    }
    let mut times = Times { function, wants_time: false };
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
            && let ControlFlow::Break(error) = VisitMut::visit(expr, &mut times)
        {
            return Err(error);
        }
    }
    if let Some(having) = &mut select.having
        && let ControlFlow::Break(error) = VisitMut::visit(having, &mut times)
    {
        return Err(error);
    }
    if let (true, GroupByExpr::Expressions(keys, _)) = (times.wants_time, &mut select.group_by) {
        keys.push(Expr::Identifier(Ident::new("window_time")));
    }
    Ok(())
}

/// True if `name` is a function that [`rewrite_group_windows`] replaces.
pub fn is_window_time(name: &str) -> bool {
    name.rsplit_once('_').is_some_and(|(function, part)| {
        WindowFunction::named(function).is_some() && matches!(part, "start" | "end" | "rowtime" | "proctime")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Statement, parse_script};

    fn rewritten(select: &str) -> Result<String, SqlError> {
        let script = parse_script(&format!("INSERT INTO t {select}"))?;
        let Statement::Insert(insert) = &script[0] else { panic!("no insert") };
        let mut query = insert.query.clone();
        rewrite_group_windows(&mut query)?;
        Ok(query.to_string())
    }

    #[test]
    fn windows_move_into_from() {
        assert_eq!(
            rewritten("SELECT k, TUMBLE_START(ts, INTERVAL '1' DAY) AS s, count(*) FROM b GROUP BY k, TUMBLE(ts, INTERVAL '1' DAY)").unwrap(),
            "SELECT k, window_start AS s, count(*) FROM TABLE(TUMBLE(TABLE (b), descriptor(ts), INTERVAL '1' DAY)) AS b \
             GROUP BY k, window_start, window_end"
        );
        assert_eq!(
            rewritten("SELECT b.k, SESSION_ROWTIME(ts, INTERVAL '1' DAY) FROM b WHERE k > 1 GROUP BY 1, SESSION(b.ts, INTERVAL '1' DAY)").unwrap(),
            "SELECT b.k, window_time FROM TABLE(SESSION(TABLE ((SELECT * FROM b WHERE k > 1), b.k), descriptor(ts), \
             INTERVAL '1' DAY)) AS b GROUP BY 1, window_start, window_end, window_time"
        );
        assert_eq!(rewritten("SELECT k FROM b GROUP BY k").unwrap(), "SELECT k FROM b GROUP BY k");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let error = |select: &str| rewritten(select).unwrap_err().to_string();
        let two = "SELECT 1 FROM b GROUP BY TUMBLE(ts, INTERVAL '1' DAY), TUMBLE(ts, INTERVAL '2' DAY)";
        assert!(error(two).contains("a GROUP BY has one window"));
        let other = "SELECT HOP_END(ts, INTERVAL '1' DAY) FROM b GROUP BY TUMBLE(ts, INTERVAL '1' DAY)";
        assert!(error(other).contains("HOP_END goes with GROUP BY HOP(…)"));
    }
}
