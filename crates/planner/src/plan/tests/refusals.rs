//! What does not run in streaming is refused by name, at its place.

use super::*;

/// Expects `<what> is not supported in streaming yet`, with a line and a column.
#[track_caller]
fn refused(statements: &str, what: &str) {
    let error = bad(statements);
    let located = error.starts_with("line 1, column ");
    assert!(
        located && error.contains(&format!(": {what} is not supported in streaming yet")),
        "{statements}\n got: {error}\nwant: {what}"
    );
}

#[test]
fn clauses() {
    for (select, what) in [
        ("SELECT card, id FROM plain ORDER BY id", "ORDER BY without LIMIT"),
        ("SELECT card, id FROM plain FETCH FIRST 5 ROWS WITH TIES", "FETCH FIRST … WITH TIES"),
        ("SELECT card, id FROM plain FETCH FIRST 5 PERCENT ROWS ONLY", "FETCH FIRST … PERCENT"),
        ("SELECT card, id FROM plain OFFSET 5", "OFFSET without LIMIT"),
        (
            "SELECT * FROM plain MATCH_RECOGNIZE (ORDER BY ts MEASURES a.id AS x PATTERN (a) DEFINE a AS a.id > 1)",
            "MATCH_RECOGNIZE",
        ),
    ] {
        refused(&format!("INSERT INTO rows_out {select};"), what);
    }
    refused(
        "CREATE VIEW v AS SELECT card FROM plain ORDER BY card; INSERT INTO rows_out SELECT card, 1 FROM v;",
        "ORDER BY without LIMIT",
    );
}

#[test]
fn functions() {
    for (call, what) in [("random()", "random() here"), ("uuid()", "uuid() here"), ("uuidv7()", "function 'uuidv7'")] {
        refused(&format!("INSERT INTO keyed SELECT card, {call} FROM plain GROUP BY card;"), what);
    }
}

#[test]
fn what_appends_nothing_final() {
    for (select, why) in [
        ("SELECT p.card, q.id FROM plain p LEFT JOIN pay q ON p.id = q.id", "of this join that match nothing"),
        ("SELECT card, id FROM plain p WHERE NOT EXISTS (SELECT 1 FROM pay q WHERE q.id = p.id)", "of this join that"),
        ("SELECT card, id FROM plain ORDER BY id LIMIT 5", "a later record may change these ranks"),
        ("SELECT DISTINCT ON (card) card, id FROM plain", "a later record may change these ranks"),
        ("SELECT card, sum(id) OVER (PARTITION BY card) FROM plain", "a later record may change these ranks"),
        ("SELECT card, count(*) FROM plain GROUP BY ROLLUP (card)", "this GROUP BY has none"),
    ] {
        let error = bad(&format!("INSERT INTO rows_out {select};"));
        assert!(error.contains(why) && error.contains("PRIMARY KEY"), "{select}\n{error}");
    }
    let sketch = "SELECT card, approx_distinct(n) FROM (SELECT card, id, count(*) AS n FROM plain GROUP BY card, id) GROUP BY card";
    let error = bad(&format!("INSERT INTO keyed {sketch};"));
    assert!(error.contains("approx_distinct() over rows that later records correct"), "{error}");
    good(
        "INSERT INTO keyed SELECT card, id FROM plain p WHERE id NOT IN (SELECT id FROM pay q WHERE q.card = p.card);",
    );
    good("INSERT INTO keyed SELECT card, id FROM plain WHERE id NOT IN (SELECT id FROM pay);");
    good("INSERT INTO keyed SELECT card, count(DISTINCT id, amount) + sum(DISTINCT id) FROM plain GROUP BY card;");
    good("INSERT INTO rows_out SELECT p.card, q.id FROM plain p, pay q WHERE p.id = q.id;");
}

#[test]
fn the_clock_where_it_decides() {
    let error = bad("INSERT INTO rows_out SELECT card, id FROM plain WHERE ts > now();");
    assert!(error.starts_with("line 1, column 60: now() in a condition is not supported in streaming yet"), "{error}");
    refused(
        "CREATE VIEW v AS SELECT card, id FROM plain WHERE ts > current_timestamp; INSERT INTO rows_out SELECT card, id FROM v;",
        "now() in a condition",
    );
    let counts = "(SELECT card, id, count(*) AS n FROM plain GROUP BY card, id)";
    refused(
        &format!("INSERT INTO keyed SELECT card, sum(n) FROM {counts} GROUP BY card, current_date;"),
        "now() in an aggregate",
    );
    good("INSERT INTO keyed SELECT card, count(*) FROM plain GROUP BY card, current_date;");
    refused("INSERT INTO keyed SELECT card, count(DISTINCT now()) FROM plain GROUP BY card;", "now() in an aggregate");
    refused(
        "INSERT INTO keyed SELECT card, count(*) FROM plain GROUP BY card HAVING max(ts) < now();",
        "now() in a condition",
    );
    refused(
        "CREATE TABLE s (a STRING PRIMARY KEY NOT ENFORCED, t TIMESTAMP(3), n BIGINT) WITH ('connector' = 'console');
         INSERT INTO s SELECT card, now(), count(*) FROM plain GROUP BY card;"
            .replace('\n', "")
            .as_str(),
        "now() over rows that later records correct",
    );
}

#[test]
fn sinks_without_key_take_no_corrections() {
    let error = bad("INSERT INTO rows_out SELECT card, count(*) FROM plain GROUP BY card;");
    for text in [
        "line 1, column 1: 'rows_out' takes appended, final rows",
        "every new record may change a row",
        "add PRIMARY KEY (…) NOT ENFORCED",
        "TUMBLE",
    ] {
        assert!(error.contains(text), "{text}: {error}");
    }
    let unmarked = bad(
        "INSERT INTO windows SELECT window_start, card, count(*) FROM TABLE(TUMBLE(TABLE plain, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY window_start, card;",
    );
    assert!(
        unmarked.contains("no watermark ever closes its windows") && unmarked.contains("declare WATERMARK FOR"),
        "{unmarked}"
    );
    let update = bad(&format!(
        "SET output_mode = 'update'; INSERT INTO windows SELECT window_start, card, count(*) FROM {TUMBLE} GROUP BY window_start, card;"
    ));
    assert!(update.contains("has no PRIMARY KEY to find them by"), "{update}");
    let append = bad("SET output_mode = 'append'; INSERT INTO keyed SELECT card, count(*) FROM plain GROUP BY card;");
    assert!(append.contains("use output_mode 'update'"), "{append}");
}

#[test]
fn only_the_first_row_to_come_is_final_by_the_clock() {
    let insert = |rank: &str, order: &str, limit: &str| {
        format!(
            "INSERT INTO rows_out SELECT card, id FROM (SELECT *, {rank}() OVER (PARTITION BY card ORDER BY {order}) AS n
             FROM (SELECT card, id, now() AS pt FROM plain) s) r WHERE n {limit};"
        )
    };
    for order in ["pt", "pt, id DESC", "card DESC, pt"] {
        let compiled = good(&insert("row_number", order, "= 1"));
        assert!(compiled.dataflow.operators.iter().any(|operator| operator.name == "first row"), "{order}");
    }
    for (rank, order, limit) in [
        ("row_number", "pt DESC", "= 1"),
        ("row_number", "id, pt", "= 1"),
        ("row_number", "pt", "<= 2"),
        ("rank", "pt", "= 1"),
    ] {
        let error = bad(&insert(rank, order, limit));
        assert!(error.contains("a later record may change these ranks"), "{rank} {order} {limit}\n{error}");
    }
}
