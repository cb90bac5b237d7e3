//! SQL this engine does not run, refused by name and place before anything is planned.
//!
//! Owns: the list of refusals that need only syntax, and unknown functions. Does not own: refusals
//! that need types or lineage (`plan`). Invariant: what passes here and in `plan` runs exactly as SQL says.

use super::error::SqlError;
use super::functions::{Functions, Verdict};
use super::group_windows::is_window_time;
use super::names::lacks_order;
use super::syntax::function_name;
use super::unnest::is_generator;
use super::window_call::WINDOW_FUNCTIONS;
use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, Function, GroupByExpr, ObjectName, OrderByKind, Query, Select, SetExpr, Spanned, TableFactor,
    Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use highwater_functions::clock::is_clock;
use std::ops::ControlFlow;

type Flow = ControlFlow<SqlError>;

/// Refuses unsupported SQL, with its place in the script.
pub fn refuse_unsupported(node: &impl Visit, functions: &Functions) -> Result<(), SqlError> {
    let mut check = Check { functions, in_table_function: 0, depth: 0 };
    match node.visit(&mut check) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Returns the error of a refusal: `{what} is not supported in streaming yet`.
pub fn not_yet(what: &str, span: Span) -> SqlError {
    SqlError::in_span(span, format!("{what} is not supported in streaming yet"))
}

struct Check<'a> {
    functions: &'a Functions,
    in_table_function: usize,
    /// Number of queries around the current node.
    depth: usize,
}

fn refuse(error: SqlError) -> Flow {
    ControlFlow::Break(error)
}

