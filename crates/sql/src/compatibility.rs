//! Functions whose arguments differ between Spark or Flink and DataFusion: Java's date patterns, timestamps in place of
//! dates, operators in place of functions.
//!
//! Owns: rewriting one call. Does not own: walking a query (`names`), other names of a function (`functions`). Invariant: a
//! call that DataFusion accepts keeps its meaning, so a pattern with `%` is chrono's.

use super::syntax::function_name;
use super::syntax::{arguments, call};
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, Expr, Function, Spanned, TimezoneInfo, UnaryOperator, Value,
};
use highwater_functions::chrono_pattern;

/// Returns the same expression as DataFusion writes it; `None` if `expr` stays as it is.
pub fn standard(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::RLike { negated, expr: text, pattern, .. } => {
            let like = call("regexp_like", vec![text.as_ref().clone(), pattern.as_ref().clone()], text.span());
            Some(match negated {
                true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(like) },
                false => like,
            })
        }
        Expr::Function(function) if function.over.is_none() => standard_call(function),
        _ => None,
    }
}

fn standard_call(function: &Function) -> Option<Expr> {
    let args = arguments(function)?;
    let span = function.name.span();
    let name = function_name(&function.name);
    Some(match (name.as_str(), args.as_slice()) {
        ("to_timestamp", [text, pattern]) => to_timestamp(text, pattern)?,
        ("to_date", [text, pattern]) => call("to_date", vec![text.clone(), chrono(pattern)?], span),
        ("unix_timestamp", []) => call("unix_timestamp", vec![call("now", Vec::new(), span)], span),
        ("unix_timestamp", [text, pattern]) => call("unix_timestamp", vec![to_timestamp(text, pattern)?], span),
        ("last_day", [time]) => call("last_day", vec![date(time)], span),
        ("next_day", [time, day]) => call("next_day", vec![date(time), day.clone()], span),
        ("add_months", [time, months]) => {
            call("add_months", vec![date(time), cast(months.clone(), DataType::Int(None))], span)
        }
        ("dayname", [time]) => call("date_format", vec![time.clone(), text("EEE")], span),
        ("monthname", [time]) => call("date_format", vec![time.clone(), text("MMM")], span),
        ("trunc", [time, unit]) => {
            let unit = match literal(unit)?.to_lowercase().as_str() {
                "year" | "yyyy" | "yy" => "year",
                "quarter" => "quarter",
                "month" | "mon" | "mm" => "month",
                "week" => "week",
                _ => return None,
            };
            date(&call("date_trunc", vec![text(unit), timestamp(date(time))], span))
        }
        ("date", [time]) => date(time),
        ("isnull", [value]) => Expr::Nested(Box::new(Expr::IsNull(Box::new(value.clone())))),
        ("isnotnull", [value]) => Expr::Nested(Box::new(Expr::IsNotNull(Box::new(value.clone())))),
        ("split", [value, by]) if literal(by)?.chars().all(|letter| !"\\^$.|?*+()[]{}".contains(letter)) => {
            call("string_to_array", vec![value.clone(), by.clone()], span)
        }
        ("space", [count]) => call("space", vec![cast(count.clone(), DataType::Int(None))], span),
        ("e", []) => call("exp", vec![Expr::Value(Value::Number("1".into(), false).with_empty_span())], span),
        _ => return None,
    })
}

fn literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

fn text(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.into()).with_empty_span())
}

/// Translates a Java pattern to chrono's; `None` unless it is a literal of Java's that can be translated.
fn chrono(pattern: &Expr) -> Option<Expr> {
    let java = literal(pattern).filter(|java| !java.contains('%'))?;
    Some(text(&chrono_pattern(java).ok()?))
}

/// Builds the timestamp. A pattern without time of day gives midnight by way of `to_date`, which would read a number as
/// days; so `time` is cast to text first.
fn to_timestamp(time: &Expr, pattern: &Expr) -> Option<Expr> {
    let has_time = literal(pattern)?.contains(['H', 'h']);
    let (time, pattern, span) = (time.clone(), chrono(pattern)?, time.span());
    Some(match has_time {
        true => call("to_timestamp", vec![time, pattern], span),
        false => timestamp(call("to_date", vec![cast(time, DataType::String(None)), pattern], span)),
    })
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

fn date(expr: &Expr) -> Expr {
    cast(expr.clone(), DataType::Date)
}

fn timestamp(expr: Expr) -> Expr {
    cast(expr, DataType::Timestamp(Some(3), TimezoneInfo::None))
}
