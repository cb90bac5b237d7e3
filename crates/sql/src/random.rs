//! `random()`, `rand()`, `uuid()`: derived from the query's text, the record's position and the place of the call.
//!
//! Owns: where they may be called, and their rewriting to functions of the record's position. Does not own: computing
//! them (`functions::random`). Invariant: a replayed batch gives the same values; the values of different records, or of
//! different calls, are independent.

use super::error::SqlError;
use super::metadata_columns::collect_ctes;
use super::refuse::not_yet;
use super::syntax::{call, function_name};
use super::types::fold;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, Query, Select, Spanned,
    TableFactor, Value, Visit, VisitMut, Visitor, VisitorMut,
};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Metadata columns that make up a record's position.
const POSITION: [&str; 3] = ["_topic", "_partition", "_offset"];

const HINT: &str = "its value comes from the record's position: call it where records are read, as in a view that \
                    is SELECT …, uuid() AS id FROM <table> without JOIN, GROUP BY and UNNEST";

/// Returns the internal function that computes the function `name`; `None` if `name` is not random.
fn derived(name: &str) -> Option<&'static str> {
    match name {
        "random" | "rand" => Some("hw_random"),
        "uuid" | "uuidv4" | "gen_random_uuid" => Some("hw_uuid"),
        _ => None,
    }
}

/// Adds the metadata columns that the calls of a query need.
pub fn collect_position(node: &impl Visit, used: &mut BTreeSet<&'static str>) {
    struct Calls;
    impl Visitor for Calls {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(function) if derived(&function_name(&function.name)).is_some() => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    if node.visit(&mut Calls).is_break() {
        used.extend(POSITION);
    }
}

/// Rewrites calls over tables for which `is_stream` is true, and refuses others. `seed` is made from the query's text.
pub fn derive_random(query: &mut Query, seed: u64, is_stream: &dyn Fn(&str) -> bool) -> Result<(), SqlError> {
    let mut shadowed = BTreeSet::new();
    collect_ctes(query, &mut shadowed);
    let is_stream = |name: &str| is_stream(name) && !shadowed.contains(name);
    match VisitMut::visit(query, &mut Selects { seed, is_stream: &is_stream }) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Selects<'a> {
    seed: u64,
    is_stream: &'a dyn Fn(&str) -> bool,
}

impl VisitorMut for Selects<'_> {
    type Break = SqlError;

    // Subqueries are visited first, so the calls that are left belong to this SELECT.
    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        let mut calls = Calls { seed: self.seed, table: table(select, self.is_stream) };
        for item in &mut select.projection {
            VisitMut::visit(item, &mut calls)?;
        }
        if let Some(condition) = &mut select.selection {
            VisitMut::visit(condition, &mut calls)?;
        }
        calls.table = None;
        if let Some(having) = &mut select.having {
            VisitMut::visit(having, &mut calls)?;
        }
        VisitMut::visit(&mut select.group_by, &mut calls)
    }
}

/// Returns the name of the table if every row of this SELECT comes from one record of it; `None` otherwise.
fn table(select: &Select, is_stream: &dyn Fn(&str) -> bool) -> Option<Ident> {
    let [from] = select.from.as_slice() else { return None };
    let TableFactor::Table { name, alias, args: None, .. } = &from.relation else { return None };
    let [part] = name.0.as_slice() else { return None };
    let name = part.as_ident()?;
    let is_grouped = !matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    if !from.joins.is_empty() || is_grouped || !is_stream(&fold(name)) || multiplies(select) {
        return None;
    }
    Some(alias.as_ref().map_or(name.clone(), |alias| alias.name.clone()))
}

/// True if an UNNEST makes several rows of one record.
fn multiplies(select: &Select) -> bool {
    struct Lists;
    impl Visitor for Lists {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(function) if function_name(&function.name) == "unnest" => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    select.projection.iter().any(|item| item.visit(&mut Lists).is_break())
}

struct Calls {
    seed: u64,
    table: Option<Ident>,
}

impl VisitorMut for Calls {
    type Break = SqlError;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function_name(&function.name);
        let Some(derived) = derived(&name) else { return ControlFlow::Continue(()) };
        let span = function.name.span();
        let Some(table) = &self.table else {
            return ControlFlow::Break(not_yet(&format!("{name}() here"), span).hint(HINT));
        };
        let number = |value: String| Expr::Value(Value::Number(value, false).with_empty_span());
        let place = format!("{}:{}{}", span.start.line, span.start.column, seed_of(function));
        let mut args =
            vec![number((self.seed >> 1).to_string()), Expr::Value(Value::SingleQuotedString(place).with_empty_span())];
        let column = |name: &&str| Expr::CompoundIdentifier(vec![table.clone(), Ident::with_quote('"', *name)]);
        args.extend(POSITION.iter().map(column));
        *expr = call(derived, args, span);
        ControlFlow::Continue(())
    }
}

/// Returns `:42` for `rand(42)`, which the value is derived from, too; empty without an argument.
fn seed_of(function: &Function) -> String {
    match &function.args {
        FunctionArguments::List(list) => match list.args.as_slice() {
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(seed))] => format!(":{seed}"),
            _ => String::new(),
        },
        _ => String::new(),
    }
}
