//! A script's text, statement by statement, as people write it in files and documents.
//!
//! Owns: where statements end, their kinds, and the options that such scripts leave out.
//! Does not own: the meaning of statements (the engine, `scenario`).

use regex::Regex;
use std::sync::LazyLock;

/// The kinds of statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `SET`, `CREATE TABLE`, `CREATE VIEW`, and all others, which only the engine knows.
    Script(String),
    /// `INSERT INTO … SELECT`.
    Insert(String),
    /// `INSERT INTO table [(columns)] VALUES …`: records of a topic, or rows of a file.
    Values { table: String, columns: Vec<String>, values: String },
    /// `COMMIT [AT 'time']`: a micro-batch ends here.
    Commit { at: Option<String> },
    /// `RESET`: drops all statements and records so far.
    Reset,
}

static VALUES: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?is)^\s*insert\s+into\s+([\w`]+)\s*(?:\(([^()]*)\))?\s*(values\b.*)$").unwrap());
static COMMIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?is)^\s*commit\s*(?:at\s+'([^']*)')?\s*$").unwrap());
static TABLE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?is)^\s*create\s+table\s+([\w`]+)").unwrap());
static WITH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?is)\)\s*with\s*\(\s*'").unwrap());

impl Statement {
    /// Returns the kind of a statement without its `;`.
    pub fn of(text: &str) -> Self {
        let bare = without_comments(text);
        let bare = bare.trim();
        if bare.eq_ignore_ascii_case("reset") {
            return Self::Reset;
        }
        if let Some(found) = COMMIT.captures(bare) {
            return Self::Commit { at: found.get(1).map(|time| time.as_str().to_string()) };
        }
        if let Some(found) = VALUES.captures(bare) {
            let columns = found.get(2).map_or(Vec::new(), |list| {
                list.as_str().split(',').map(|name| name.trim().trim_matches('`').to_string()).collect()
            });
            let table = found[1].trim_matches('`').to_string();
            return Self::Values { table, columns, values: found[3].to_string() };
        }
        match bare.get(..6) {
            Some(word) if word.eq_ignore_ascii_case("insert") => Self::Insert(text.to_string()),
            _ => Self::Script(with_options(text)),
        }
    }
}

/// Returns the table of a `CREATE TABLE`, as written; `None` for other statements.
pub fn created_table(text: &str) -> Option<String> {
    TABLE.captures(&without_comments(text)).map(|found| found[1].trim_matches('`').to_string())
}

/// Returns the table of an `INSERT INTO`, as written; `None` for other statements.
pub fn written_table(text: &str) -> Option<String> {
    let bare = without_comments(text);
    let mut words = bare.split(|c: char| c.is_whitespace() || c == '(').filter(|word| !word.is_empty());
    words.nth(2).map(|name| name.trim_matches('`').to_string())
}

/// Returns the columns of the `PRIMARY KEY` in the lowercase text of a `CREATE TABLE`.
pub fn primary_key(text: &str) -> Vec<String> {
    let list = text.split_once("primary key").and_then(|(_, rest)| rest.split_once('('));
    let list = list.and_then(|(_, rest)| rest.split_once(')')).map_or("", |(list, _)| list);
    list.split(',').map(|name| name.trim().trim_matches('`').to_string()).filter(|name| !name.is_empty()).collect()
}

/// Adds options to a table without any: it is a topic of the table's name.
fn with_options(text: &str) -> String {
    match created_table(text) {
        Some(name) if !WITH.is_match(text) => format!(
            "{} WITH ('connector'='kafka', 'topic'='{name}', 'bootstrap.servers'='localhost:9092', 'format'='json')",
            text.trim_end()
        ),
        _ => text.to_string(),
    }
}

/// Returns the statements without their `;`, in order; empty ones are left out.
pub fn split(script: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    scan(script, |piece, kind| match kind {
        Kind::End => statements.push(String::new()),
        _ => statements.last_mut().unwrap().push_str(piece),
    });
    statements.retain(|statement| !without_comments(statement).trim().is_empty());
    statements
}

pub fn without_comments(text: &str) -> String {
    let mut bare = String::new();
    scan(text, |piece, kind| match kind {
        Kind::Comment => {}
        Kind::End => bare.push(';'),
        Kind::Text => bare.push_str(piece),
    });
    bare
}

enum Kind {
    Text,
    Comment,
    End,
}

/// Calls `piece` with quoted texts, comments to the end of the line, `;`, and all other pieces.
fn scan(text: &str, mut piece: impl FnMut(&str, Kind)) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, kind) = match first {
            '\'' | '"' | '`' => (rest[1..].find(first).map_or(rest.len(), |end| end + 2), Kind::Text),
            '-' if rest.starts_with("--") => (rest.find('\n').unwrap_or(rest.len()), Kind::Comment),
            ';' => (1, Kind::End),
            other => (other.len_utf8(), Kind::Text),
        };
        piece(&rest[..length], kind);
        rest = &rest[length..];
    }
}

#[test]
fn statements_end_outside_of_quotes_and_comments() {
    let script = "SET a = 'x;y'; -- no; end\nINSERT INTO t (a, b) VALUES (1, ';');\nCOMMIT AT '2026-01-01 00:00:01';";
    let statements: Vec<Statement> = split(script).iter().map(|text| Statement::of(text)).collect();
    assert_eq!(statements[0], Statement::Script("SET a = 'x;y'".into()));
    let columns = vec!["a".to_string(), "b".to_string()];
    assert_eq!(statements[1], Statement::Values { table: "t".into(), columns, values: "VALUES (1, ';')".into() });
    assert_eq!(statements[2], Statement::Commit { at: Some("2026-01-01 00:00:01".into()) });
}
