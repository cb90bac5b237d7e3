//! Parses the text of a script into statements.
//!
//! Owns: the order and shape of statements (`SET`, `CREATE TABLE`, `CREATE VIEW`, `INSERT INTO`).
//! Does not own: columns and options of a table (`ddl`), what names mean (`plan`).
//! Invariant: one parser reads the whole script, so every position is a position in the script.

use super::ddl;
use super::dialect::HighwaterDialect;
use super::error::{Result, SqlError};
use super::identifier::{Name, parse_names, parse_table_name};
use super::limits::{check_depth, check_size};
use super::redact::without_secrets;
use super::table_def::{OptionEntry, TableDef};
use datafusion::sql::sqlparser::ast::Query;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

#[derive(Clone, Debug)]
pub enum Statement {
    Set(OptionEntry),
    Table(TableDef),
    View(ViewDef),
    Insert(InsertDef),
}

/// `CREATE VIEW name [(columns)] AS query`.
#[derive(Clone, Debug)]
pub struct ViewDef {
    pub name: Name,
    /// `IF NOT EXISTS`.
    pub if_new: bool,
    pub columns: Vec<Name>,
    pub query: Query,
}

/// `INSERT INTO table [(columns)] query`.
#[derive(Clone, Debug)]
pub struct InsertDef {
    pub at: Location,
    pub table: Name,
    pub columns: Vec<Name>,
    pub query: Query,
}

/// Parses a whole script.
pub fn parse_script(text: &str) -> Result<Vec<Statement>> {
    parse_statements(text).map_err(|error| without_secrets(text, error))
}

fn parse_statements(text: &str) -> Result<Vec<Statement>> {
    check_size(text)?;
    let tokens = Tokenizer::new(&HighwaterDialect::default(), text).tokenize_with_location();
    let tokens = tokens.map_err(ParserError::from)?;
    check_depth(&tokens)?;
    let dialect = HighwaterDialect::for_tokens(tokens.len());
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens);
    let mut statements = Vec::new();
    let mut set = StatementSet::None;
    loop {
        while parser.consume_token(&Token::SemiColon) {}
        if parser.peek_token_ref().token == Token::EOF {
            set.check_ended()?;
            return Ok(statements);
        }
        if set.takes(&mut parser)? {
            continue;
        }
        statements.push(parse_statement(&mut parser)?);
        if parser.peek_token_ref().token != Token::EOF && !parser.consume_token(&Token::SemiColon) {
            let found = parser.peek_token();
            return Ok(parser.expected("';' after the statement", found)?);
        }
    }
}

/// `EXECUTE STATEMENT SET BEGIN … END;` and `BEGIN STATEMENT SET; … END;`: all INSERTs of a script are one set anyway.
enum StatementSet {
    None,
    Open(Location),
}

impl StatementSet {
    /// Consumes the words that begin or end a set (true if there were any), and refuses other statements than INSERT in it.
    fn takes(&mut self, parser: &mut Parser) -> Result<bool> {
        let at = parser.peek_token_ref().span.start;
        match self {
            Self::None => {
                let begins = take_words(parser, &["execute", "statement", "set", "begin"])
                    || take_words(parser, &["execute", "statement", "set", "as", "begin"])
                    || take_words(parser, &["begin", "statement", "set"]);
                if begins {
                    *self = Self::Open(at);
                }
                Ok(begins)
            }
            Self::Open(_) if take_words(parser, &["end"]) => {
                *self = Self::None;
                Ok(true)
            }
            Self::Open(_) if parser.peek_keyword(Keyword::INSERT) => Ok(false),
            Self::Open(_) => {
                let found = parser.peek_token();
                Ok(parser.expected("INSERT INTO or END in the statement set", found)?)
            }
        }
    }

    fn check_ended(&self) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Open(at) => {
                Err(SqlError::at(*at, "this statement set has no END").hint("write END; after its INSERTs"))
            }
        }
    }
}

