//! Spark's windows: `GROUP BY window(ts, '10 minutes', '5 minutes'), k` with `window.start` and `window.end`.
//!
//! Owns: rewriting them to the older names (`group_windows`): `window` is TUMBLE or HOP, `session_window` SESSION.
//! Invariant: columns keep Spark's names, `start`, `end`, `window`.
//! <https://spark.apache.org/docs/latest/api/sql/#window>

use super::identifier::key_of;
use super::syntax::function_name;
use super::syntax::{arguments, call, interval};
use super::types::fold;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, GroupByExpr, Ident, Query, Select, SelectItem, Spanned, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use std::ops::ControlFlow;

/// Rewrites every SELECT that groups by such a window.
pub fn rewrite_spark_windows(query: &mut Query) {
    struct Selects;
    impl VisitorMut for Selects {
        type Break = ();
        fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
            rewrite(select);
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Selects);
}

/// A call of `window` or `session_window`.
struct Window {
    /// Name of the called function.
    name: String,
    /// The older function that replaces the call.
    function: &'static str,
    /// Arguments of the older function.
    args: Vec<Expr>,
    span: Span,
}

fn window(expr: &Expr) -> Option<Window> {
    let Expr::Function(function) = expr else { return None };
    let name = function_name(&function.name);
    let args = arguments(function)?;
    let (function_name, args) = match (name.as_str(), args.as_slice()) {
        ("window", [time, size]) => ("tumble", vec![time.clone(), duration(size)]),
        ("window", [time, size, slide, start @ ..]) if start.len() < 2 => {
            let lengths = [slide, size].into_iter().chain(start).map(duration);
            ("hop", std::iter::once(time.clone()).chain(lengths).collect())
        }
        ("session_window", [time, gap]) => ("session", vec![time.clone(), duration(gap)]),
        _ => return None,
    };
    Some(Window { name, function: function_name, args, span: function.name.span() })
}

/// Makes intervals of `'10 minutes'` and `'interval 10 minutes'`.
fn duration(expr: &Expr) -> Expr {
    match expr {
        Expr::Value(value) if let Value::SingleQuotedString(text) = &value.value => {
            let text = text.trim();
            let is_told = text.get(..9).is_some_and(|start| start.eq_ignore_ascii_case("interval "));
            interval(if is_told { text[9..].to_string() } else { text.to_string() })
        }
        other => other.clone(),
    }
}

impl Window {
    fn part(&self, part: &str) -> Expr {
        call(&format!("{}_{part}", self.function), self.args.clone(), self.span)
    }

    /// Returns the replacement of an expression that refers to this window, and its column's name; `None` for all others.
    fn replaces(&self, expr: &Expr) -> Option<(Expr, String)> {
        // The column is called as the script's other columns of this name.
        let part = |name: &Ident| match key_of(&name.value).as_str() {
            part @ ("start" | "end") => Some((self.part(part), fold(name))),
            _ => None,
        };
        let is_own = |name: &Ident| key_of(&name.value) == self.name;
        let whole = || {
            let name = |name: &str| Expr::Value(Value::SingleQuotedString(name.into()).with_empty_span());
            let fields = vec![name("start"), self.part("start"), name("end"), self.part("end")];
            Some((call("named_struct", fields, self.span), self.name.clone()))
        };
        match expr {
            Expr::Identifier(name) if is_own(name) => whole(),
            Expr::CompoundIdentifier(names) => match names.as_slice() {
                [window, name] if is_own(window) => part(name),
                _ => None,
            },
            Expr::CompoundFieldAccess { root, access_chain } => match access_chain.as_slice() {
                [AccessExpr::Dot(Expr::Identifier(name))] if self.is(root) => part(name),
                _ => None,
            },
            Expr::Function(function) if function_name(&function.name) == "window_time" => {
                Some((self.part("rowtime"), "window_time".into()))
            }
            other if self.is(other) => whole(),
            _ => None,
        }
    }

