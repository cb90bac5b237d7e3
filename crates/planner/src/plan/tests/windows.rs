//! Window table functions and the older GROUP BY windows: their plans and their errors.

use super::*;

const BID: &str = "CREATE TABLE bid (bidder BIGINT, price BIGINT, `dateTime` TIMESTAMP(3), \
                   WATERMARK FOR `dateTime` AS `dateTime` - INTERVAL '4' SECOND)";

/// Compiles a script, and checks the invariants that the runtime relies on.
#[track_caller]
fn compiled(script: &str) -> CompiledQuery {
    let query = compile(script).unwrap_or_else(|error| panic!("{script}: {error}"));
    check(&query);
    query
}

#[track_caller]
fn appended(select: &str) -> CompiledQuery {
    let out = "CREATE TABLE o (a BIGINT, b TIMESTAMP(3), c TIMESTAMP(3))";
    compiled(&format!("{BID} {KAFKA}; {out} {KAFKA}; INSERT INTO o {select};"))
}

const KAFKA: &str = "WITH ('connector'='kafka','topic'='t','bootstrap.servers'='localhost:1','format'='json')";

fn error(select: &str) -> String {
    let script = format!("{BID} {KAFKA}; CREATE TABLE o (a BIGINT) {KAFKA}; INSERT INTO o {select};");
    compile(&script).unwrap_err().to_string()
}

#[test]
fn hop_and_cumulate_unnest_and_close() {
    for windows in [
        "HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '2' SECOND, INTERVAL '10' SECOND)",
        "CUMULATE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '2' SECOND, INTERVAL '10' SECOND)",
    ] {
        let query = appended(&format!(
            "SELECT count(*), window_start, window_end FROM TABLE({windows}) GROUP BY window_start, window_end"
        ));
        let shape = shape(&query).join("\n");
        assert!(shape.contains("unnest") && shape.contains("partial0"), "{shape}");
        assert!(shape.contains("final0:OnClose"), "{shape}");
        assert!(query.warnings.is_empty(), "{:?}", query.warnings);
    }
}

#[test]
fn sessions_are_kept_by_their_keys_and_close() {
    let table = "SELECT bidder, window_start, window_end FROM TABLE(SESSION(TABLE bid PARTITION BY bidder, \
                 DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND)) GROUP BY bidder, window_start, window_end";
    let older = "SELECT bidder, SESSION_START(`dateTime`, INTERVAL '10' SECOND), SESSION_END(`dateTime`, INTERVAL '10' \
                 SECOND) FROM bid GROUP BY bidder, SESSION(`dateTime`, INTERVAL '10' SECOND)";
    let renamed = "SELECT B.bidder, SESSION_START(B.`dateTime`, INTERVAL '10' SECOND), SESSION_END(B.`dateTime`, \
                   INTERVAL '10' SECOND) FROM bid B GROUP BY B.bidder, SESSION(B.`dateTime`, INTERVAL '10' SECOND)";
    let (table, older, renamed) = (appended(table), appended(older), appended(renamed));
    assert_eq!(shape(&table), shape(&older));
    assert_eq!(shape(&table), shape(&renamed));
    let shape = shape(&table).join("\n");
    assert!(shape.contains("session0"), "{shape}");
    assert!(table.warnings.is_empty(), "{:?}", table.warnings);
}

#[test]
fn older_windows_with_other_names() {
    let query = appended(
        "SELECT max(B.price), HOP_START(B.`dateTime`, INTERVAL '1' SECOND, INTERVAL '5' SECOND) AS s, \
         HOP_ROWTIME(`dateTime`, INTERVAL '1' SECOND, INTERVAL '5' SECOND) FROM bid AS B WHERE B.bidder > 1 \
         GROUP BY HOP(B.`dateTime`, INTERVAL '1' SECOND, INTERVAL '5' SECOND) HAVING count(*) > 1",
    );
    assert!(query.warnings.is_empty(), "{:?}", query.warnings);
}

