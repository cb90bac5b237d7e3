//! The dialect: generic SQL, and `TABLE t` as an argument of a window function.
//!
//! Owns: which syntax the parser accepts beyond the standard. Does not own: what it means.
//! All other extensions (`CREATE TABLE … WATERMARK FOR`, `ROW<…>`) are parsed in `script` and `ddl`
//! with the parser's own primitives.

use datafusion::sql::sqlparser::ast::{Expr, Ident, Query};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Span, Token};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The dialect of every script.
#[derive(Debug)]
pub struct HighwaterDialect {
    /// Number of expressions that the parser may still begin.
    left: AtomicUsize,
}

impl Default for HighwaterDialect {
    fn default() -> Self {
        Self { left: AtomicUsize::new(usize::MAX) }
    }
}

impl HighwaterDialect {
    /// Returns the dialect for one parse of so many tokens. sqlparser parses an invalid `CAST (…)` a second time, as a
    /// function call, so the time is exponential in the depth of nested ones. The limit on begun expressions, far above the
    /// need of any valid text, ends such a parse with the error of too deep nesting.
    pub fn for_tokens(tokens: usize) -> Self {
        Self { left: AtomicUsize::new(tokens.saturating_mul(100).saturating_add(10_000)) }
    }

    fn may_begin(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// Marks `TABLE t` among a function's arguments; see [`table_argument`].
const TABLE_MARK: &str = "TABLE";

/// The input of a window function.
#[derive(Clone, Debug)]
pub enum WindowInput {
    Table(Ident),
    Query(Box<Query>),
}

/// Returns the input and the keys of an argument `TABLE t [PARTITION BY …]`; `None` for other arguments.
pub fn table_argument(expr: &Expr) -> Option<(WindowInput, Vec<Expr>)> {
    let Expr::Prefixed { prefix, value } = expr else { return None };
    let Expr::Tuple(parts) = value.as_ref() else { return None };
    let (first, keys) = parts.split_first().filter(|_| prefix.value == TABLE_MARK)?;
    let input = match first {
        Expr::Identifier(name) => WindowInput::Table(name.clone()),
        Expr::Subquery(query) => WindowInput::Query(query.clone()),
        _ => return None,
    };
    Some((input, keys.to_vec()))
}

/// Builds an argument that [`table_argument`] reads.
pub fn make_table_argument(input: WindowInput, keys: Vec<Expr>, span: Span) -> Expr {
    let first = match input {
        WindowInput::Table(name) => Expr::Identifier(name),
        WindowInput::Query(query) => Expr::Subquery(query),
    };
    let parts = std::iter::once(first).chain(keys).collect();
    Expr::Prefixed { prefix: Ident::with_span(span, TABLE_MARK), value: Box::new(Expr::Tuple(parts)) }
}

/// Parses `TABLE`, then `t` or `(SELECT …)`, then `PARTITION BY a` or `PARTITION BY (a, b)`, if there is one.
fn parse_table_argument(parser: &mut Parser) -> Result<Expr, ParserError> {
    let span = parser.next_token().span;
    let input = match parser.consume_token(&Token::LParen) {
        true => {
            let query = parser.parse_query()?;
            parser.expect_token(&Token::RParen)?;
            WindowInput::Query(query)
        }
        false => WindowInput::Table(parser.parse_identifier()?),
    };
    let keys = match parser.parse_keywords(&[Keyword::PARTITION, Keyword::BY]) {
        false => Vec::new(),
        true => match parser.parse_expr()? {
            Expr::Tuple(keys) => keys,
            Expr::Nested(key) => vec![*key],
            key => vec![key],
        },
    };
    Ok(make_table_argument(input, keys, span))
}

impl Dialect for HighwaterDialect {
    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$'
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        if !self.may_begin() {
            return Some(Err(ParserError::RecursionLimitExceeded));
        }
        let [first, second, third] = parser.peek_tokens_with_location::<3>();
        let is_table = matches!(&first.token, Token::Word(w) if w.keyword == Keyword::TABLE && w.quote_style.is_none());
        let ends = match third.token {
            Token::Comma | Token::RParen => true,
            Token::Word(word) => word.keyword == Keyword::PARTITION,
            _ => false,
        };
        let is_name = matches!(second.token, Token::Word(_)) && ends;
        (is_table && (is_name || second.token == Token::LParen)).then(|| parse_table_argument(parser))
    }

    /// Allows `FOR SYSTEM_TIME AS OF`.
    fn supports_table_versioning(&self) -> bool {
        true
    }

    /// Allows MATCH_RECOGNIZE, which `refuse` then refuses by name.
    fn supports_match_recognize(&self) -> bool {
        true
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_within_after_array_aggregation(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    fn supports_group_by_with_modifier(&self) -> bool {
        true
    }

    fn supports_order_by_all(&self) -> bool {
        true
    }

    fn supports_in_empty_list(&self) -> bool {
        true
    }

    fn supports_dictionary_syntax(&self) -> bool {
        true
    }

    fn support_map_literal_syntax(&self) -> bool {
        true
    }

    fn supports_array_typedef_with_brackets(&self) -> bool {
        true
    }

    fn supports_select_wildcard_except(&self) -> bool {
        true
    }

    fn supports_select_wildcard_exclude(&self) -> bool {
        true
    }

    fn supports_select_wildcard_replace(&self) -> bool {
        true
    }

    fn supports_nested_comments(&self) -> bool {
        true
    }

    fn supports_string_escape_constant(&self) -> bool {
        true
    }

    fn supports_unicode_string_literal(&self) -> bool {
        true
    }

    fn supports_numeric_literal_underscores(&self) -> bool {
        true
    }

    fn supports_named_fn_args_with_rarrow_operator(&self) -> bool {
        true
    }

    fn supports_bitwise_shift_operators(&self) -> bool {
        true
    }

    fn allow_extract_custom(&self) -> bool {
        true
    }

    fn allow_extract_single_quotes(&self) -> bool {
        true
    }

    fn supports_extract_comma_syntax(&self) -> bool {
        true
    }

    fn supports_try_convert(&self) -> bool {
        true
    }

    fn supports_window_function_null_treatment_arg(&self) -> bool {
        true
    }

    fn supports_notnull_operator(&self) -> bool {
        true
    }

    fn supports_parens_around_table_factor(&self) -> bool {
        true
    }
}
