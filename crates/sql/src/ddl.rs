//! `CREATE TABLE`: columns, watermark, primary key and the raw `WITH` options.
//!
//! Owns: the grammar of a table. Does not own: what its options mean (`options`), whether it is read or
//! written (`plan`).

use super::derived::{DerivedFrom, parse_computed, parse_metadata};
use super::error::{Result, SqlError};
use super::identifier::{Name, key_of, parse_name, parse_names, parse_table_name};
use super::metadata_columns::METADATA;
use super::spelling::Spellings;
use super::table_def::{Column, OptionEntry, PrimaryKey, TableDef, Watermark};
use super::types::parse_type;
use datafusion::sql::sqlparser::ast::{Expr, Ident};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token};

/// Parses what follows `CREATE TABLE`.
pub fn parse_table(parser: &mut Parser) -> Result<TableDef> {
    let if_new = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = parse_table_name(parser)?;
    let mut table = TableDef {
        name,
        if_new,
        columns: Vec::new(),
        derived: Vec::new(),
        watermark: None,
        primary_key: None,
        options: Vec::new(),
    };
    parser.expect_token(&Token::LParen)?;
    loop {
        parse_element(parser, &mut table)?;
        if parser.consume_token(&Token::RParen) {
            break;
        }
        if !parser.consume_token(&Token::Comma) {
            let found = parser.peek_token();
            return Ok(parser.expected("',' or ')' in the list of columns", found)?);
        }
    }
    if !parser.parse_keyword(Keyword::WITH) {
        let found = parser.peek_token();
        return Err(SqlError::at(found.span.start, format!("expected WITH ('connector' = …) after the columns, found {found}"))
            .hint("every table needs a connector: WITH ('connector' = 'kafka', 'topic' = …, 'bootstrap.servers' = …, 'format' = 'json')"));
    }
    table.options = parse_options(parser)?;
    check(&table)?;
    use_declared_names(&mut table)?;
    Ok(table)
}

fn parse_element(parser: &mut Parser, table: &mut TableDef) -> Result<()> {
    let token = parser.peek_token();
    let at = token.span.start;
    if is_watermark(parser) {
        if table.watermark.is_some() {
            return Err(SqlError::at(at, "a table has one WATERMARK"));
        }
        table.watermark = Some(parse_watermark(parser, at)?);
        return Ok(());
    }
    if parser.parse_keywords(&[Keyword::PRIMARY, Keyword::KEY]) {
        let columns = parse_names(parser)?;
        let _ = parser.parse_keywords(&[Keyword::NOT, Keyword::ENFORCED]);
        return set_key(table, columns, at);
    }
    parse_column(parser, table)
}

/// True at `WATERMARK FOR`. `WATERMARK` is not a keyword of the parser, and a column may have this name.
fn is_watermark(parser: &Parser) -> bool {
    let [first, second] = parser.peek_tokens_ref::<2>();
    let word = |token: &Token, text: &str| matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(text));
    word(&first.token, "watermark") && word(&second.token, "for")
}

fn parse_watermark(parser: &mut Parser, at: Location) -> Result<Watermark> {
    parser.next_token();
    parser.expect_keyword(Keyword::FOR)?;
    let ident: Ident = parser.parse_identifier()?;
    let column = Name { text: ident.value.clone(), at: ident.span.start };
    let expr = match parser.parse_keyword(Keyword::AS) {
        true => parser.parse_expr()?,
        false => Expr::Identifier(ident),
    };
    Ok(Watermark { column, expr, at })
}

fn parse_column(parser: &mut Parser, table: &mut TableDef) -> Result<()> {
    let mut name = parse_name(parser)?;
    // What these names mean does not depend on their case either.
    if let Some(known) = METADATA.into_iter().find(|known| key_of(&name.text) == *known) {
        name.text = known.into();
    }
    if matches!(parser.peek_token_ref().token, Token::Comma | Token::RParen) {
        let at = parser.peek_token_ref().span.start;
        return Err(SqlError::at(at, format!("column '{}' needs a type", name.text))
            .hint(format!("write `{} STRING`, for example", name.text)));
    }
    if let Some(computed) = parse_computed(parser, &name, table.columns.len())? {
        table.derived.push(computed);
        return Ok(());
    }
    let data_type = parse_type(parser)?;
    if let Some(metadata) = parse_metadata(parser, &name, &data_type, table.columns.len())? {
        table.derived.push(metadata);
        return Ok(());
    }
    let mut nullable = true;
    loop {
        let at = parser.peek_token_ref().span.start;
        if parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
            nullable = false;
        } else if parser.parse_keywords(&[Keyword::PRIMARY, Keyword::KEY]) {
            let _ = parser.parse_keywords(&[Keyword::NOT, Keyword::ENFORCED]);
            set_key(table, vec![name.clone()], at)?;
        } else if parser.parse_keyword(Keyword::COMMENT) {
            parser.parse_literal_string()?;
        } else if !parser.parse_keyword(Keyword::NULL) {
            break;
        }
    }
    table.columns.push(Column { name, data_type, nullable });
    Ok(())
}

