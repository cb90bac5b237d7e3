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
        ("SELECT p.card, q.id FROM plain p JOIN pay q ON p.id = q.id", "JOIN"),
        ("SELECT p.card, q.id FROM plain p, pay q", "JOIN"),
        ("SELECT p.card, q.id FROM plain p LEFT JOIN pay q ON p.id = q.id", "JOIN"),
        ("SELECT card, id FROM plain ORDER BY id", "ORDER BY"),
        ("SELECT card, id FROM plain LIMIT 5", "LIMIT"),
        ("SELECT card, id FROM plain OFFSET 5", "LIMIT"),
        ("SELECT card, id FROM plain FETCH FIRST 5 ROWS ONLY", "FETCH FIRST"),
        ("SELECT card, row_number() OVER (PARTITION BY card ORDER BY id) FROM plain", "OVER"),
        ("SELECT card, sum(id) OVER (PARTITION BY card) FROM plain", "OVER"),
        ("SELECT DISTINCT ON (card) card, id FROM plain", "DISTINCT ON"),
        ("SELECT card, id FROM plain WHERE id IN (SELECT id FROM pay)", "a subquery in an expression"),
        ("SELECT card, id FROM plain WHERE EXISTS (SELECT 1 FROM pay)", "a subquery in an expression"),
        ("SELECT card, (SELECT max(id) FROM pay) FROM plain", "a subquery in an expression"),
        ("SELECT card, id FROM plain INTERSECT SELECT card, id FROM pay", "INTERSECT"),
        ("SELECT card, id FROM plain EXCEPT SELECT card, id FROM pay", "EXCEPT"),
        ("SELECT unnest(tags), id FROM pay", "UNNEST"),
        ("SELECT card, count(*) FROM plain GROUP BY GROUPING SETS ((card), ())", "GROUPING SETS"),
        ("SELECT card, count(*) FROM plain GROUP BY ROLLUP (card)", "ROLLUP"),
        ("SELECT card, count(*) FROM plain GROUP BY CUBE (card)", "CUBE"),
        ("SELECT card, id FROM plain QUALIFY row_number() OVER (ORDER BY id) = 1", "QUALIFY"),
    ] {
        refused(&format!("INSERT INTO rows_out {select};"), what);
    }
    refused(
        "CREATE VIEW v AS SELECT card FROM plain ORDER BY card; INSERT INTO rows_out SELECT card, 1 FROM v;",
        "ORDER BY",
    );
}

#[test]
fn windows_other_than_tumble() {
    for (name, args) in [
        ("HOP", "INTERVAL '5' SECOND, INTERVAL '10' SECOND"),
        ("CUMULATE", "INTERVAL '5' SECOND, INTERVAL '10' SECOND"),
        ("SESSION", "INTERVAL '5' SECOND"),
    ] {
        let sql = format!(
            "INSERT INTO windows SELECT window_start, card, count(*) FROM TABLE({name}(TABLE pay, DESCRIPTOR(ts), {args})) GROUP BY window_start, card;"
        );
        refused(&sql, name);
    }
}

#[test]
fn functions() {
    for (call, what) in [
        ("random()", "function 'random'"),
        ("uuid()", "function 'uuid'"),
        ("first_value(id)", "function 'first_value'"),
        ("array_to_string(array_agg(card ORDER BY id), ',')", "ORDER BY inside array_agg()"),
    ] {
        refused(&format!("INSERT INTO keyed SELECT card, {call} FROM plain GROUP BY card;"), what);
    }
}

#[test]
fn aggregates() {
    refused(
        "INSERT INTO keyed SELECT 'n', count(*) FROM (SELECT card, count(*) FROM plain GROUP BY card);",
        "an aggregate over an aggregate",
    );
    refused(
        "INSERT INTO keyed SELECT 'n', count(*) FROM (SELECT DISTINCT card FROM plain);",
        "an aggregate over an aggregate",
    );
    refused("INSERT INTO keyed SELECT card, avg(DISTINCT id) FROM plain GROUP BY card;", "avg(DISTINCT …)");
    refused("INSERT INTO keyed SELECT category, sum(DISTINCT score) FROM pay GROUP BY category;", "sum(DISTINCT …)");
    refused(
        "INSERT INTO keyed SELECT card, count(DISTINCT id, amount) FROM plain GROUP BY card;",
        "count(DISTINCT …) over several columns",
    );
    good("INSERT INTO keyed SELECT card, count(DISTINCT id) + sum(DISTINCT id) FROM plain GROUP BY card;");
    good("INSERT INTO keyed SELECT card, count(DISTINCT id) FROM plain GROUP BY card;");
}

#[test]
fn a_second_insert_into_one_table() {
    refused(
        "INSERT INTO rows_out SELECT card, id FROM plain; INSERT INTO rows_out SELECT card, id FROM pay;",
        "a second INSERT INTO 'rows_out'",
    );
}

#[test]
fn the_clock_where_it_decides() {
    let error = bad("INSERT INTO rows_out SELECT card, id FROM plain WHERE ts > now();");
    assert!(error.starts_with("line 1, column 60: now() in a condition is not supported in streaming yet"), "{error}");
    refused(
        "CREATE VIEW v AS SELECT card, id FROM plain WHERE ts > current_timestamp; INSERT INTO rows_out SELECT card, id FROM v;",
        "now() in a condition",
    );
    refused("INSERT INTO keyed SELECT card, count(*) FROM plain GROUP BY card, current_date;", "now() in GROUP BY");
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
fn tables_that_cannot_be_read() {
    let error = bad("INSERT INTO rows_out SELECT a, b FROM keyed;");
    assert!(error.contains("reading 'keyed', a table with PRIMARY KEY, is not supported in streaming yet"), "{error}");
}
