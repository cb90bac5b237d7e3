//! Sinks with PRIMARY KEY: when the key is proven unique, and what is kept when it is not.

use super::*;

#[track_caller]
fn expect(sink: &str, select: &str, lines: &[&str]) -> CompiledQuery {
    let table = format!(
        "CREATE TABLE s ({sink}) WITH ('connector' = 'kafka', 'topic' = 's', 'bootstrap.servers' = 'h:1', 'format' = 'json');"
    );
    let query = good(&format!("{table} INSERT INTO s {select};"));
    assert_eq!(shape(&query), lines, "{sink}: {select}\n{}", query.explain_text());
    query
}

#[test]
fn rows_of_a_stream_may_share_a_key() {
    let query = expect(
        "a STRING PRIMARY KEY NOT ENFORCED, b BIGINT",
        "SELECT card, id FROM plain",
        &["0: project -> edge 0 [0]", "1: keyed0[0] -> sink 0"],
    );
    assert_eq!(query.dataflow.operators[0].bounded_by, None);
    assert!(query.warnings[0].contains("every key ever written"), "{:?}", query.warnings);
}

#[test]
fn a_key_of_more_than_the_group_is_unique_too() {
    expect(
        "a STRING, b BIGINT, PRIMARY KEY (b, a) NOT ENFORCED",
        "SELECT card, count(*) FROM plain GROUP BY card",
        &["0: partial0 -> edge 0 [0]", "1: final0:Updates project keyed1[1, 0]unique -> sink 0"],
    );
}

#[test]
fn a_key_of_less_than_the_group_keeps_rows() {
    let query = expect(
        "a STRING PRIMARY KEY NOT ENFORCED, b BIGINT",
        "SELECT card, count(*) FROM plain GROUP BY card, id",
        &["0: partial0 -> edge 0 [0, 1]", "1: final0:Updates project -> edge 1 [0] weighted", "2: keyed1[0] -> sink 0"],
    );
    assert_eq!(query.warnings.len(), 2);
}

#[test]
fn a_key_that_may_merge_groups_keeps_rows() {
    for expr in ["upper(card)", "left(card, 2)", "coalesce(card, 'none')"] {
        let select = format!("SELECT {expr}, count(*) FROM plain GROUP BY card");
        expect(
            "a STRING PRIMARY KEY NOT ENFORCED, b BIGINT",
            &select,
            &[
                "0: partial0 -> edge 0 [0]",
                "1: final0:Updates project -> edge 1 [0] weighted",
                "2: keyed1[0] -> sink 0",
            ],
        );
    }
}

#[test]
fn a_widening_cast_keeps_the_key_unique_and_a_rounding_one_does_not() {
    let widened = expect(
        "a STRING PRIMARY KEY NOT ENFORCED, b BIGINT",
        "SELECT id, count(*) FROM plain GROUP BY id",
        &["0: partial0 -> edge 0 [0]", "1: final0:Updates project keyed1[0]unique -> sink 0"],
    );
    assert_eq!(widened.warnings.len(), 1);
    let rounded = expect(
        "a BIGINT PRIMARY KEY NOT ENFORCED, b BIGINT",
        "SELECT amount, count(*) FROM plain GROUP BY amount",
        &["0: partial0 -> edge 0 [0]", "1: final0:Updates project -> edge 1 [0] weighted", "2: keyed1[0] -> sink 0"],
    );
    assert_eq!(rounded.warnings.len(), 2);
}

#[test]
fn two_flows_may_share_a_key() {
    expect(
        "a STRING PRIMARY KEY NOT ENFORCED, b BIGINT",
        "SELECT card, count(*) FROM plain GROUP BY card UNION ALL SELECT card, id FROM pay",
        &[
            "0: partial0 -> edge 0 [0]",
            "1: project -> edge 1 [0] weighted",
            "2: final0:Updates project -> edge 1 [0] weighted",
            "3: keyed1[0] -> sink 0",
        ],
    );
}

#[test]
fn not_null_is_kept_in_the_rows_schema() {
    let query = expect(
        "a STRING NOT NULL, b BIGINT",
        "SELECT card, id FROM plain WHERE card IS NOT NULL",
        &["0: filter project -> sink 0"],
    );
    let OpSpec::Project { schema, .. } = &query.dataflow.stages[0].pipelines[0].ops[1] else { panic!("no projection") };
    assert!(!schema.field(0).is_nullable() && schema.field(1).is_nullable());
}

#[test]
fn grouping_sets_may_share_a_key() {
    let query = good(
        "INSERT INTO keyed SELECT card, count(*) FROM plain WHERE card IS NOT NULL GROUP BY GROUPING SETS ((card), (card, id));",
    );
    assert!(query.explain_text().contains("keeps the rows of each key"), "{}", query.explain_text());
}
