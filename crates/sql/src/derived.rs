//! Columns of a table that are not stored in its records: `cost AS price * quantity`, `METADATA FROM 'timestamp'`.
//!
//! Owns: their grammar, and which metadata column a key of `METADATA FROM` names. Does not own: computing them
//! (`plan::derived`). Invariant: every derived column can be read; only metadata without `VIRTUAL` can be written, too.

use super::error::{Result, SqlError};
use super::identifier::{Name, key_of};
use datafusion::arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token};

/// A derived column and its place among all columns as declared.
#[derive(Clone, Debug)]
pub struct Derived {
    pub name: Name,
    /// Number of stored columns that are declared before it.
    pub after: usize,
    pub from: DerivedFrom,
}

/// The source of a derived column.
#[derive(Clone, Debug)]
pub enum DerivedFrom {
    /// An expression over columns of the same row.
    Expr(Box<Expr>),
    /// The metadata column `key`, cast to `data_type`.
    Metadata { key: &'static str, data_type: DataType, is_virtual: bool },
}

/// Flink's metadata keys, each with Highwater's column.
const KEYS: [(&str, &str); 6] = [
    ("timestamp", "_timestamp"),
    ("partition", "_partition"),
    ("offset", "_offset"),
    ("topic", "_topic"),
    ("headers", "_headers"),
    ("key", "_key"),
];

/// Parses `AS expr` after a column's name; `None` if the column is not computed.
pub fn parse_computed(parser: &mut Parser, name: &Name, after: usize) -> Result<Option<Derived>> {
    if !parser.parse_keyword(Keyword::AS) {
        return Ok(None);
    }
    let expr = parser.parse_expr()?;
    if parser.parse_keyword(Keyword::COMMENT) {
        parser.parse_literal_string()?;
    }
    Ok(Some(Derived { name: name.clone(), after, from: DerivedFrom::Expr(Box::new(expr)) }))
}

/// Parses `METADATA [FROM 'key'] [VIRTUAL]` after a column's type; `None` if the column is not metadata.
pub fn parse_metadata(parser: &mut Parser, name: &Name, data_type: &DataType, after: usize) -> Result<Option<Derived>> {
    if !take_word(parser, "metadata") {
        return Ok(None);
    }
    let (text, at) = match parser.parse_keyword(Keyword::FROM) {
        true => {
            let at = parser.peek_token_ref().span.start;
            (parser.parse_literal_string()?, at)
        }
        false => (key_of(&name.text), name.at),
    };
    let key = metadata_column(&text, at)?;
    let is_virtual = take_word(parser, "virtual");
    if parser.parse_keyword(Keyword::COMMENT) {
        parser.parse_literal_string()?;
    }
    let from = DerivedFrom::Metadata { key, data_type: data_type.clone(), is_virtual };
    Ok(Some(Derived { name: name.clone(), after, from }))
}

fn metadata_column(key: &str, at: Location) -> Result<&'static str> {
    let known = KEYS.iter().find(|(known, column)| *known == key || *column == key);
    known.map(|(_, column)| *column).ok_or_else(|| {
        let names: Vec<&str> = KEYS.iter().map(|(known, _)| *known).collect();
        SqlError::at(at, format!("a record has no metadata '{key}'")).suggest(
            key,
            names.iter().copied(),
            "metadata of a record",
        )
    })
}

/// Consumes `word` if it comes next; true if it did. Works for words that are not keywords of the parser.
fn take_word(parser: &mut Parser, word: &str) -> bool {
    let is_it = matches!(&parser.peek_token_ref().token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word));
    if is_it {
        parser.next_token();
    }
    is_it
}
