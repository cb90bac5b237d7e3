//! Forms that people bring from Spark and Flink: what they compile to, and what is said where they cannot run.

use super::*;
use arrow::datatypes::DataType;
use highwater_operators::over::OverOperator;

const KAFKA: &str = "WITH ('connector'='kafka','topic'='t','bootstrap.servers'='h:1','format'='json')";

/// Orders with columns that records do not hold.
fn orders(statements: &str) -> String {
    format!(
        "CREATE TABLE orders (price BIGINT, cost AS price * quantity, quantity BIGINT, epoch BIGINT, \
         ts AS TO_TIMESTAMP_LTZ(epoch, 3), proc AS PROCTIME(), at TIMESTAMP(3) METADATA FROM 'timestamp', \
         `partition` INT METADATA VIRTUAL, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) {KAFKA}; {statements}"
    )
}

#[test]
fn computed_columns_are_read_and_not_decoded() {
    let query = good(&orders("INSERT INTO rows_out SELECT 'a', cost FROM orders;"));
    let source = &query.sources[0];
    let names: Vec<&str> = source.schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["price", "quantity", "epoch", "_partition", "_timestamp"]);
    // The watermark is worth no column more.
    assert_eq!(source.columns_used, [0, 1]);
    let all = good(&orders(
        "CREATE TABLE o (a BIGINT, b BIGINT, c BIGINT, d BIGINT, e TIMESTAMP(3), f TIMESTAMP(3), g TIMESTAMP(3), h INT) \
         WITH ('connector'='console'); INSERT INTO o SELECT * FROM orders;",
    ));
    assert_eq!(all.sources[0].columns_used, [0, 1, 2, 3, 4]);
}

#[test]
fn a_computed_event_time_closes_windows() {
    let window = "TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '10' SECOND))";
    let query = good(&orders(&format!(
        "INSERT INTO windows SELECT window_end, 'a', sum(cost) FROM {window} WHERE cost > 1 GROUP BY window_start, window_end;"
    )));
    assert!(query.dataflow.closes_windows() && query.warnings.is_empty(), "{:?}", query.warnings);
    assert!(query.sources[0].watermark.is_some());
    let by_clock = "TABLE(TUMBLE(TABLE orders, DESCRIPTOR(proc), INTERVAL '10' SECOND))";
    good(&orders(&format!(
        "INSERT INTO keyed_windows SELECT window_end, 'a', sum(cost) FROM {by_clock} GROUP BY window_start, window_end;"
    )));
    good(&orders(
        "INSERT INTO rows_out SELECT 'a', l.cost FROM orders l JOIN orders r ON l.price = r.price AND l.ts BETWEEN r.ts - INTERVAL '1' HOUR AND r.ts;",
    ));
}

