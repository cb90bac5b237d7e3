//! `TABLE(HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '10' SECOND))` as syntax.
//!
//! Owns: the window table functions' names, arguments and their order. Does not own: what they mean
//! (`plan::windows`), the older `GROUP BY HOP(…)` (`group_windows`).

use super::dialect::{WindowInput, table_argument};
use super::error::SqlError;
use super::syntax::function_name;
use super::types::fold;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Spanned, TableAlias, TableFactor,
};
use datafusion::sql::sqlparser::tokenizer::Span;

/// Names of all window table functions.
pub const WINDOW_FUNCTIONS: [&str; 4] = ["tumble", "hop", "cumulate", "session"];

/// One of the window table functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowFunction {
    Tumble,
    Hop,
    Cumulate,
    Session,
}

impl WindowFunction {
    /// Returns the function with this folded name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "tumble" => Some(Self::Tumble),
            "hop" => Some(Self::Hop),
            "cumulate" => Some(Self::Cumulate),
            "session" => Some(Self::Session),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Tumble => "TUMBLE",
            Self::Hop => "HOP",
            Self::Cumulate => "CUMULATE",
            Self::Session => "SESSION",
        }
    }

    /// Returns a hint that shows a call.
    pub fn usage(self) -> &'static str {
        match self {
            Self::Tumble => "write TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND))",
            Self::Hop => {
                "write TABLE(HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '10' SECOND)): \
                 the slide, then the size"
            }
            Self::Cumulate => {
                "write TABLE(CUMULATE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR, INTERVAL '1' DAY)): \
                 the step, then the size"
            }
            Self::Session => {
                "write TABLE(SESSION(TABLE t PARTITION BY user_id, DESCRIPTOR(ts), INTERVAL '10' MINUTE)): \
                 the gap that ends a session"
            }
        }
    }

    /// Returns the names of the arguments after the time column, in order. `offset` may be missing.
    pub fn intervals(self) -> &'static [&'static str] {
        match self {
            Self::Tumble => &["size", "offset"],
            Self::Hop => &["slide", "size", "offset"],
            Self::Cumulate => &["step", "size", "offset"],
            Self::Session => &["gap"],
        }
    }
}

/// A parsed call of a window table function.
#[derive(Clone, Debug)]
pub struct WindowCall {
    pub function: WindowFunction,
    pub input: WindowInput,
    /// Keys of PARTITION BY; empty for functions other than `SESSION`.
    pub partition: Vec<Expr>,
    pub time: Ident,
    /// Arguments in the order of [`WindowFunction::intervals`]; `None` = missing.
    pub intervals: Vec<Option<Expr>>,
    pub alias: Option<TableAlias>,
    pub span: Span,
}

impl WindowCall {
    /// Parses a FROM item; `None` if it is not a function.
    pub fn parse(factor: &TableFactor) -> Result<Option<Self>, SqlError> {
        let (name, args, alias) = match factor {
            TableFactor::TableFunction {
                expr: Expr::Function(Function { name, args: FunctionArguments::List(list), .. }),
                alias,
            } => (name, &list.args, alias),
            TableFactor::TableFunction { expr, .. } => {
                let usage = WindowFunction::Tumble.usage();
                return Err(SqlError::on(expr, "TABLE(…) needs a window function").hint(usage));
            }
            TableFactor::Table { name, args: Some(args), alias, .. } => (name, &args.args, alias),
            _ => return Ok(None),
        };
        let span = name.span();
        let Some(function) = WindowFunction::named(&function_name(name)) else {
            let message = format!("unknown table function '{name}'");
            return Err(SqlError::in_span(span, message).suggest(
                &function_name(name),
                WINDOW_FUNCTIONS,
                "table functions",
            ));
        };
        let arguments = by_position(function, args, span)?;
        let wrong = |what: &str| SqlError::in_span(span, format!("{} {what}", function.name())).hint(function.usage());
        let (input, partition) = match arguments.first().copied().flatten() {
            Some(Expr::Identifier(name)) => (WindowInput::Table(name.clone()), Vec::new()),
            Some(expr) => table_argument(expr).ok_or_else(|| wrong("needs TABLE t as its first argument"))?,
            None => return Err(wrong("needs a table")),
        };
        if let Some(key) = partition.first().filter(|_| function != WindowFunction::Session) {
            return Err(SqlError::on(key, format!("{} has no PARTITION BY", function.name()))
                .hint("its windows are the same for all rows: put the column into GROUP BY"));
        }
        let time = arguments.get(1).copied().flatten().and_then(descriptor);
        let time = time.ok_or_else(|| wrong("needs DESCRIPTOR(<time column>) as its second argument"))?;
        let intervals: Vec<Option<Expr>> = arguments.iter().skip(2).map(|argument| argument.cloned()).collect();
        let missing = |(_, (name, value)): &(usize, (&&str, &Option<Expr>))| value.is_none() && **name != "offset";
        if let Some((_, (name, _))) = function.intervals().iter().zip(&intervals).enumerate().find(missing) {
            return Err(wrong(&format!("needs its {name}")));
        }
        Ok(Some(Self { function, input, partition, time, intervals, alias: alias.clone(), span }))
    }

    /// Returns the name of the input table; `None` if the input is a query.
    pub fn table(&self) -> Option<String> {
        match &self.input {
            WindowInput::Table(name) => Some(fold(name)),
            WindowInput::Query(_) => None,
        }
    }
}

/// Returns the arguments in the order table, time, intervals, also those given by name (`SIZE => …`); `None` = missing.
fn by_position(function: WindowFunction, args: &[FunctionArg], span: Span) -> Result<Vec<Option<&Expr>>, SqlError> {
    let names: Vec<&str> = ["data", "timecol"].into_iter().chain(function.intervals().iter().copied()).collect();
    let mut slots = vec![None; names.len()];
    for (index, arg) in args.iter().enumerate() {
        let (position, value) = match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => (Some(index), expr),
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. } => {
                (names.iter().position(|known| *known == fold(name)), expr)
            }
            _ => {
                let message = format!("this is no argument of {}", function.name());
                return Err(SqlError::on(arg, message).hint(function.usage()));
            }
        };
        let slot = position.and_then(|position| slots.get_mut(position));
        *slot.ok_or_else(|| {
            let takes = format!("{} takes these arguments: {}", function.name(), names.join(", "));
            SqlError::in_span(span, takes).hint(function.usage())
        })? = Some(value);
    }
    Ok(slots)
}

fn descriptor(expr: &Expr) -> Option<Ident> {
    let Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) = expr else { return None };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(column)))]
            if function_name(name) == "descriptor" =>
        {
            Some(column.clone())
        }
        _ => None,
    }
}
