//! The dialect: generic SQL, and `TABLE t` as an argument of a window function.
//!
//! Owns: which syntax the parser accepts beyond the standard. Does not own: what it means.
//! All other extensions (`CREATE TABLE … WATERMARK FOR`, `ROW<…>`) are parsed in `script` and `ddl`
//! with the parser's own primitives.

use datafusion::sql::sqlparser::ast::{Expr, Ident};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// The dialect of every script.
#[derive(Debug, Default)]
pub struct HighwaterDialect;

/// Marks `TABLE t` among a function's arguments; see [`table_argument`].
const TABLE_MARK: &str = "TABLE";

/// The table of a `TABLE t` argument.
pub fn table_argument(expr: &Expr) -> Option<&Ident> {
    match expr {
        Expr::Prefixed { prefix, value } if prefix.value == TABLE_MARK => match value.as_ref() {
            Expr::Identifier(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

impl Dialect for HighwaterDialect {
    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$'
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let [first, second, third] = parser.peek_tokens_with_location::<3>();
        let is_table = matches!(&first.token, Token::Word(w) if w.keyword == Keyword::TABLE && w.quote_style.is_none());
        let is_name = matches!(second.token, Token::Word(_));
        let ends = matches!(third.token, Token::Comma | Token::RParen);
        if !(is_table && is_name && ends) {
            return None;
        }
        parser.next_token();
        let prefix = Ident::with_span(first.span, TABLE_MARK);
        Some(parser.parse_identifier().map(|name| Expr::Prefixed { prefix, value: Box::new(Expr::Identifier(name)) }))
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

    fn supports_in_empty_list(&self) -> bool {
        true
    }

    fn supports_dictionary_syntax(&self) -> bool {
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
