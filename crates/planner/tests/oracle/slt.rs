//! The `.slt` files: every feature by example, in the sqllogictest format, each run in every way.
//!
//! Owns: finding the files, and running their statements and queries. Does not own: the ways to run them
//! (`harness::scenario`). A new feature needs only a new file in `tests/slt`.
//!
//! - `statement ok` takes any of the script: `SET`, `CREATE TABLE` (without WITH it is a topic of its name),
//!   `CREATE VIEW`, `INSERT INTO sink SELECT …`; the records of a topic, in order: `INSERT INTO source VALUES …`, with
//!   `_partition` in the list of columns if there are several, and `__deleted` for records of a keyed table without value;
//!   `COMMIT [AT 'time']`, where a micro-batch must end; `RESET`, which forgets all that was said.
//! - `statement error` with a pattern: a refusal. Lines and columns are those of the statement.
//! - `query` with the types of its columns (T text and all others, I whole numbers, R other numbers): a SELECT from sources is run as a stream whose
//!   whole result is asked for; a SELECT from a sink is asked of what the sink holds, folded by its key. Rows come in the
//!   order of their columns. `SHOW LATE ROWS`, `SHOW KEY CONFLICTS` (keys of sinks with several live
//!   rows in the end), `SHOW WARNINGS` and `EXPLAIN` are of the script with all its INSERTs.

use crate::harness::scenario::Scenario;
use arrow::datatypes::DataType;
use sqllogictest::{DB, DBOutput, DefaultColumnType, Runner, strict_column_validator};
use std::path::PathBuf;

#[derive(Debug)]
struct Refusal(String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

struct Session(Scenario);

impl DB for Session {
    type Error = Refusal;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Refusal> {
        let first = crate::harness::statements::without_comments(sql);
        let first = first.split_whitespace().next().unwrap_or_default().to_lowercase();
        if !matches!(first.as_str(), "select" | "with" | "show" | "explain") {
            self.0.execute(sql).map_err(Refusal)?;
            return Ok(DBOutput::StatementComplete(0));
        }
        let (schema, rows) = self.0.query(sql.trim_end().trim_end_matches(';')).map_err(Refusal)?;
        let types = schema.fields().iter().map(|field| letter(field.data_type())).collect();
        let empty = |text: String| if text.is_empty() { "(empty)".to_string() } else { text };
        let rows = rows.into_iter().map(|row| row.into_iter().map(empty).collect()).collect();
        Ok(DBOutput::Rows { types, rows })
    }
}

fn letter(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        whole if whole.is_integer() => DefaultColumnType::Integer,
        number if number.is_numeric() => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Text,
    }
}

/// Runs every `share`-th file from the `first` one on; with `HIGHWATER_SLT`, only files whose names contain it.
fn run(first: usize, share: usize) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let wanted = std::env::var("HIGHWATER_SLT").unwrap_or_default();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ext| ext == "slt") && file.to_string_lossy().contains(&wanted));
    files.sort();
    let mut wrong = Vec::new();
    for file in files.iter().skip(first).step_by(share) {
        let mut runner = Runner::new(|| async { Ok(Session(Scenario::default())) });
        runner.with_column_validator(strict_column_validator);
        for record in sqllogictest::parse_file(file).unwrap() {
            if let Err(error) = runner.run(record) {
                wrong.push(error.display(false).to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn files_1() {
    run(0, 3);
}

#[test]
fn files_2() {
    run(1, 3);
}

#[test]
fn files_3() {
    run(2, 3);
}
