//! The state of every operator can be read as rows, with the values and names of its input.
//!
//! Owns: a script for each kind of operator, and its state after the script's records. The kinds are read from the
//! operators' source, so that one without a case is noticed.

use crate::harness::records::{decoded, deletions};
use crate::harness::{Cluster, Fault, Records, Step, Take};
use arrow::array::Array;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use highwater_dataflow::Op;
use highwater_dataflow::runtime::state_reader::{SHARD_COLUMN, StateEntry, StateReader, StateRows};
use highwater_planner::compile::describe;
use highwater_protocol::ids::ShardId;
use proptest::prelude::*;
use regex::Regex;
use std::collections::BTreeSet;
use std::path::Path;

const WITH: &str = "WITH ('connector'='kafka','topic'='x','bootstrap.servers'='localhost:1','format'='json')";

/// An operator with state.
struct Case {
    kind: &'static str,
    /// Statements after the tables `t` and `u`; the last one is an INSERT.
    script: &'static str,
    /// Records of `t`, then of `u`. A record that ends in `null` deletes its key.
    records: [&'static [&'static str]; 2],
    /// True if a second batch, without records, closes windows.
    closes: bool,
    kept: &'static [&'static str],
}

const PLAIN: &str = "id BIGINT, k STRING, x BIGINT, f DOUBLE, l ARRAY<BIGINT>, ts TIMESTAMP(3), pt AS proctime(), \
                     WATERMARK FOR ts AS ts - INTERVAL '3' SECOND";
const KEYED: &str = "id BIGINT, k STRING, x BIGINT, f DOUBLE, ts TIMESTAMP(3), PRIMARY KEY (id) NOT ENFORCED, \
                     WATERMARK FOR ts AS ts - INTERVAL '3' SECOND";

const ROWS: &[&str] = &[
    r#"{"id": 1, "k": "a", "x": 10, "f": 0.1, "l": [1, null], "ts": "2026-01-01T00:00:01"}"#,
    r#"{"id": 2, "k": "a", "x": 30, "f": 0.2, "l": [], "ts": "2026-01-01T00:00:02"}"#,
    r#"{"id": 3, "k": null, "x": null, "f": 0.3, "l": null, "ts": "2026-01-01T00:00:09"}"#,
];