#[test]
fn windows_of_processing_time() {
    let query = compiled(&format!(
        "{BID} {KAFKA}; CREATE TABLE o (a BIGINT, s TIMESTAMP(3), n BIGINT, PRIMARY KEY (a, s) NOT ENFORCED) {KAFKA}; \
         CREATE VIEW b AS SELECT *, PROCTIME() AS p_time FROM bid; \
         INSERT INTO o SELECT bidder, window_start, count(*) FROM TABLE(TUMBLE(TABLE b, DESCRIPTOR(p_time), \
         INTERVAL '10' SECOND)) GROUP BY bidder, window_start, window_end;"
    ));
    assert!(shape(&query).join("\n").contains("final0:Updates"));
    // The clock of batches frees windows that are over.
    assert!(!query.warnings.iter().any(|warning| warning.contains("operator 0")), "{:?}", query.warnings);
    assert_eq!(query.dataflow.operators[0].bounded_by.as_deref(), Some("window_end, by the time of batches"));
}

#[test]
fn wrong_windows_are_told() {
    let cases = [
        ("HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '2' SECOND)", "HOP needs its size"),
        ("TUMBLE(TABLE bid, DESCRIPTOR(`dateTime`))", "TUMBLE needs its size"),
        ("TUMBLE(TABLE bid, DESCRIPTOR(price), INTERVAL '1' SECOND)", "TUMBLE needs a TIMESTAMP column"),
        ("TUMBLE(TABLE bid, DESCRIPTOR(datetme), INTERVAL '1' SECOND)", "did you mean 'dateTime'"),
        ("TUMBLE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '1' MONTH)", "their length varies"),
        ("HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '0' SECOND, INTERVAL '1' SECOND)", "must be above zero"),
        ("HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND, INTERVAL '1' DAY)", "in 86400 windows"),
        (
            "CUMULATE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '3' SECOND, INTERVAL '10' SECOND)",
            "multiple of its step",
        ),
        ("TUMBLE(TABLE bid PARTITION BY bidder, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND)", "has no PARTITION BY"),
        ("SESION(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND)", "did you mean 'session'"),
    ];
    for (windows, expected) in cases {
        let error = error(&format!("SELECT count(*) FROM TABLE({windows}) GROUP BY window_start, window_end"));
        assert!(error.contains(expected), "{windows}: {error}");
    }
    assert!(error("SELECT HOP_END(ts, INTERVAL '1' DAY) FROM bid").contains("needs a GROUP BY of its window"));
}

#[test]
fn lists_are_unnested_beside_their_rows() {
    for select in [
        "SELECT t, id FROM pay CROSS JOIN UNNEST(tags) AS u (t)",
        "SELECT u.t, pay.id FROM pay, UNNEST(pay.tags) AS u (t) WHERE u.t <> 'x'",
        "SELECT t, id FROM pay LEFT JOIN UNNEST(tags) AS u (t) ON TRUE",
        "SELECT i['sku'], n FROM (SELECT unnest(items) AS i, id AS n FROM pay) x",
        "SELECT upper(t), count(*) FROM pay CROSS JOIN UNNEST(tags) AS u (t) GROUP BY t",
    ] {
        let keyed = select.contains("GROUP");
        let query = good(&format!("INSERT INTO {} {select};", if keyed { "keyed" } else { "rows_out" }));
        assert!(shape(&query)[0].contains("unnest"), "{select}: {:?}", shape(&query));
    }
}

#[test]
fn a_window_without_functions_comes_when_it_closes() {
    let windows = "TABLE(TUMBLE(TABLE pay, DESCRIPTOR(ts), INTERVAL '10' SECOND))";
    let grouped =
        format!("INSERT INTO windows SELECT window_start, card, 1 FROM {windows} GROUP BY window_start, card;");
    assert!(shape(&good(&grouped)).join("\n").contains("final0:OnClose"));
    // Without a window a row is final when it is first seen.
    let distinct = good("INSERT INTO rows_out SELECT DISTINCT card, id FROM pay;");
    assert!(shape(&distinct).join("\n").contains("final0:OnFirst"));
}

#[test]
fn the_window_of_a_side_that_may_be_missing_closes_nothing() {
    let windows = |table: &str| format!("TABLE(TUMBLE(TABLE {table}, DESCRIPTOR(ts), INTERVAL '10' SECOND))");
    let grouped = |side: &str| {
        format!(
            "SELECT {side}.window_end, 'a', count(*) FROM {} l LEFT JOIN {} r ON l.window_end = r.window_end AND \
             l.id = r.id GROUP BY {side}.window_end",
            windows("pay"),
            windows("pay")
        )
    };
    good(&format!("INSERT INTO windows {};", grouped("l")));
    let error = bad(&format!("INSERT INTO windows {};", grouped("r")));
    assert!(error.contains("this GROUP BY has none"), "{error}");
}