impl Visitor for Check<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &Query) -> Flow {
        self.depth += 1;
        let is_distinct_on =
            matches!(query.body.as_ref(), SetExpr::Select(select) if matches!(select.distinct, Some(Distinct::On(_))));
        if let (Some(order), None, false) = (&query.order_by, &query.limit_clause, is_distinct_on) {
            let span = match &order.kind {
                OrderByKind::Expressions(list) => list.first().map(Spanned::span),
                OrderByKind::All(_) => None,
            };
            return refuse(
                not_yet("ORDER BY without LIMIT", span.unwrap_or(query.span()))
                    .hint("a stream has no end to sort at: sort where the result is read, or add a LIMIT"),
            );
        }
        if let Some(fetch) = &query.fetch {
            let what = if fetch.percent { "FETCH FIRST … PERCENT" } else { "FETCH FIRST … WITH TIES" };
            let hint = "for ties, write RANK() OVER (ORDER BY …) <= n; an endless stream has no percentage";
            return refuse(not_yet(what, query.span()).hint(hint));
        }
        if let Some(with) = query.with.as_ref().filter(|with| with.recursive) {
            return refuse(not_yet("WITH RECURSIVE", with.span()));
        }
        if !query.locks.is_empty() || query.for_clause.is_some() || !query.pipe_operators.is_empty() {
            return refuse(not_yet("this clause after the query", query.span()));
        }
        check_body(&query.body, self.depth > 1)
    }

    fn post_visit_query(&mut self, _: &Query) -> Flow {
        self.depth -= 1;
        Flow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> Flow {
        let start = select.select_token.0.span;
        if select.from.is_empty() && self.depth <= 1 {
            return refuse(
                SqlError::in_span(start, "this SELECT has no FROM: there is nothing to read")
                    .hint("read a table: SELECT … FROM <table>"),
            );
        }
        let clauses = [
            (select.top.is_some(), "TOP"),
            (select.into.is_some(), "SELECT INTO"),
            (!select.lateral_views.is_empty(), "LATERAL VIEW"),
            (!select.connect_by.is_empty(), "CONNECT BY"),
            (!select.sort_by.is_empty(), "SORT BY"),
            (!select.cluster_by.is_empty(), "CLUSTER BY"),
            (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
        ];
        if let Some((_, name)) = clauses.into_iter().find(|(present, _)| *present) {
            let refused = not_yet(name, start);
            return refuse(match name {
                "LATERAL VIEW" => {
                    refused.hint("use it with explode or posexplode, or write CROSS JOIN UNNEST(list) AS v (x)")
                }
                _ => refused,
            });
        }
        refuse_clock(select)?;
        match &select.group_by {
            GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers) if !modifiers.is_empty() => {
                refuse(not_yet("GROUP BY with a modifier", start))
            }
            _ => Flow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Flow {
        match factor {
            TableFactor::TableFunction { expr, .. } => {
                self.in_table_function += 1;
                if let Expr::Function(function) = expr {
                    return check_window_name(&function.name, function.name.span());
                }
            }
            TableFactor::Table { args: Some(_), name, .. } if is_generator(name) => self.in_table_function += 1,
            TableFactor::Table { args: Some(_), name, .. } => {
                self.in_table_function += 1;
                return check_window_name(name, factor.span());
            }
            TableFactor::Table { sample: Some(_), .. } => return refuse(not_yet("TABLESAMPLE", factor.span())),
            TableFactor::Table { .. } => {}
            TableFactor::Derived { .. } => {}
            TableFactor::MatchRecognize { .. } => return refuse(not_yet("MATCH_RECOGNIZE", factor.span())),
            TableFactor::NestedJoin { .. } => {}
            _ => return refuse(not_yet("this kind of FROM item", factor.span())),
        }
        Flow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &TableFactor) -> Flow {
        if matches!(factor, TableFactor::TableFunction { .. } | TableFactor::Table { args: Some(_), .. }) {
            self.in_table_function -= 1;
        }
        Flow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Flow {
        match expr {
            Expr::Function(function) => self.check_function(function),
            _ => Flow::Continue(()),
        }
    }
}

impl Check<'_> {
    fn check_function(&self, function: &Function) -> Flow {
        let span = function.name.span();
        let name = function_name(&function.name);
        if self.in_table_function > 0 && name == "descriptor" {
            return Flow::Continue(());
        }
        if WINDOW_FUNCTIONS.contains(&name.as_str()) {
            return match self.in_table_function {
                0 => refuse(SqlError::in_span(span, format!("{} belongs in FROM", name.to_uppercase()))
                    .hint("write FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND)) and GROUP BY window_start, window_end")),
                _ => check_window_name(&function.name, span),
            };
        }
        if name == "unnest" {
            return Flow::Continue(());
        }
        if matches!(name.as_str(), "posexplode" | "explode_outer" | "posexplode_outer" | "inline") {
            let hint = "write FROM t CROSS JOIN UNNEST(list) WITH ORDINALITY AS u (x, i), or LEFT JOIN … ON TRUE to \
                        keep rows without elements";
            return refuse(not_yet(&format!("{} in SELECT", name.to_uppercase()), span).hint(hint));
        }
        if lacks_order(function) {
            let hint = format!("rows come in no fixed order: write {name}(x ORDER BY ts), or any_value(x)");
            return refuse(not_yet(&format!("{name}() without ORDER BY"), span).hint(hint));
        }
        if is_window_time(&name) {
            let message = format!("{} needs a GROUP BY of its window", name.to_uppercase());
            return refuse(
                SqlError::in_span(span, message)
                    .hint("with window table functions, select window_start, window_end or window_time"),
            );
        }
        match self.functions.verdict(&name) {
            Verdict::Unknown => {
                let near = self.functions.nearest(&name).map(|near| format!("did you mean '{near}'?"));
                let hint = near.unwrap_or_else(|| "DataFusion's scalar and aggregate functions are available".into());
                return refuse(SqlError::in_span(span, format!("unknown function '{name}'")).hint(hint));
            }
            Verdict::Refused(reason) => return refuse(not_yet(&format!("function '{name}'"), span).hint(reason)),
            Verdict::Window if function.over.is_none() => {
                let hint = format!("write {name}() OVER (PARTITION BY … ORDER BY …)");
                return refuse(SqlError::in_span(span, format!("function '{name}' needs OVER")).hint(hint));
            }
            Verdict::Scalar | Verdict::Aggregate | Verdict::Window => {}
        }
        Flow::Continue(())
    }
}

/// `inside` is true within another query, where VALUES may be a side of a join.
fn check_body(body: &SetExpr, inside: bool) -> Flow {
    match body {
        SetExpr::Select(_) | SetExpr::Query(_) => Flow::Continue(()),
        SetExpr::SetOperation { left, right, op, .. } => {
            let is_constant = |side: &SetExpr| matches!(side, SetExpr::Values(_));
            if let (true, Some(side)) = (!inside, [left, right].into_iter().find(|side| is_constant(side))) {
                return refuse(not_yet(&format!("{op} with VALUES"), side.span()).hint(
                    "no record triggers their output: write them to the sink by other means; VALUES may be a side of a join",
                ));
            }
            check_body(left, inside)?;
            check_body(right, inside)
        }
        SetExpr::Values(_) if inside => Flow::Continue(()),
        SetExpr::Values(_) => refuse(
            SqlError::in_span(body.span(), "INSERT … VALUES has no stream to read")
                .hint("write INSERT INTO <table> SELECT … FROM <table>; VALUES may be a side of a join"),
        ),
        _ => refuse(not_yet("this kind of query", body.span())),
    }
}

/// Refuses `now()` in a condition: rows would have to be checked again as time passes. As a column it is allowed.
fn refuse_clock(select: &Select) -> Flow {
    struct Clock;
    impl Visitor for Clock {
        type Break = Span;
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Span> {
            match expr {
                Expr::Function(function) if is_clock(&function_name(&function.name)) => {
                    ControlFlow::Break(function.name.span())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    for expr in select.selection.iter().chain(&select.having) {
        if let ControlFlow::Break(span) = expr.visit(&mut Clock) {
            let hint = "select now() as a column, or use it as a key of GROUP BY; to filter by time, use a window over a \
                        table with WATERMARK";
            return refuse(not_yet("now() in a condition", span).hint(hint));
        }
    }
    Flow::Continue(())
}

/// Refuses unknown window table functions.
fn check_window_name(name: &ObjectName, span: Span) -> Flow {
    let name = function_name(name);
    match name.as_str() {
        known if WINDOW_FUNCTIONS.contains(&known) => Flow::Continue(()),
        _ => refuse(SqlError::in_span(span, format!("unknown table function '{name}'")).suggest(
            &name,
            WINDOW_FUNCTIONS,
            "table functions",
        )),
    }
}
