//! Names in a script: folded as PostgreSQL folds them, each with its place.
//!
//! Owns: parsing names. Does not own: resolving them.

use super::error::{Result, SqlError};
use super::types::fold;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token};

/// A folded name and its position in the script.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    pub text: String,
    pub at: Location,
}

/// Parses the name of a table or view. It has one part, since a script has no schemas.
pub fn parse_table_name(parser: &mut Parser) -> Result<Name> {
    let name = parse_name(parser)?;
    if parser.peek_token_ref().token == Token::Period {
        return Err(SqlError::at(name.at, "names of tables and views have one part")
            .hint(format!("drop the '{}.' before the dot", name.text)));
    }
    Ok(name)
}

/// Parses an identifier and folds it.
pub fn parse_name(parser: &mut Parser) -> Result<Name> {
    let ident = parser.parse_identifier()?;
    Ok(Name { text: fold(&ident), at: ident.span.start })
}

/// Parses `(a, b, c)`.
pub fn parse_names(parser: &mut Parser) -> Result<Vec<Name>> {
    parser.expect_token(&Token::LParen)?;
    let mut names = vec![parse_name(parser)?];
    while parser.consume_token(&Token::Comma) {
        names.push(parse_name(parser)?);
    }
    parser.expect_token(&Token::RParen)?;
    Ok(names)
}