    fn is(&self, expr: &Expr) -> bool {
        window(expr).is_some_and(|other| other.name == self.name && other.args == self.args)
    }
}

fn rewrite(select: &mut Select) {
    let GroupByExpr::Expressions(keys, _) = &mut select.group_by else { return };
    let Some((key, found)) = keys.iter_mut().find_map(|key| window(key).map(|found| (key, found))) else { return };
    *key = call(found.function, found.args.clone(), found.span);
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) = item
            && let Some((expr, name)) = found.replaces(expr)
        {
            *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', name) };
        } else if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            replace_within(&found, expr);
        }
    }
    if let Some(having) = &mut select.having {
        replace_within(&found, having);
    }
}

/// Replaces references to the window within `expr`. This takes two walks, since a replacement may look like such a reference
/// itself, and must not be replaced again.
fn replace_within(found: &Window, expr: &mut Expr) {
    struct Marks<'a>(&'a Window, Vec<Expr>);
    impl VisitorMut for Marks<'_> {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Some((part, _)) = self.0.replaces(expr) {
                *expr = Expr::Identifier(mark(self.1.len()));
                self.1.push(part);
            }
            ControlFlow::Continue(())
        }
    }
    struct Parts(Vec<Expr>);
    impl VisitorMut for Parts {
        type Break = ();
        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            let part = match expr {
                Expr::Identifier(name) => self.0.iter().enumerate().find(|(place, _)| *name == mark(*place)),
                _ => None,
            };
            if let Some((_, part)) = part {
                *expr = part.clone();
            }
            ControlFlow::Continue(())
        }
    }
    let mut marks = Marks(found, Vec::new());
    let _ = VisitMut::visit(expr, &mut marks);
    let _ = VisitMut::visit(expr, &mut Parts(marks.1));
}

fn mark(place: usize) -> Ident {
    Ident::with_quote('"', format!("__hw_window_{place}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Statement, parse_script};

    fn rewritten(select: &str) -> String {
        let script = parse_script(&format!("INSERT INTO t {select}")).unwrap();
        let Statement::Insert(insert) = &script[0] else { panic!("no insert") };
        let mut query = insert.query.clone();
        rewrite_spark_windows(&mut query);
        query.to_string()
    }

    #[test]
    fn windows_have_their_older_names() {
        assert_eq!(
            rewritten("SELECT window.start, window.end AS e, count(*) FROM b GROUP BY k, window(ts, '10 minutes')"),
            "SELECT tumble_start(ts, INTERVAL '10 minutes') AS \"start\", tumble_end(ts, INTERVAL '10 minutes') AS e, \
             count(*) FROM b GROUP BY k, tumble(ts, INTERVAL '10 minutes')"
        );
        assert_eq!(
            rewritten(
                "SELECT window(ts, '1 hour', 'interval 5 minutes').end FROM b GROUP BY window(ts, '1 hour', 'interval 5 minutes')"
            ),
            "SELECT hop_end(ts, INTERVAL '5 minutes', INTERVAL '1 hour') AS \"end\" FROM b GROUP BY \
             hop(ts, INTERVAL '5 minutes', INTERVAL '1 hour')"
        );
        assert_eq!(
            rewritten("SELECT session_window FROM b GROUP BY session_window(ts, '1 hour')"),
            "SELECT named_struct('start', session_start(ts, INTERVAL '1 hour'), 'end', session_end(ts, INTERVAL '1 hour')) \
             AS \"session_window\" FROM b GROUP BY session(ts, INTERVAL '1 hour')"
        );
        assert_eq!(
            rewritten("SELECT window.start AS s, 1 + sum(x) FROM b GROUP BY window(window.end, '1 hour')"),
            "SELECT tumble_start(window.end, INTERVAL '1 hour') AS s, 1 + sum(x) FROM b GROUP BY \
             tumble(window.end, INTERVAL '1 hour')"
        );
        let other = "SELECT window.start FROM window GROUP BY window.start";
        assert_eq!(rewritten(other), other);
    }
}
