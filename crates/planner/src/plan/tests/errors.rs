//! Errors carry the place, the cause, and the name that was probably meant.

use super::*;

#[track_caller]
fn expect(statements: &str, text: &str) {
    let error = bad(statements);
    assert!(error.starts_with(text), "{statements}\n got: {error}\nwant: {text}");
}

#[test]
fn unknown_names_have_a_place_and_a_near_miss() {
    expect(
        "INSERT INTO rows_out\nSELECT crad, id FROM plain;",
        "line 2, column 8: column 'crad' not found\n  hint: did you mean 'card'?",
    );
    expect(
        "INSERT INTO rows_out SELECT card, id\nFROM plian;",
        "line 2, column 6: table 'plian' not found\n  hint: did you mean 'plain'?",
    );
    expect(
        "INSERT INTO rows_uot SELECT card, id FROM plain;",
        "line 1, column 13: table 'rows_uot' not found\n  hint: did you mean 'rows_out'?",
    );
    expect("INSERT INTO rows_out SELECT upp(card), id FROM plain;", "line 1, column 29: unknown function 'upp'");
    expect("INSERT INTO rows_out SELECT p.card, q.id FROM plain p;", "line 1, column 37: ");
    expect(
        "INSERT INTO rows_out (a, c) SELECT card, id FROM plain;",
        "line 1, column 26: table 'rows_out' has no column 'c'",
    );
    expect(
        "INSERT INTO windows SELECT window_start, card, 1 FROM TABLE(TUMBLE(TABLE pay, DESCRIPTOR(tz), INTERVAL '1' DAY));",
        "line 1, column 90: table 'pay' has no column 'tz'\n  hint: did you mean 'ts'?",
    );
}

#[test]
fn a_name_that_matches_several_in_another_case_is_ambiguous() {
    let table = "CREATE TABLE both (a BIGINT, \"A\" BIGINT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector'='kafka',\
                 'topic'='t','bootstrap.servers'='localhost:1','format'='json');";
    good(&format!("{table} INSERT INTO both (A, a) SELECT id, id FROM plain;"));
    let error = bad("CREATE TABLE both (ab BIGINT, aB BIGINT, PRIMARY KEY (AB) NOT ENFORCED) WITH ('a'='b')");
    assert!(error.contains("'AB' is ambiguous: there are 'ab' and 'aB'"), "{error}");
    let error = bad("CREATE VIEW PLAIN AS SELECT id FROM pay;");
    assert!(error.contains("'PLAIN' is created twice"), "{error}");
}

#[test]
fn inserts_that_do_not_fit() {
    expect(
        "INSERT INTO rows_out SELECT card FROM plain;",
        "line 1, column 13: the SELECT gives 1 column, and 'rows_out' takes 2 columns: a, b",
    );
    expect(
        "INSERT INTO rows_out SELECT id, card FROM plain;",
        "line 1, column 13: column 'b' of 'rows_out' is BIGINT, and the SELECT gives it STRING ('card')",
    );
    expect(
        "INSERT INTO keyed (b) SELECT id FROM plain;",
        "line 1, column 13: column 'a' of 'keyed' is part of the PRIMARY KEY and not in the list",
    );
    expect("CREATE VIEW v AS SELECT id FROM plain; INSERT INTO v SELECT id FROM plain;", "line 1, column ");
}

#[test]
fn scripts_that_run_nothing() {
    expect("SET trigger = 'asap';", "the script has no INSERT INTO, so nothing would run");
    expect("SELECT 1;", "line 1, column 1: a SELECT without INSERT INTO has nowhere to write");
    expect("DROP TABLE x;", "line 1, column 1: a script cannot contain DROP");
    expect("INSERT INTO rows_out SELECT card, id FROM plain WHERE;", "line 1, column 54: ");
}

#[test]
fn names_are_created_once() {
    let twice =
        compile("CREATE TABLE t (a STRING) WITH ('connector' = 'console');\nCREATE VIEW t AS SELECT 1 AS one FROM t;")
            .unwrap_err();
    assert_eq!(
        twice.to_string(),
        "line 2, column 13: 't' is created twice\n  hint: tables and views share one set of names"
    );
}

#[test]
fn a_sink_is_not_a_source() {
    expect("INSERT INTO rows_out SELECT a, b FROM rows_out;", "line 1, column ");
    assert!(
        bad("INSERT INTO rows_out SELECT a, b FROM rows_out;")
            .contains("is written by this script and cannot be read in it")
    );
}

#[test]
fn sinks_that_cannot_be() {
    let sink = |columns: &str, options: &str| {
        bad(&format!(
            "CREATE TABLE s (a STRING, {columns}) WITH ('connector' = 'kafka', 'bootstrap.servers' = 'h:1', 'format' = 'json'{options}); INSERT INTO s SELECT card, NULL FROM plain;"
        ))
    };
    assert!(
        sink("b STRING", "")
            .contains("table 's' lacks the option 'topic'\n  hint: add 'topic' = '<topic>', or a column _topic")
    );
    assert!(sink("_offset BIGINT", ", 'topic' = 's'").contains("'_offset' cannot be written"));
    assert!(sink("_topic INT", "").contains("'_topic' is a metadata column of a Kafka sink and is STRING, not INT"));
    assert!(
        sink("_key STRING, PRIMARY KEY (a) NOT ENFORCED", ", 'topic' = 's'")
            .contains("'_key' in a sink with PRIMARY KEY")
    );
    assert!(sink("_topic STRING, PRIMARY KEY (a) NOT ENFORCED", "").contains("'_topic' in a sink with PRIMARY KEY"));
    assert!(sink("b STRING, PRIMARY KEY (c) NOT ENFORCED", ", 'topic' = 's'").contains("table 's' has no column 'c'"));
    assert!(
        sink("b STRING, PRIMARY KEY (a, a) NOT ENFORCED", ", 'topic' = 's'")
            .contains("'a' is in the PRIMARY KEY twice")
    );
    assert!(
        sink("b STRING, PRIMARY KEY (_key) NOT ENFORCED", ", 'topic' = 's'").contains("table 's' has no column '_key'")
    );
}
