//! Lookup tables: which keep their versions, and errors.

use super::*;

#[test]
fn rows_that_are_taken_back_keep_what_they_found() {
    let pinned = |from: &str| {
        let kafka = "WITH ('connector'='kafka','topic'='t','bootstrap.servers'='localhost:1','format'='json')";
        let script = format!(
            "CREATE TABLE ids (id BIGINT, k STRING{from}) {kafka}; \
             CREATE TABLE o (id BIGINT, b STRING, PRIMARY KEY (id) NOT ENFORCED) {kafka}; \
             CREATE TABLE side (key BIGINT, `value` STRING) WITH ('connector'='filesystem', 'path'='/x', 'format'='csv'); \
             INSERT INTO o SELECT id, `value` FROM ids JOIN side ON id = key;"
        );
        compile(&script).unwrap().snapshot_tables()[0].pinned
    };
    assert_eq!((pinned(""), pinned(", PRIMARY KEY (id) NOT ENFORCED")), (false, true));
}

#[test]
fn what_cannot_be_looked_up_is_told() {
    let side = "CREATE TABLE side (key BIGINT) WITH ('connector'='filesystem', 'path'='/x', 'format'='csv');";
    for (statements, expected) in [
        ("INSERT INTO rows_out SELECT 'a', key FROM side;", "is a lookup table, not a stream"),
        ("INSERT INTO rows_out SELECT card, id FROM side LEFT JOIN plain ON id = key;", "put the stream on the side"),
        (
            "INSERT INTO rows_out SELECT p.card, q.id FROM plain p JOIN pay FOR SYSTEM_TIME AS OF p.ts AS q ON p.id = q.id;",
            "needs a right side that has versions",
        ),
    ] {
        let error = bad(&format!("{side} {statements}"));
        assert!(error.contains(expected), "{statements}: {error}");
    }
    for (options, expected) in [
        ("'format'='csv'", "lacks the option 'path'"),
        ("'path'='/x'", "lacks the option 'format'"),
        ("'path'='/x', 'format'='json', 'csv.header'='true'", "goes with 'format' = 'csv'"),
        ("'path'='/x', 'format'='csv', 'topic'='t'", "the filesystem connector has no option 'topic'"),
    ] {
        let error = bad(&format!("CREATE TABLE s (a INT) WITH ('connector'='filesystem', {options});"));
        assert!(error.contains(expected), "{options}: {error}");
    }
}
