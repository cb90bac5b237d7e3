//! Names in a script as they are written, each with its place.
//!
//! Owns: parsing names, and finding a name in a list: an exact match, or else the only one in any case. Does not own: names
//! inside queries (`spelling`).

use super::error::{Result, SqlError};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token};

/// A name as written, and its position in the script.
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

/// Parses an identifier.
pub fn parse_name(parser: &mut Parser) -> Result<Name> {
    let ident = parser.parse_identifier()?;
    Ok(Name { text: ident.value, at: ident.span.start })
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

/// What names that differ only in case have in common.
pub fn key_of(name: &str) -> String {
    name.to_lowercase()
}

impl Name {
    /// The name meant of `names`: the one that matches exactly, or else the only one that does in any case. `None`: none does.
    ///
    /// # Errors
    /// Several match, none of them exactly.
    pub fn find<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Result<Option<&'a str>> {
        find(&self.text, names).map_err(|(first, second)| {
            SqlError::at(self.at, format!("'{}' is ambiguous: there are '{first}' and '{second}'", self.text))
                .hint("write the name exactly as it is declared")
        })
    }
}

/// [`Name::find`] of a text; of an ambiguous one, two names that match.
pub fn find<'a>(
    wanted: &str,
    mut names: impl Iterator<Item = &'a str> + Clone,
) -> std::result::Result<Option<&'a str>, (&'a str, &'a str)> {
    let key = key_of(wanted);
    let mut alike = names.clone().filter(|name| key_of(name) == key);
    match (names.find(|name| *name == wanted), alike.next(), alike.next()) {
        (Some(exact), ..) => Ok(Some(exact)),
        (None, Some(first), Some(second)) => Err((first, second)),
        (None, found, _) => Ok(found),
    }
}