fn set_key(table: &mut TableDef, columns: Vec<Name>, at: Location) -> Result<()> {
    if table.primary_key.is_some() {
        return Err(SqlError::at(at, "a table has one PRIMARY KEY")
            .hint("list all its columns in one: PRIMARY KEY (a, b) NOT ENFORCED"));
    }
    table.primary_key = Some(PrimaryKey { columns, at });
    Ok(())
}

fn parse_options(parser: &mut Parser) -> Result<Vec<OptionEntry>> {
    parser.expect_token(&Token::LParen)?;
    let mut options = Vec::new();
    loop {
        let token = parser.next_token();
        let key_at = token.span.start;
        let Token::SingleQuotedString(key) = token.token else {
            return Ok(parser.expected("an option's name in single quotes", token)?);
        };
        parser.expect_token(&Token::Eq)?;
        let (value, value_at) = parse_option_value(parser)?;
        options.push(OptionEntry { key, key_at, value, value_at });
        if parser.consume_token(&Token::RParen) {
            return Ok(options);
        }
        if !parser.consume_token(&Token::Comma) {
            let found = parser.peek_token();
            return Ok(parser.expected("',' or ')' in the list of options", found)?);
        }
    }
}

/// Parses the value of an option: a string, a number or a single word.
pub fn parse_option_value(parser: &mut Parser) -> Result<(String, Location)> {
    let token = parser.next_token();
    let at = token.span.start;
    match token.token {
        Token::SingleQuotedString(text) | Token::Number(text, _) => Ok((text, at)),
        Token::Word(word) if word.quote_style.is_none() => Ok((word.value, at)),
        _ => Ok(parser.expected("a value in single quotes", token)?),
    }
}

fn check(table: &TableDef) -> Result<()> {
    let mut names: Vec<&Name> = Vec::new();
    for name in table.columns.iter().map(|column| &column.name).chain(table.derived.iter().map(|derived| &derived.name))
    {
        if let Some(other) = names.iter().find(|other| other.text == name.text) {
            let later =
                if (other.at.line, other.at.column) > (name.at.line, name.at.column) { other.at } else { name.at };
            return Err(SqlError::at(later, format!("column '{}' is declared twice", name.text)));
        }
        names.push(name);
    }
    if table.columns.is_empty() && table.derived.is_empty() {
        return Err(SqlError::at(table.name.at, format!("table '{}' has no columns", table.name.text)));
    }
    Ok(())
}

/// Brings the names that a table's clauses and expressions refer to to the spelling of its columns.
fn use_declared_names(table: &mut TableDef) -> Result<()> {
    let stored = table.columns.iter().map(|column| column.name.text.clone());
    let names: Vec<String> = stored.chain(table.derived.iter().map(|derived| derived.name.text.clone())).collect();
    let columns = table.primary_key.iter_mut().flat_map(|key| &mut key.columns);
    for name in columns.chain(table.watermark.iter_mut().map(|watermark| &mut watermark.column)) {
        let known = name.find(names.iter().map(String::as_str).chain(METADATA))?;
        name.text = known.map(str::to_string).ok_or_else(|| {
            SqlError::at(name.at, format!("table '{}' has no column '{}'", table.name.text, name.text)).suggest(
                &name.text,
                names.iter().map(String::as_str),
                "its columns",
            )
        })?;
    }
    for name in table.primary_key.iter().flat_map(|key| &key.columns) {
        if table.derived.iter().any(|derived| derived.name.text == name.text) {
            let message = format!("'{}' is not stored in records, so it cannot be part of the PRIMARY KEY", name.text);
            return Err(
                SqlError::at(name.at, message).hint("a PRIMARY KEY consists of columns that are declared with a type")
            );
        }
    }
    let spellings = Spellings::of_table(table);
    if let Some(watermark) = &mut table.watermark {
        spellings.apply(&mut watermark.expr)?;
    }
    for derived in &mut table.derived {
        if let DerivedFrom::Expr(expr) = &mut derived.from {
            spellings.apply(expr.as_mut())?;
        }
    }
    Ok(())
}