const CASES: &[Case] = &[
    Case {
        kind: "aggregate",
        script: "CREATE TABLE o (k STRING, n BIGINT, s BIGINT, a DOUBLE, m BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH;
                 INSERT INTO o SELECT coalesce(k, '-'), count(*), sum(x), avg(f), min(x) FILTER (WHERE x > 10) FROM t GROUP BY k;",
        records: [ROWS, &[]],
        closes: false,
        kept: &[
            "groups: k*=NULL count(1)=1 sum(x@1)=NULL avg(f@2)=0.3 min(x@1) FILTER x@1 > 10=NULL",
            "groups: k*=a count(1)=2 sum(x@1)=40 avg(f@2)=0.15000000000000002 min(x@1) FILTER x@1 > 10=30",
        ],
    },
    // Of a window, and a sum that is no BIGINT for now.
    Case {
        kind: "aggregate",
        script: "CREATE TABLE o (s TIMESTAMP(3), n BIGINT) WITH;
                 INSERT INTO o SELECT window_start, sum(x) FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND))
                 GROUP BY window_start, window_end;",
        records: [&[
            r#"{"id": 1, "x": 9223372036854775807, "ts": "2026-01-01T00:00:01"}"#,
            r#"{"id": 2, "x": 1, "ts": "2026-01-01T00:00:02"}"#,
            r#"{"id": 3, "x": 4, "ts": "2026-01-01T00:00:12"}"#,
        ], &[]],
        closes: false,
        kept: &[
            "groups: window_start*=2026-01-01T00:00:00 window_end*=2026-01-01T00:00:10 sum(t.x)[sum]=9223372036854775808 _closes_at=2026-01-01T00:00:10Z",
            "groups: window_start*=2026-01-01T00:00:10 window_end*=2026-01-01T00:00:20 sum(x@0)=4 _closes_at=2026-01-01T00:00:20Z",
        ],
    },
    Case {
        kind: "aggregate",
        script: "SET state_ttl = '1 hour'; CREATE TABLE o (k STRING) WITH; INSERT INTO o SELECT DISTINCT k FROM t;",
        records: [ROWS, &[]],
        closes: false,
        kept: &[
            "rows: k*=NULL _expires_at=2026-01-01T01:00:00Z",
            "rows: k*=a _expires_at=2026-01-01T01:00:00Z",
        ],
    },
    Case {
        kind: "retracting aggregate",
        script: "CREATE TABLE o (k STRING, d BIGINT, a BIGINT, b BIGINT, s STRING, m BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH;
                 INSERT INTO o SELECT coalesce(k, '-'), count(DISTINCT x), min(x), max(x), string_agg(k, ',' ORDER BY x DESC), sum(x)
                 FROM t GROUP BY k;",
        records: [ROWS, &[]],
        closes: false,
        kept: &[
            "groups: k*=NULL count(DISTINCT x@1)=0 min(x@1)=NULL max(x@1)=NULL string_agg(k@0, , ORDER BY x@1 DESC)=NULL sum(x@1)=NULL _rows=1",
            "groups: k*=a count(DISTINCT x@1)=2 min(x@1)=10 max(x@1)=30 string_agg(k@0, , ORDER BY x@1 DESC)=a,a sum(x@1)=40 _rows=2",
            "values of count(DISTINCT x@1): k*=NULL x@1=NULL _weight=1",
            "values of count(DISTINCT x@1): k*=a x@1=10 _weight=1",
            "values of count(DISTINCT x@1): k*=a x@1=30 _weight=1",
            "values of max(x@1): k*=a x@1=10 _weight=1",
            "values of max(x@1): k*=a x@1=30 _weight=1",
            "values of min(x@1): k*=a x@1=10 _weight=1",
            "values of min(x@1): k*=a x@1=30 _weight=1",
            "values of string_agg(k@0, , ORDER BY x@1 DESC): k*=NULL x@1=NULL k@0=NULL ,=, _weight=1",
            "values of string_agg(k@0, , ORDER BY x@1 DESC): k*=a x@1=10 k@0=a ,=, _weight=1",
            "values of string_agg(k@0, , ORDER BY x@1 DESC): k*=a x@1=30 k@0=a ,=, _weight=1",
        ],
    },
    Case {
        kind: "join",
        script: "CREATE TABLE o (id BIGINT, x BIGINT) WITH; INSERT INTO o SELECT t.id, u.x FROM t JOIN u ON t.id = u.x;",
        records: [ROWS, &[r#"{"id": 7, "x": 1}"#, r#"{"id": 8, "x": 5}"#, r#"{"id": 9}"#]],
        closes: false,
        kept: &[
            "left rows: id*=1 _weight=1",
            "left rows: id*=2 _weight=1",
            "left rows: id*=3 _weight=1",
            "right rows: x*=1 _weight=1",
            "right rows: x*=5 _weight=1",
        ],
    },
    Case {
        kind: "join",
        script: "SET state_ttl = '1 hour'; CREATE TABLE o (id BIGINT, x BIGINT, PRIMARY KEY (id, x) NOT ENFORCED) WITH;
                 INSERT INTO o SELECT t.id, coalesce(u.id, 0) FROM t LEFT JOIN u ON t.id + 1 = u.x;",
        records: [ROWS, &[r#"{"id": 7, "x": 2}"#, r#"{"id": 8, "x": 2}"#]],
        closes: false,
        kept: &[
            "left rows: id=1 t.id + Int64(1)*=2 _weight=1 _matches=2 _expires_at=2026-01-01T01:00:00Z",
            "left rows: id=2 t.id + Int64(1)*=3 _weight=1 _matches=0 _expires_at=2026-01-01T01:00:00Z",
            "left rows: id=3 t.id + Int64(1)*=4 _weight=1 _matches=0 _expires_at=2026-01-01T01:00:00Z",
            "right rows: id=7 x*=2 _weight=1 _expires_at=2026-01-01T01:00:00Z",
            "right rows: id=8 x*=2 _weight=1 _expires_at=2026-01-01T01:00:00Z",
        ],
    },
    // A row leaves once the other side can bring nothing for it.
    Case {
        kind: "join",
        script: "CREATE TABLE o (id BIGINT, x BIGINT) WITH;
                 INSERT INTO o SELECT t.id, u.x FROM t JOIN u ON t.k = u.k AND t.ts BETWEEN u.ts AND u.ts + INTERVAL '2' SECOND;",
        records: [ROWS, &[r#"{"id": 7, "k": "a", "x": 2, "ts": "2026-01-01T00:00:01"}"#, r#"{"id": 8, "k": "b", "ts": "2026-01-01T00:00:20"}"#]],
        closes: true,
        kept: &[
            "right rows: k*=b x=NULL ts=2026-01-01T00:00:20 _weight=1 _closes_at=2026-01-01T00:00:22.001Z",
        ],
    },
    Case {
        kind: "over",
        script: "CREATE TABLE o (id BIGINT, k STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH;
                 INSERT INTO o SELECT id, k, n FROM
                 (SELECT id, k, x, row_number() OVER (PARTITION BY k ORDER BY x DESC) AS n FROM t) a WHERE n <= 1;",
        records: [ROWS, &[]],
        closes: false,
        kept: &[
            "rows: id=2 k*=a x=30 _weight=1",
            "rows: id=3 k*=NULL x=NULL _weight=1",
        ],
    },
    Case {
        kind: "over",
        script: "SET state_ttl = '1 hour'; CREATE TABLE o (id BIGINT, s BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH;
                 INSERT INTO o SELECT id, sum(x) OVER (PARTITION BY k ORDER BY id) FROM t;",
        records: [ROWS, &[]],
        closes: false,
        kept: &[
            "partitions: k*=NULL _expires_at=2026-01-01T01:00:00Z",
            "partitions: k*=a _expires_at=2026-01-01T01:00:00Z",
            "rows: id=1 k*=a x=10 _weight=1",
            "rows: id=2 k*=a x=30 _weight=1",
            "rows: id=3 k*=NULL x=NULL _weight=1",
        ],
    },
    Case {
        kind: "session",
        script: "CREATE TABLE o (s TIMESTAMP(3), e TIMESTAMP(3), n BIGINT) WITH;
                 INSERT INTO o SELECT window_start, window_end, count(*)
                 FROM TABLE(SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '4' SECOND)) GROUP BY k, window_start, window_end;",
        records: [ROWS, &[]],
        closes: false,
        kept: &[
            "rows: k*=NULL ts=2026-01-01T00:00:09 _weight=1",
            "rows: k*=a ts=2026-01-01T00:00:01 _weight=1",
            "rows: k*=a ts=2026-01-01T00:00:02 _weight=1",
            "sessions: k*=NULL _session_start=2026-01-01T00:00:09 _session_end=2026-01-01T00:00:13 _closed=false _closes_at=2026-01-01T00:00:13Z",
            "sessions: k*=a _session_start=2026-01-01T00:00:01 _session_end=2026-01-01T00:00:06 _closed=false _closes_at=2026-01-01T00:00:06Z",
        ],
    },
    // One session has closed, and is remembered without its rows.
    Case {
        kind: "session",
        script: "CREATE TABLE o (s TIMESTAMP(3), e TIMESTAMP(3), n BIGINT) WITH;
                 INSERT INTO o SELECT window_start, window_end, count(*)
                 FROM TABLE(SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '4' SECOND)) GROUP BY k, window_start, window_end;",
        records: [ROWS, &[]],
        closes: true,
        kept: &[
            "rows: k*=NULL ts=2026-01-01T00:00:09 _weight=1",
            "sessions: k*=NULL _session_start=2026-01-01T00:00:09 _session_end=2026-01-01T00:00:13 _closed=false _closes_at=2026-01-01T00:00:13Z",
            "sessions: k*=a _session_start=2026-01-01T00:00:01 _session_end=2026-01-01T00:00:06 _closed=true _closes_at=2026-01-01T00:00:10Z",
        ],
    },
    Case {
        kind: "temporal join",
        script: "CREATE TABLE o (id BIGINT, x BIGINT, vx BIGINT) WITH;
                 INSERT INTO o SELECT t.id, t.x, v.x FROM t LEFT JOIN keyed FOR SYSTEM_TIME AS OF t.ts AS v ON v.id = t.id;",
        records: [ROWS, &[]],
        closes: false,
        kept: &[
            "rows: id*=1 x=10 ts=2026-01-01T00:00:01 _weight=1 _closes_at=2026-01-01T00:00:01.001Z",
            "rows: id*=2 x=30 ts=2026-01-01T00:00:02 _weight=1 _closes_at=2026-01-01T00:00:02.001Z",
            "rows: id*=3 x=NULL ts=2026-01-01T00:00:09 _weight=1 _closes_at=2026-01-01T00:00:09.001Z",
            "versions: id*=1 x=5 _valid_from=2026-01-01T00:00:01 _deleted=false _weight=1 _closes_at=2026-01-01T00:00:01.001Z",
            "versions: id*=1 x=6 _valid_from=2026-01-01T00:00:02 _deleted=false _weight=1 _closes_at=2026-01-01T00:00:02.001Z",
            "versions: id*=2 x=7 _valid_from=2026-01-01T00:00:03 _deleted=false _weight=1 _closes_at=2026-01-01T00:00:03.001Z",
            "versions: id*=2 x=NULL _valid_from=2026-01-01T00:00:04 _deleted=true _weight=1 _closes_at=2026-01-01T00:00:04.001Z",
        ],
    },
    Case {
        kind: "temporal join",
        script: "CREATE VIEW v AS SELECT id, k, x, ts FROM
                 (SELECT *, row_number() OVER (PARTITION BY id ORDER BY ts DESC, x DESC) AS n FROM u) a WHERE n = 1;
                 CREATE TABLE o (id BIGINT, x BIGINT, vx BIGINT) WITH;
                 INSERT INTO o SELECT t.id, t.x, v.x FROM t JOIN v FOR SYSTEM_TIME AS OF t.ts AS v ON v.id = t.id;",
        records: [ROWS, &[
            r#"{"id": 1, "k": "p", "x": 5, "ts": "2026-01-01T00:00:01"}"#,
            r#"{"id": 1, "k": "q", "x": 6, "ts": "2026-01-01T00:00:01"}"#,
        ]],
        closes: false,
        kept: &[
            "rows: id*=1 x=10 ts=2026-01-01T00:00:01 _weight=1 _closes_at=2026-01-01T00:00:01.001Z",
            "rows: id*=2 x=30 ts=2026-01-01T00:00:02 _weight=1 _closes_at=2026-01-01T00:00:02.001Z",
            "rows: id*=3 x=NULL ts=2026-01-01T00:00:09 _weight=1 _closes_at=2026-01-01T00:00:09.001Z",
            "versions: id*=1 x=5 ts=2026-01-01T00:00:01 _valid_from=2026-01-01T00:00:01 _deleted=false _weight=1 _closes_at=2026-01-01T00:00:01.001Z",
            "versions: id*=1 x=6 ts=2026-01-01T00:00:01 _valid_from=2026-01-01T00:00:01 _deleted=false _weight=1 _closes_at=2026-01-01T00:00:01.001Z",
        ],
    },
    Case {
        kind: "keyed sink",
        script: "CREATE TABLE o (k STRING, id BIGINT, l ARRAY<BIGINT>, PRIMARY KEY (id) NOT ENFORCED) WITH;
                 INSERT INTO o SELECT k, id, l FROM t;",
        records: [ROWS, &[]],
        closes: false,
        kept: &[
            "rows: k=NULL id*=3 l=NULL _weight=1",
            "rows: k=a id*=1 l=[1, NULL] _weight=1",
            "rows: k=a id*=2 l=[] _weight=1",
        ],
    },
    // Of rows that are never retracted, the greatest of each key and the number of all.
    Case {
        kind: "keyed sink",
        script: "SET on_key_conflict = 'warn'; CREATE TABLE o (k STRING, id BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH;
                 INSERT INTO o SELECT coalesce(k, '-'), id FROM t;",
        records: [ROWS, &[]],
        closes: false,
        kept: &[
            "rows: k*=- id=3 _weight=1",
            "rows: k*=a id=2 _weight=2",
        ],
    },
    // All live rows of a key.
    Case {
        kind: "keyed sink",
        script: "CREATE TABLE o (k STRING, id BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH;
                 INSERT INTO o SELECT coalesce(t.k, '-'), t.id FROM t LEFT JOIN u ON t.id = u.x;",
        records: [ROWS, &[]],
        closes: false,
        kept: &[
            "rows: k*=- id=3 _weight=1",
            "rows: k*=a id=1 _weight=1",
            "rows: k*=a id=2 _weight=1",
        ],
    },
    Case {
        kind: "keyed source",
        script: "CREATE TABLE o (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH;
                 INSERT INTO o SELECT coalesce(k, '-'), sum(x) FROM keyed GROUP BY k;",
        records: [&[], &[]],
        closes: false,
        kept: &[
            "rows: id*=1 k=q x=6",
        ],
    },
    Case {
        kind: "keyed source",
        script: "CREATE TABLE o (n BIGINT, k STRING, PRIMARY KEY (k) NOT ENFORCED) WITH;
                 INSERT INTO o SELECT sum(id), coalesce(k, '-') FROM keyed GROUP BY k;",
        records: [&[], &[]],
        closes: false,
        kept: &[
            "rows: id*=1 k=q",
        ],
    },
    Case {
        kind: "complete result",
        script: "SET output_mode = 'complete'; CREATE TABLE o (k STRING, f DOUBLE) WITH; INSERT INTO o SELECT k, f * 0 FROM t;",
        records: [ROWS, &[]],
        closes: false,
        kept: &[
            "rows: k*=NULL f*=0.0 _weight=1",
            "rows: k*=a f*=0.0 _weight=2",
        ],
    },
    Case {
        kind: "first row",
        script: "SET state_ttl = '1 hour'; CREATE TABLE o (k STRING, id BIGINT) WITH;
                 INSERT INTO o SELECT k, id FROM
                 (SELECT *, row_number() OVER (PARTITION BY k, x ORDER BY pt) AS n FROM t) a WHERE n = 1;",
        records: [ROWS, &[]],
        closes: false,
        kept: &[
            "keys: k*=NULL x*=NULL _expires_at=2026-01-01T01:00:00Z",
            "keys: k*=a x*=10 _expires_at=2026-01-01T01:00:00Z",
            "keys: k*=a x*=30 _expires_at=2026-01-01T01:00:00Z",
        ],
    },
];

/// Versions of the keyed table, one of them a deletion.
const KEYED_ROWS: &[&str] = &[
    r#"{"id": 1, "k": "p", "x": 5, "ts": "2026-01-01T00:00:01"}"#,
    r#"{"id": 1, "k": "q", "x": 6, "ts": "2026-01-01T00:00:02"}"#,
    r#"{"id": 2, "k": "p", "x": 7, "ts": "2026-01-01T00:00:03"}"#,
    r#"{"id": 2, "k": null, "x": null, "ts": "2026-01-01T00:00:04"} null"#,
];

/// Returns a cluster that has read a case's records.
fn run(case: &Case) -> Cluster {
    let tables = format!(
        "CREATE TABLE t ({PLAIN}) {WITH}; CREATE TABLE u ({PLAIN}) {WITH}; CREATE TABLE keyed ({KEYED}) {WITH};\n"
    );
    let script = case.script.replace("WITH;", &format!("{WITH};"));
    let (settings, script) = match script.split_once("; ") {
        Some((setting, rest)) if setting.starts_with("SET") => (format!("{setting};"), rest.to_string()),
        _ => (String::new(), script),
    };
    let script = format!("SET shards = 4; {settings} {tables}{script}");
    let schemas = describe(&script).unwrap();
    let mut records = Records::default();
    for (table, lines) in ["t", "u", "keyed"].into_iter().zip([case.records[0], case.records[1], KEYED_ROWS]) {
        for line in lines {
            let row = decoded(&schemas[table], line.trim_end_matches("null").trim_end()).unwrap();
            records.append(table, 0, if line.ends_with("null") { deletions(&row) } else { row });
        }
    }
    let mut cluster = Cluster::new(&script, &records, Fault::None).unwrap();
    cluster.commit(&Step { now_ms: Some(1_767_225_600_000), ..Step::taking(Take::All) }).unwrap();
    if case.closes {
        cluster.commit(&Step::taking(Take::Nothing)).unwrap();
    }
    cluster
}

fn ops(cluster: &Cluster) -> impl Iterator<Item = &Op> {
    cluster.compiled.dataflow.stages.iter().flat_map(|stage| &stage.pipelines).flat_map(|pipeline| &pipeline.ops)
}

/// Shard, key and value of an entry.
type Kept = (ShardId, Vec<u8>, Vec<u8>);

/// Returns the reader of the first operator of a kind, and the entries of its state.
fn kept(cluster: &Cluster, kind: &str) -> (Box<dyn StateReader>, Vec<Kept>) {
    let op = ops(cluster).find(|op| op.state().is_some_and(|state| state.kind == kind));
    let op = op.unwrap_or_else(|| panic!("no {kind}: {}", cluster.compiled.explain_text()));
    (op.state_reader().unwrap().unwrap(), cluster.kept(op.state().unwrap().operator))
}

fn entry((shard, key, value): &Kept) -> StateEntry<'_> {
    StateEntry { shard: *shard, key, value }
}

/// Returns rows as `part: name=value …`, without numbers that are NULL.
fn texts(parts: &[StateRows]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut texts = Vec::new();
    for StateRows { part, key, rows } in parts {
        let schema = rows.schema();
        assert_eq!(schema.field(0).name(), SHARD_COLUMN);
        for row in 0..rows.num_rows() {
            let columns = (1..rows.num_columns())
                .filter(|column| !schema.field(*column).name().starts_with('_') || rows.column(*column).is_valid(row));
            let column = |column: usize| {
                let star = if key.contains(&column) { "*" } else { "" };
                let value = ArrayFormatter::try_new(rows.column(column).as_ref(), &options).unwrap();
                format!("{}{star}={}", schema.field(column).name(), value.value(row))
            };
            texts.push(format!("{part}: {}", columns.map(column).collect::<Vec<_>>().join(" ")));
        }
    }
    texts.sort();
    texts
}

#[test]
fn every_operator_keeps_what_its_reader_shows() {
    let mut wrong = String::new();
    for case in CASES {
        let cluster = run(case);
        for op in ops(&cluster) {
            assert_eq!(op.state().is_some(), op.state_reader().unwrap().is_some(), "{}", op.describe());
        }
        let (reader, entries) = kept(&cluster, case.kind);
        let found = texts(&reader.read(&entries.iter().map(entry).collect::<Vec<_>>()).unwrap());
        // An entry is a row here, or in a keyed sink all live rows of a key.
        assert!(found.len() == entries.len() || case.kind == "keyed sink", "{}", case.kind);
        if found != case.kept {
            wrong += &format!("{}\n{}\n{}\n\n", case.kind, case.script, found.join("\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_kind_of_operator_has_a_case() {
    let operators = Path::new(env!("CARGO_MANIFEST_DIR")).join("../operators/src");
    let kind = Regex::new(r#"\bkind: "([^"]+)""#).unwrap();
    let mut kinds = BTreeSet::new();
    for folder in std::fs::read_dir(operators).unwrap() {
        let Ok(text) = std::fs::read_to_string(folder.unwrap().path().join("mod.rs")) else { continue };
        assert_eq!(
            text.matches("Some(StateSpec {").count() + text.matches("= StateSpec {").count(),
            kind.captures_iter(&text).count()
        );
        kinds.extend(kind.captures_iter(&text).map(|found| found[1].to_string()));
    }
    assert!(kinds.len() > 9, "{kinds:?}");
    let cases: BTreeSet<String> = CASES.iter().map(|case| case.kind.to_string()).collect();
    assert_eq!(kinds, cases);
}

#[test]
fn a_row_tells_the_shard_it_is_kept_in() {
    let cluster = run(&CASES[0]);
    let (reader, entries) = kept(&cluster, CASES[0].kind);
    let parts = reader.read(&entries.iter().map(entry).collect::<Vec<_>>()).unwrap();
    let shards = arrow::compute::cast(parts[0].rows.column(0), &arrow::datatypes::DataType::Int64).unwrap();
    let shown: Vec<i64> =
        arrow::array::cast::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&shards).values().to_vec();
    assert_eq!(shown, entries.iter().map(|(shard, ..)| i64::from(shard.0)).collect::<Vec<_>>());
}

#[test]
fn damaged_entries_are_refused_by_name_and_never_panic() {
    for case in CASES {
        let cluster = run(case);
        let (reader, entries) = kept(&cluster, case.kind);
        for (shard, key, value) in &entries {
            let read = |key: &[u8], value: &[u8]| reader.read(&[StateEntry { shard: *shard, key, value }]).map(drop);
            for length in 0..value.len() {
                // A keyed sink's value may hold no row, and a longer number of a kept row is not looked at.
                if let Err(error) = read(key, &value[..length]) {
                    let text = error.to_string();
                    assert!(text.contains(&format!("shard {shard}, key ")), "{}: {text}", case.kind);
                }
            }
            for length in 0..key.len() {
                if case.kind != "keyed sink" {
                    assert!(
                        read(&key[..length], value).is_err(),
                        "{}: key cut to {length} of {}",
                        case.kind,
                        key.len()
                    );
                }
            }
            assert!(case.kind == "keyed sink" || read(&[key.as_slice(), &[7]].concat(), value).is_err());
            assert!(value.is_empty() || read(key, &[]).is_err());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_never_panic(
        case in 0..CASES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        at in any::<prop::sample::Index>(),
    ) {
        let case = &CASES[case];
        let (reader, entries) = kept(&run(case), case.kind);
        let (shard, key, value) = &entries[at.index(entries.len())];
        let mut bytes = [key.as_slice(), value].concat();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (key, value) = bytes.split_at(key.len());
        let _ = reader.read(&[StateEntry { shard: *shard, key, value }]);
    }
}