/// Consumes these words if they all come next; true if they did.
fn take_words(parser: &mut Parser, words: &[&str]) -> bool {
    let is_word = |(place, word): (usize, &&str)| matches!(&parser.peek_nth_token_ref(place).token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word));
    let all = words.iter().enumerate().all(is_word);
    if all {
        words.iter().for_each(|_| drop(parser.next_token()));
    }
    all
}

fn parse_statement(parser: &mut Parser) -> Result<Statement> {
    let start = parser.peek_token();
    match &start.token {
        Token::Word(word) => match word.keyword {
            Keyword::SET => parse_set(parser).map(Statement::Set),
            Keyword::CREATE => parse_create(parser),
            Keyword::INSERT => parse_insert(parser).map(Statement::Insert),
            Keyword::SELECT | Keyword::WITH => Err(SqlError::at(start.span.start, "a SELECT without INSERT INTO has nowhere to write")
                .hint("write INSERT INTO <table> SELECT …; for the terminal: CREATE TABLE out (…) WITH ('connector' = 'console')")),
            _ => Err(SqlError::at(start.span.start, format!("a script cannot contain {}", word.value.to_uppercase()))
                .suggest(&word.value, ["SET", "CREATE", "INSERT"], "statements are SET, CREATE TABLE, CREATE VIEW and INSERT INTO; it starts with one of")),
        },
        _ => Ok(parser.expected("SET, CREATE TABLE, CREATE VIEW or INSERT INTO", start)?),
    }
}

fn parse_set(parser: &mut Parser) -> Result<OptionEntry> {
    parser.expect_keyword(Keyword::SET)?;
    let token = parser.next_token();
    let key_at = token.span.start;
    let mut key = match token.token {
        Token::SingleQuotedString(text) => text,
        Token::Word(word) => word.value,
        _ => return Ok(parser.expected("the name of a setting", token)?),
    };
    while parser.consume_token(&Token::Period) {
        key = format!("{key}.{}", parser.parse_identifier()?.value);
    }
    if !parser.parse_keyword(Keyword::TO) {
        parser.expect_token(&Token::Eq)?;
    }
    let (value, value_at) = ddl::parse_option_value(parser)?;
    Ok(OptionEntry { key, key_at, value, value_at })
}

fn parse_create(parser: &mut Parser) -> Result<Statement> {
    parser.expect_keyword(Keyword::CREATE)?;
    // OR REPLACE and TEMPORARY change nothing, since tables and views exist only in their script.
    let _ = parser.parse_keywords(&[Keyword::OR, Keyword::REPLACE]);
    let _ = parser.parse_one_of_keywords(&[Keyword::TEMPORARY, Keyword::TEMP]);
    if parser.parse_keyword(Keyword::TABLE) {
        return ddl::parse_table(parser).map(Statement::Table);
    }
    if parser.parse_keyword(Keyword::VIEW) {
        return parse_view(parser).map(Statement::View);
    }
    let found = parser.peek_token();
    Ok(parser.expected("TABLE or VIEW after CREATE", found)?)
}

fn parse_view(parser: &mut Parser) -> Result<ViewDef> {
    let if_new = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = parse_table_name(parser)?;
    let columns = if parser.peek_token_ref().token == Token::LParen { parse_names(parser)? } else { Vec::new() };
    parser.expect_keyword(Keyword::AS)?;
    let query = *parser.parse_query()?;
    Ok(ViewDef { name, if_new, columns, query })
}

fn parse_insert(parser: &mut Parser) -> Result<InsertDef> {
    let at = parser.expect_keyword(Keyword::INSERT)?.span.start;
    parser.expect_keyword(Keyword::INTO)?;
    let table = parse_table_name(parser)?;
    let [first, second] = parser.peek_tokens_ref::<2>();
    let starts_query = |token: &Token| {
        matches!(token, Token::LParen)
            || matches!(token, Token::Word(w) if w.quote_style.is_none()
                && matches!(w.keyword, Keyword::SELECT | Keyword::WITH | Keyword::FROM))
    };
    let columns =
        if first.token == Token::LParen && !starts_query(&second.token) { parse_names(parser)? } else { Vec::new() };
    let query = *parser.parse_query()?;
    Ok(InsertDef { at, table, columns, query })
}
