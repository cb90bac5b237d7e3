//! Files that records look up: plans, rows and errors.

use super::*;
use crate::runtime::{BatchContext, Emit, TaskRuntime};
use crate::state::QueryState;
use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use highwater_core::ids::StageId;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

/// A file of this content, and a script that looks it up for records `(id, k)` of `ids`.
struct Case {
    file: tempfile::NamedTempFile,
    query: CompiledQuery,
}

fn case(content: &str, options: &str, select: &str) -> Case {
    let mut file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    let kafka = "WITH ('connector'='kafka','topic'='t','bootstrap.servers'='localhost:1','format'='json')";
    let path = file.path().display();
    let query = compile(&format!(
        "CREATE TABLE ids (id BIGINT, k STRING) {kafka}; CREATE TABLE o (a BIGINT, b STRING) {kafka}; \
         CREATE TABLE side (key BIGINT, `value` STRING) WITH ('connector'='filesystem', 'path'='{path}', {options}); \
         INSERT INTO o {select};"
    ));
    let query = query.unwrap();
    check(&query);
    Case { file, query }
}

impl Case {
    /// What the sink gets of records with ids 1 to 4, the last with no id, at this time.
    fn rows(&self, now_ms: i64) -> Result<Vec<String>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.query.load_files(now_ms)).map_err(|error| error.to_string())?;
        let state = QueryState::new(&self.query.dataflow).task(StageId(0), 0..0).unwrap();
        let context = BatchContext { shards: 1, ..BatchContext::default() };
        let sinks = BTreeMap::new();
        let mut task = TaskRuntime::new(&self.query.dataflow, &sinks, StageId(0), &context, state).unwrap();
        let source = &self.query.sources[0];
        let ids = Int64Array::from(vec![Some(1), Some(2), Some(3), None]);
        let all = vec![Arc::new(ids) as _, Arc::new(StringArray::from(vec!["a", "b", "c", "d"])) as _];
        let batch = RecordBatch::try_new(source.schema.clone(), all).unwrap().project(&source.columns_used).unwrap();
        let mut out = Vec::new();
        task.push_source(batch, &mut out).unwrap();
        task.finish(&mut out).unwrap();
        let mut rows = Vec::new();
        for emit in out {
            let Emit::Sink { rows: given, .. } = emit else { continue };
            let options = FormatOptions::default().with_null("-");
            let columns: Vec<ArrayFormatter> =
                given.batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
            rows.extend(
                (0..given.num_rows()).map(|row| format!("{} {}", columns[0].value(row), columns[1].value(row))),
            );
        }
        rows.sort();
        Ok(rows)
    }
}

const CSV: &str = "1,one\n3,three\n3,drei\n7,seven\n";

#[test]
fn each_record_finds_its_rows() {
    for (select, expected) in [
        (
            "SELECT id, s.`value` FROM ids JOIN side FOR SYSTEM_TIME AS OF PROCTIME() AS s ON id = s.key",
            vec!["1 one", "3 drei", "3 three"],
        ),
        (
            "SELECT id, `value` FROM ids LEFT JOIN side ON id = key AND `value` <> 'drei'",
            vec!["- -", "1 one", "2 -", "3 three"],
        ),
        ("SELECT id, `value` FROM side RIGHT JOIN ids ON id = key WHERE id < 3", vec!["1 one", "2 -"]),
        ("SELECT id, k FROM ids WHERE id IN (SELECT key FROM side)", vec!["1 a", "3 c"]),
        ("SELECT id, k FROM ids WHERE NOT EXISTS (SELECT 1 FROM side WHERE key = id)", vec!["- d", "2 b"]),
        ("SELECT id, k FROM ids WHERE id NOT IN (SELECT key FROM side WHERE key > 1)", vec!["1 a", "2 b"]),
        ("SELECT id, m FROM ids CROSS JOIN (SELECT max(`value`) AS m FROM side) x WHERE id = 1", vec!["1 three"]),
        (
            "SELECT id, n FROM ids JOIN (SELECT key, CAST(count(*) AS STRING) AS n FROM side GROUP BY key) x ON key % 2 = id % 2 AND key >= id",
            vec!["1 1", "1 1", "1 2", "3 1", "3 2"],
        ),
    ] {
        assert_eq!(case(CSV, "'format'='csv'", select).rows(0).unwrap(), expected, "{select}");
    }
    let select = "SELECT id, `value` FROM ids JOIN side ON id = key";
    let other = case("key;value\n1;eins\n", "'format'='csv', 'csv.header'='true', 'csv.delimiter'=';'", select);
    assert_eq!(other.rows(0).unwrap(), ["1 eins"]);
    let json = case("{\"key\": 2, \"value\": \"zwei\", \"more\": 1}\n", "'format'='json'", select);
    assert_eq!(json.rows(0).unwrap(), ["2 zwei"]);
}

#[test]
fn a_file_is_read_again_when_it_is_old() {
    let select = "SELECT id, `value` FROM ids JOIN side ON id = key";
    for (options, later) in [("'format'='csv', 'refresh'='10 seconds'", "1 new"), ("'format'='csv'", "1 one")] {
        let case = case("1,one\n", options, select);
        assert_eq!(case.rows(5_000).unwrap(), ["1 one"]);
        std::fs::write(case.file.path(), "1,new\n").unwrap();
        assert_eq!(case.rows(14_999).unwrap(), ["1 one"]);
        assert_eq!(case.rows(15_000).unwrap(), [later]);
    }
}

#[test]
fn what_goes_wrong_is_told() {
    let case = case("x,one\n", "'format'='csv'", "SELECT id, `value` FROM ids JOIN side ON id = key");
    let error = case.rows(0).unwrap_err();
    assert!(error.contains("table 'side'") && error.contains("every executor must see it"), "{error}");
    std::fs::remove_file(case.file.path()).unwrap();
    assert!(case.rows(0).unwrap_err().contains("No such file"));
    let side = "CREATE TABLE side (key BIGINT) WITH ('connector'='filesystem', 'path'='/x', 'format'='csv');";
    for (statements, expected) in [
        ("INSERT INTO rows_out SELECT 'a', key FROM side;", "is a file, and no stream to read"),
        ("INSERT INTO rows_out SELECT card, id FROM side LEFT JOIN plain ON id = key;", "put the stream on the side"),
        (
            "INSERT INTO rows_out SELECT p.card, q.id FROM plain p JOIN pay FOR SYSTEM_TIME AS OF p.ts AS q ON p.id = q.id;",
            "needs a right side that has versions",
        ),
        ("INSERT INTO side SELECT id FROM plain;", "cannot be written"),
    ] {
        let error = bad(&format!("{side} {statements}"));
        assert!(error.contains(expected), "{statements}: {error}");
    }
    for (options, expected) in [
        ("'format'='csv'", "lacks the option 'path'"),
        ("'path'='/x'", "lacks the option 'format'"),
        ("'path'='/x', 'format'='json', 'csv.header'='true'", "goes with 'format' = 'csv'"),
        ("'path'='/x', 'format'='csv', 'topic'='t'", "a file has no option 'topic'"),
    ] {
        let error = bad(&format!("CREATE TABLE s (a INT) WITH ('connector'='filesystem', {options});"));
        assert!(error.contains(expected), "{options}: {error}");
    }
}