#[test]
fn sinks_hide_what_is_computed() {
    let sink = format!(
        "CREATE TABLE s (a STRING, twice AS b * 2, b BIGINT, at TIMESTAMP_LTZ(3) METADATA FROM 'timestamp', off BIGINT METADATA FROM 'offset' VIRTUAL) {KAFKA};"
    );
    let query = good(&format!("{sink} INSERT INTO s SELECT card, id, ts FROM plain;"));
    let names: Vec<&str> = query.sinks[0].schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["a", "b", "_timestamp"]);
    good(&format!("{sink} INSERT INTO s (at, a) SELECT ts, card FROM plain;"));
    for (statements, expected) in [
        ("INSERT INTO s (a, twice) SELECT card, id FROM plain;", "column 'twice' is computed, as b * 2"),
        ("INSERT INTO s (a, off) SELECT card, id FROM plain;", "column 'off' is VIRTUAL metadata"),
    ] {
        let error = bad(&format!("{sink} {statements}"));
        assert!(error.contains(expected) && error.starts_with("line 1, column "), "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_derived_column() {
    for (columns, expected) in [
        ("a INT, b AS a + missing", "column 'missing' not found"),
        ("a INT, a AS 1 + 1", "column 'a' is declared twice"),
        ("a INT, b AS sum(a)", "is not a function of its row alone"),
        ("a INT METADATA FROM 'headers' VIRTUAL", "cannot be read as INT"),
        ("a INT METADATA FROM 'ofset' VIRTUAL", "did you mean 'offset'?"),
        ("a INT, b AS a + 1, PRIMARY KEY (b) NOT ENFORCED", "not stored in records"),
        ("a INT, b AS a + 1, WATERMARK FOR b AS b", "WATERMARK FOR needs a TIMESTAMP column"),
        ("a STRING, off BIGINT METADATA FROM 'offset'", "'_offset' cannot be written"),
    ] {
        let error = bad(&format!(
            "CREATE TABLE s ({columns}) {KAFKA}; INSERT INTO {} SELECT {} FROM {};",
            if columns.contains("PRIMARY") || columns.ends_with("'offset'") { "s" } else { "rows_out" },
            if columns.contains("'offset'") { "card, id" } else { "'x', 1" },
            if columns.contains("PRIMARY") || columns.ends_with("'offset'") { "plain" } else { "s" },
        ));
        assert!(error.contains(expected) && error.starts_with("line 1, column "), "{columns}\n{error}");
    }
}

#[test]
fn several_inserts_into_one_table_are_one() {
    let both = "INSERT INTO rows_out SELECT card, id FROM plain; INSERT INTO rows_out SELECT card, id FROM pay;";
    let query = good(both);
    assert_eq!(query.sinks.len(), 1);
    assert_eq!(shape(&query), ["0: project -> sink 0", "1: project -> sink 0"]);
    for script in [format!("EXECUTE STATEMENT SET BEGIN {both} END;"), format!("BEGIN STATEMENT SET; {both} END;")] {
        assert_eq!(shape(&good(&script)), shape(&query));
    }
    // Each group is unique in its INSERT, and the key in none.
    let keyed = good(
        "INSERT INTO keyed SELECT card, count(*) FROM plain GROUP BY card; INSERT INTO keyed SELECT card, 1 FROM pay WHERE id = 7;",
    );
    assert!(shape(&keyed).iter().any(|line| line.contains("keyed1[0] -> sink 0")), "{:?}", shape(&keyed));
    let error = bad(
        "INSERT INTO rows_out SELECT card, id FROM plain; INSERT INTO rows_out SELECT card, count(*) FROM pay GROUP BY card;",
    );
    assert!(error.starts_with("line 1, column 50: 'rows_out' takes appended"), "{error}");
    for (script, expected) in [
        (
            "EXECUTE STATEMENT SET BEGIN INSERT INTO rows_out SELECT card, id FROM plain;",
            "this statement set has no END",
        ),
        ("BEGIN STATEMENT SET; SET shards = 1; END;", "expected INSERT INTO or END"),
    ] {
        let error = crate::compile(script).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn tables_and_views_if_there_are_none() {
    good(
        "CREATE TEMPORARY VIEW v AS SELECT card, id FROM plain; CREATE VIEW IF NOT EXISTS v AS SELECT nothing FROM nowhere; \
         CREATE OR REPLACE TEMPORARY VIEW w AS SELECT * FROM v; CREATE TEMPORARY TABLE c (a STRING, b BIGINT) WITH ('connector'='console'); \
         CREATE TABLE IF NOT EXISTS c (z INT) WITH ('connector'='console'); INSERT INTO c SELECT * FROM w;",
    );
}

#[test]
fn random_values_belong_to_records() {
    let query =
        good("INSERT INTO rows_out SELECT uuid(), CAST(rand() * 10 AS BIGINT) FROM plain p WHERE random() < 0.1;");
    let used: Vec<&str> =
        query.sources[0].columns_used.iter().map(|c| query.sources[0].schema.field(*c).name().as_str()).collect();
    assert_eq!(used, ["_offset", "_partition", "_topic"]);
    good(
        "CREATE VIEW v AS SELECT card, uuid() AS u FROM plain; INSERT INTO keyed SELECT u, count(*) FROM v GROUP BY u;",
    );
    for select in [
        "SELECT card, rand() FROM plain GROUP BY card",
        "SELECT card, sum(n) FROM (SELECT card, count(*) AS n FROM plain GROUP BY card) WHERE rand() < 0.5 GROUP BY card",
        "SELECT p.card, random() FROM plain p JOIN pay q ON p.id = q.id",
        "SELECT uuid(), unnest(make_array(id, id)) FROM plain",
    ] {
        let error = bad(&format!("INSERT INTO keyed {select};"));
        assert!(error.contains("() here is not supported in streaming yet") && error.contains("in a view"), "{error}");
    }
}

#[test]
fn ranks_in_every_form_are_limits() {
    for (sql, limited) in [
        ("SELECT card, id FROM plain QUALIFY row_number() OVER (PARTITION BY card ORDER BY id) <= 2", true),
        ("SELECT card, id FROM plain QUALIFY row_number() OVER (PARTITION BY card ORDER BY id) = 1 AND id > 3", true),
        (
            "SELECT card, id FROM (SELECT *, rank() OVER (PARTITION BY card ORDER BY id) n FROM plain) WHERE n BETWEEN 1 AND 3",
            true,
        ),
        (
            "SELECT card, id FROM (SELECT *, rank() OVER w n FROM plain WINDOW w AS (PARTITION BY card ORDER BY id)) WHERE 3 > n",
            true,
        ),
        ("SELECT card, id FROM (SELECT *, row_number() OVER (PARTITION BY card) n FROM plain) WHERE n = 1", true),
        (
            "SELECT card, id FROM (SELECT *, rank() OVER (PARTITION BY card ORDER BY id) n FROM plain) WHERE n <= 3 OR id > 7",
            false,
        ),
    ] {
        let query = good(&format!("INSERT INTO keyed {sql};"));
        let ops = query.dataflow.stages.iter().flat_map(|stage| &stage.pipelines).flat_map(|pipeline| &pipeline.ops);
        let limits: Vec<bool> =
            ops.filter_map(|op| op.downcast_ref::<OverOperator>()).map(|over| over.spec.limit.is_some()).collect();
        assert_eq!(limits, [limited], "{sql}");
    }
}

#[test]
fn ranks_and_counts_are_bigint() {
    let over = "OVER (PARTITION BY card ORDER BY id)";
    let view = format!(
        "{TABLES} CREATE VIEW v AS SELECT row_number() {over} AS a, rank() {over} AS b, dense_rank() {over} AS c,
           ntile(4) {over} AS d, count(*) {over} AS e, row_number() {over} - 2 AS f FROM plain;
         CREATE VIEW w AS SELECT count(*) AS a, count(DISTINCT id) AS b, count(*) FILTER (WHERE id > 1) AS c FROM plain;"
    );
    for (name, schema) in crate::compile::describe(&view).unwrap().into_iter().filter(|(name, _)| name.len() == 1) {
        for field in schema.fields() {
            assert_eq!(field.data_type(), &DataType::Int64, "{name}.{}", field.name());
        }
    }
}

#[test]
fn state_below_ranks_is_that_of_builds_whose_ranks_were_unsigned() {
    for (limit, time) in [("<= 2", "id"), ("> 2", "id"), ("= 1", "pt")] {
        let query = good(&format!(
            "CREATE VIEW v AS SELECT card, id, proctime() AS pt FROM plain;
             INSERT INTO keyed SELECT card, n FROM
               (SELECT *, row_number() OVER (PARTITION BY card ORDER BY {time}) AS n FROM v) q WHERE n {limit};"
        ));
        let ops = query.dataflow.stages.iter().flat_map(|stage| &stage.pipelines).flat_map(|pipeline| &pipeline.ops);
        let kept = ops.filter(|op| op.state().is_some_and(|state| matches!(state.kind, "over" | "first row")));
        for op in kept {
            let mut text = String::new();
            op.identify(&mut text).unwrap();
            assert!(text.contains(" UInt64 "), "{text}");
        }
    }
}

#[test]
fn everyday_expressions() {
    for expr in [
        "COUNT(DISTINCT card, id)",
        "LISTAGG(card)",
        "LISTAGG(card, ';')",
        "ARRAY_AGG(DISTINCT id)",
        "MAX_BY(card, id)",
        "MIN_BY(card, id) FILTER (WHERE id > 0)",
        "ANY_VALUE(card)",
        "FIRST_VALUE(card ORDER BY ts)",
        "APPROX_PERCENTILE(id, 0.5)",
        "PERCENTILE_APPROX(id, 0.5)",
        "BIT_AND(id)",
        "BIT_OR(id)",
        "BIT_XOR(id)",
        "BOOL_AND(id > 0)",
        "EVERY(id > 0)",
        "COLLECT_SET(card)",
        "COUNT_IF(id > 0)",
        "STDDEV_POP(id)",
    ] {
        good(&format!("INSERT INTO keyed SELECT k, CAST(n AS STRING) IS NULL OR true FROM (SELECT coalesce(card, '') AS k, {expr} AS n FROM plain GROUP BY coalesce(card, ''));")
            .replace("CAST(n AS STRING) IS NULL OR true", "CASE WHEN n IS NULL THEN 0 ELSE 1 END"));
    }
    for expr in [
        "CAST(ts AS TIME)",
        "CAST(ts AS DATE)",
        "TIME '12:00:00'",
        "CAST(id AS DECIMAL(38, 10))",
        "ts + INTERVAL '1' DAY",
        "ts - INTERVAL '2' MONTH",
        "CAST(ts AS DATE) + INTERVAL '1' DAY",
        "ROW(id, card)",
        "ARRAY[id, 2]",
        "MAP {'a': id}",
        "MAP(make_array('a'), make_array(id))",
        "ARRAY[ROW(id, card)]",
        "CAST(ts AS TIMESTAMP_LTZ(3))",
        "TRY_CAST(card AS BIGINT)",
        "ts > TIMESTAMP '2026-01-01 00:00:00'",
        "EXTRACT(HOUR FROM ts)",
        "card LIKE 'a%'",
        "card || '-' || id",
        "POSITION('a' IN card)",
        "SUBSTRING(card FROM 2 FOR 3)",
        "TRIM(BOTH ' ' FROM card)",
        "CEIL(amount)",
        "FLOOR(ts TO HOUR)",
        "ts::DATE",
        "NULLIF(id, 0)",
        "id % 3",
        "CARDINALITY(ARRAY[1])",
        "card SIMILAR TO 'a%'",
        "card IS NOT DISTINCT FROM 'a'",
        "ts AT TIME ZONE 'UTC'",
        "INTERVAL '1' DAY",
        "ts - TIMESTAMP '2026-01-01 00:00:00'",
        "TIMESTAMPDIFF(DAY, ts, ts)",
        "IF(id > 1, 2, 3)",
        "element_at(MAP(make_array('a'), make_array(id)), 'a')",
        "ARRAY[1,2][1]",
        "CASE id WHEN 1 THEN 'a' END",
    ] {
        good(&format!("INSERT INTO rows_out SELECT card, CASE WHEN ({expr}) IS NULL THEN 0 ELSE 1 END FROM plain;"));
    }
}

#[test]
fn refusals_say_the_way_out() {
    for (select, expected) in [
        ("SELECT card, first_value(id) FROM plain GROUP BY card", "first_value() without ORDER BY"),
        ("SELECT card, last(id) FROM plain GROUP BY card", "last() without ORDER BY"),
        ("SELECT card, id FROM plain UNION ALL VALUES ('a', 1)", "UNION with VALUES"),
        ("SELECT card, (SELECT q.id FROM pay q) FROM plain", "a subquery that may give several rows"),
        ("SELECT posexplode(tags), 1 FROM pay", "POSEXPLODE in SELECT"),
        ("SELECT card, id FROM plain LATERAL VIEW json_tuple(card, 'a') v AS x", "LATERAL VIEW"),
    ] {
        let error = bad(&format!("INSERT INTO keyed {select};"));
        assert!(
            error.contains(expected) && error.contains("hint: ") && error.starts_with("line 1, "),
            "{select}\n{error}"
        );
    }
    let error = bad("INSERT INTO rows_out SELECT * FROM (VALUES ('a', 1)) AS v (a, b);");
    assert!(error.contains("no stream to read"), "{error}");
}

#[test]
fn an_equality_that_may_fail_is_a_key_of_the_join() {
    let query = good(
        "INSERT INTO keyed SELECT p.card, q.id FROM plain p JOIN pay q ON p.card = q.card WHERE p.id + 1 = q.id AND 9 / q.id > 1;",
    );
    let ops = query.dataflow.stages.iter().flat_map(|stage| &stage.pipelines).flat_map(|pipeline| &pipeline.ops);
    let keys: Vec<usize> =
        ops.filter_map(|op| op.downcast_ref::<JoinOperator>()).map(|join| join.spec.sides[0].key.len()).collect();
    assert_eq!(keys, [2]);
}
