//! `LIKE … ESCAPE` and `SIMILAR TO` with the meaning of the SQL standard.
//!
//! Owns: LIKE with an escape character other than the backslash, and SIMILAR TO, whose constant pattern becomes a regular
//! expression of the whole text (SQL:2016, 8.6; <https://www.postgresql.org/docs/current/functions-matching.html>).
//! Does not own: matching. Invariant: a pattern that is wrong or not constant is refused.

use super::error::SqlError;
use super::syntax::call;
use datafusion::sql::sqlparser::ast::{
    Expr, Query, Spanned, UnaryOperator, Value, ValueWithSpan, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use std::ops::ControlFlow;

/// Rewrites every LIKE, ILIKE and SIMILAR TO.
pub fn use_patterns(query: &mut Query) -> Result<(), SqlError> {
    struct Patterns;
    impl VisitorMut for Patterns {
        type Break = SqlError;
        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
            match rewrite(expr) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        }
    }
    match VisitMut::visit(query, &mut Patterns) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn rewrite(expr: &mut Expr) -> Result<(), SqlError> {
    let span = expr.span();
    match expr {
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            let Some(text) = literal(pattern) else {
                return match escape(escape_char, span)? {
                    Some('\\') | None => Ok(()),
                    Some(_) => Err(constant(span, "LIKE … ESCAPE")),
                };
            };
            if let Some(escape) = escape(escape_char, span)? {
                let parts = parts(&text, Some(escape), span)?;
                **pattern = string(parts.into_iter().map(like).collect(), span);
                *escape_char = None;
            } else {
                parts(&text, Some('\\'), span)?;
            }
            Ok(())
        }
        Expr::SimilarTo { negated, expr: text, pattern, escape_char } => {
            let Some(pattern) = literal(pattern) else { return Err(constant(span, "SIMILAR TO")) };
            let escape = escape(escape_char, span)?.or(Some('\\'));
            let regex: String = parts(&pattern, escape, span)?.into_iter().map(similar).collect();
            let regex = string(format!("^(?s:{regex})$"), span);
            let matches = call("regexp_like", vec![text.as_ref().clone(), regex], span);
            *expr = match negated {
                true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(matches) },
                false => matches,
            };
            Ok(())
        }
        _ => Ok(()),
    }
}

fn constant(span: Span, what: &str) -> SqlError {
    SqlError::in_span(span, format!("the pattern of {what} must be a constant text"))
        .hint("use LIKE without ESCAPE, or a regular expression: x ~ pattern")
}

fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => Some(text.clone()),
        _ => None,
    }
}

fn string(text: String, span: Span) -> Expr {
    Expr::Value(Value::SingleQuotedString(text).with_span(span))
}

/// The character of ESCAPE; `None` if there is no such clause.
fn escape(clause: &Option<ValueWithSpan>, span: Span) -> Result<Option<char>, SqlError> {
    let Some(clause) = clause else { return Ok(None) };
    let one = match &clause.value {
        Value::SingleQuotedString(text) => {
            let mut letters = text.chars();
            letters.next().filter(|_| letters.next().is_none())
        }
        _ => None,
    };
    one.map(Some).ok_or_else(|| SqlError::in_span(span, "ESCAPE takes one character, such as ESCAPE '!'"))
}

/// A character of a pattern, and whether it is escaped: then it stands for itself.
type Part = (char, bool);

fn parts(pattern: &str, escape: Option<char>, span: Span) -> Result<Vec<Part>, SqlError> {
    let mut parts = Vec::with_capacity(pattern.len());
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if Some(letter) != escape {
            parts.push((letter, false));
            continue;
        }
        match letters.next() {
            Some(letter) => parts.push((letter, true)),
            None => {
                let message = format!("the pattern '{pattern}' ends with its escape character");
                return Err(SqlError::in_span(span, message)
                    .hint(format!("for the character itself, write it twice: {letter}{letter}")));
            }
        }
    }
    Ok(parts)
}

/// In a LIKE pattern whose escape character is the backslash.
fn like((letter, is_escaped): Part) -> String {
    let is_special = matches!(letter, '%' | '_');
    if letter == '\\' || is_escaped && is_special { format!("\\{letter}") } else { letter.to_string() }
}

/// In a regular expression.
fn similar((letter, is_escaped): Part) -> String {
    match letter {
        '%' if !is_escaped => ".*".into(),
        '_' if !is_escaped => ".".into(),
        // The operators of both.
        '|' | '*' | '+' | '?' | '{' | '}' | '(' | ')' | '[' | ']' if !is_escaped => letter.into(),
        // Ranges and complements of brackets; elsewhere `^` is a character.
        '-' => "-".into(),
        letter if letter.is_alphanumeric() || letter.is_whitespace() => letter.into(),
        '^' if !is_escaped => "^".into(),
        letter => format!("\\{letter}"),
    }
}
