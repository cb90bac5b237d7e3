//! Limits of scripts: just below and just above.

use super::*;
use arrow::array::{AsArray, RecordBatch, new_null_array};
use highwater_operators::rows::{Filter, Project};
use highwater_sql::limits::{
    MAX_COLUMNS, MAX_DEPTH, MAX_INSERTS, MAX_PLAN_NODES, MAX_SCRIPT_BYTES, MAX_SHARDS, MAX_TABLES,
};

/// Stack of an executor's query threads, in bytes.
const SMALL_STACK: usize = 2 << 20;

const COPY: &str = "INSERT INTO rows_out SELECT card, id FROM plain";

fn chain(first: &str, more: &str, count: usize) -> String {
    format!("{first}{}", more.repeat(count))
}

#[track_caller]
fn refused(statements: &str, expected: &str) {
    let error = bad(statements);
    assert!(error.contains(expected) && error.contains("hint: "), "{error}");
}

#[test]
fn a_script_has_a_size() {
    let script = |size: usize| {
        let rest = format!("{TABLES}{COPY};\n-- ");
        format!("{rest}{}", "x".repeat(size - rest.len()))
    };
    assert!(compile(&script(MAX_SCRIPT_BYTES)).is_ok());
    let error = compile(&script(MAX_SCRIPT_BYTES + 1)).unwrap_err().to_string();
    assert!(error.contains("1048577 bytes, but the maximum is 1048576"), "{error}");
}

#[test]
fn the_deepest_expressions_run_on_a_small_stack() {
    let deepest = MAX_DEPTH - 2;
    for (first, more) in [("id = 1", " OR id = 2"), ("id", " + 1"), ("card", " || 'x'")] {
        let condition = match first {
            "id" => format!("{} > 0", chain(first, more, deepest - 1)),
            "card" => format!("{} > \'a\'", chain(first, more, deepest - 1)),
            _ => chain(first, more, deepest - 2),
        };
        let query = good(&format!("{COPY} WHERE {condition};"));
        let Filter(predicate) = query.dataflow.stages[0].pipelines[0].ops[0].downcast_ref().expect("a filter");
        let (predicate, schema) = (predicate.clone(), query.sources[0].layout());
        let run = move || {
            let columns = schema.fields().iter().map(|field| new_null_array(field.data_type(), 3)).collect();
            let rows = RecordBatch::try_new(schema, columns).unwrap();
            let array = predicate.evaluate(&rows).unwrap().into_array(3).unwrap();
            assert!(array.as_boolean_opt().is_some());
            drop(predicate);
        };
        drop(query);
        std::thread::Builder::new().stack_size(SMALL_STACK).spawn(run).unwrap().join().unwrap();
    }
}

#[test]
fn what_is_deeper_is_refused() {
    for (first, more) in [
        ("id = 1", " OR id = 2"),
        ("id = 1", " AND id = 2"),
        ("id", " + 1"),
        ("card", " || 'x'"),
        ("id", "::BIGINT"),
        ("tags", "[1]"),
        ("ts", " AT TIME ZONE 'UTC'"),
        ("id", " - (1"),
    ] {
        for count in [MAX_DEPTH, 10_000] {
            refused(
                &format!("INSERT INTO rows_out SELECT card, {} FROM pay;", chain(first, more, count)),
                "nested too deeply: ",
            );
        }
    }
    let nested = |open: &str, close: &str| format!("{}id{}", open.repeat(10_000), close.repeat(10_000));
    for (open, close) in [("(", ")"), ("abs(", ")"), ("-(", ")"), ("ARRAY[", "]"), ("(SELECT ", ")")] {
        refused(&format!("INSERT INTO rows_out SELECT card, {} FROM pay;", nested(open, close)), "too deep");
    }
    let unions = chain(COPY, " UNION ALL SELECT card, id FROM plain", 10_000);
    refused(&format!("{unions};"), "nested too deeply: ");
    let joins = format!("INSERT INTO rows_out SELECT card, 1 FROM plain{}", ", plain".repeat(10_000));
    refused(&format!("{joins};"), "nested too deeply: ");
    let types = format!(
        "CREATE TABLE t (a {}INT{}) WITH ('connector' = 'console');",
        "ARRAY<".repeat(10_000),
        ">".repeat(10_000)
    );
    refused(&types, "nested too deeply: ");
    // Long, but not deep.
    let values = (0..10_000).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
    good(&format!("{COPY} WHERE id IN ({values});"));
}

#[test]
fn expressions_that_views_put_together_are_measured_whole() {
    let mut script = String::new();
    for view in 0..4 {
        let below = if view == 0 { "plain".to_string() } else { format!("v{}", view - 1) };
        let id = chain("id", " + 1", 200);
        script.push_str(&format!("CREATE VIEW v{view} AS SELECT card, {id} AS id FROM {below};\n"));
    }
    refused(
        &format!("{script}INSERT INTO rows_out SELECT card, id FROM v3 WHERE id > 0;"),
        "once all views are expanded",
    );
    // A condition that doubles with every view it is pushed through stays above them.
    let doubling: String = (0..60)
        .map(|view| {
            let below = if view == 0 { "plain".to_string() } else { format!("d{}", view - 1) };
            format!("CREATE VIEW d{view} AS SELECT card, id + id AS id FROM {below};\n")
        })
        .collect();
    good(&format!("{doubling}INSERT INTO rows_out SELECT card, id FROM d59 WHERE id > 0;"));
}

#[test]
fn nested_forms_that_repeat_their_arguments_are_refused_before_they_grow() {
    let nested =
        |depth: usize, inner: &str, wrap: &dyn Fn(&str) -> String| (0..depth).fold(inner.to_string(), |e, _| wrap(&e));
    let text = |expr: String| format!("INSERT INTO rows_out SELECT CAST({expr} AS STRING), id FROM plain;");
    let coalesce = |e: &str| format!("coalesce({e}, '-')");
    good(&text(nested(8, "card", &coalesce)));
    let of_cast = |e: &str| format!("coalesce(CAST({e} AS STRING), '-')");
    good(&text(nested(8, "id", &of_cast)));
    for (depth, inner, wrap) in [
        (20, "card", &coalesce as &dyn Fn(&str) -> String),
        (20, "card", &|e: &str| format!("nvl({e}, '-')")),
        (20, "id = 3", &|e: &str| format!("(({e}) IN (true, false))")),
        (20, "id = 3", &|e: &str| format!("(({e}) BETWEEN false AND true)")),
    ] {
        refused(&text(nested(depth, inner, wrap)), "would grow to more than 10000 parts");
    }
    // A view in between is not put together with what refers to it twice.
    let views: String = (0..20)
        .map(|view| {
            let (column, below) =
                if view == 0 { ("card".into(), "plain".into()) } else { ("c".to_string(), format!("v{}", view - 1)) };
            format!("CREATE VIEW v{view} AS SELECT id, coalesce({column}, '-') AS c FROM {below};\n")
        })
        .collect();
    good(&format!("{views}INSERT INTO rows_out SELECT c, id FROM v19;"));
    good(&text(nested(20, "card", &|e: &str| format!("nullif({e}, '-')"))));
    // The parser tries each CAST once more where the text cannot be parsed.
    refused(&text(nested(40, "id", &of_cast)), "nested too deeply");
    assert!(bad(&text(nested(22, "id +", &of_cast))).contains("expected AS"));
}

#[test]
fn statements_and_columns_are_counted() {
    let tables = |count: usize| -> String {
        let with = "WITH ('connector' = 'console')";
        (0..count).map(|number| format!("CREATE TABLE t{number} (a STRING, b BIGINT) {with};\n")).collect()
    };
    let known = TABLES.matches("CREATE TABLE").count();
    good(&format!("{}{COPY};", tables(MAX_TABLES - known)));
    refused(&format!("{}{COPY};", tables(MAX_TABLES - known + 1)), "501 tables and views, but the maximum is 500");
    refused(&format!("{COPY};\n").repeat(MAX_INSERTS + 1), "201 INSERTs, but the maximum is 200");
    let wide = |count: usize| {
        let columns: Vec<String> = (0..count).map(|number| format!("c{number} INT")).collect();
        format!(
            "CREATE TABLE wide ({}) WITH ('connector' = 'kafka', 'topic' = 'w', 'bootstrap.servers' = 'h:1', 'format' = 'json');",
            columns.join(", ")
        )
    };
    let insert = "INSERT INTO rows_out SELECT CAST(c0 AS STRING), c1 FROM wide;";
    good(&format!("{}{insert}", wide(MAX_COLUMNS)));
    refused(&format!("{}{insert}", wide(MAX_COLUMNS + 1)), "2001 columns in one table, but the maximum is 2000");
    good(&format!("SET shards = {MAX_SHARDS}; {COPY};"));
    assert!(bad(&format!("SET shards = {}; {COPY};", MAX_SHARDS + 1)).contains("from 1 to 4096"));
}

#[test]
fn views_that_multiply_are_refused() {
    let mut script = "CREATE VIEW v0 AS SELECT card, id FROM plain;\n".to_string();
    for view in 1..40 {
        let below = view - 1;
        script.push_str(&format!(
            "CREATE VIEW v{view} AS SELECT a.card, b.id FROM v{below} a JOIN v{below} b ON a.id = b.id;\n"
        ));
    }
    refused(
        &format!("{script}INSERT INTO keyed SELECT card, count(*) FROM v39 GROUP BY card;"),
        &MAX_PLAN_NODES.to_string(),
    );
    let ctes: Vec<String> = (1..40)
        .map(|view| format!("v{view} AS (SELECT a.card, b.id FROM v{0} a JOIN v{0} b ON a.id = b.id)", view - 1))
        .collect();
    let with = format!("WITH v0 AS (SELECT card, id FROM plain), {}", ctes.join(", "));
    refused(
        &format!("INSERT INTO keyed {with} SELECT card, count(*) FROM v39 GROUP BY card;"),
        &MAX_PLAN_NODES.to_string(),
    );
}

#[test]
fn grouping_sets_are_counted() {
    let columns: Vec<String> = (0..12).map(|number| format!("id % {}", number + 2)).collect();
    let cube = |count: usize| {
        format!(
            "CREATE TABLE s (a BIGINT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'console');
             INSERT INTO s SELECT count(*) FROM plain GROUP BY CUBE ({});",
            columns[..count].join(", ")
        )
    };
    good(&cube(4));
    refused(&cube(12), "but the maximum is");
}

#[test]
fn constants_that_would_be_huge_are_refused() {
    let calls = [
        ("repeat('a', 2000000000)", "repeat makes a constant of 2000000000 bytes, but the maximum is 65536"),
        ("lpad('a', 2000000000)", "lpad makes a constant"),
        ("rpad('a', 2000000000, 'xy')", "rpad makes a constant"),
        ("rpad(card, 2000000000)", "rpad makes a value"),
        ("space(2000000000)", "space makes a constant"),
        ("format_string('%2000000000d', 1)", "format_string makes a constant"),
        ("CAST(cardinality(range(2000000000)) AS STRING)", "range makes a constant"),
        ("CAST(cardinality(generate_series(0, 9000000000000000000, 1)) AS STRING)", "generate_series makes a constant"),
        ("CAST(cardinality(array_repeat(1, 2000000000)) AS STRING)", "array_repeat makes a constant"),
        ("CAST(cardinality(array_resize([1], 2000000000, 0)) AS STRING)", "array_resize makes a constant"),
        ("replace(repeat('a', 60000), 'a', repeat('b', 60000))", "replace makes a constant"),
        ("repeat('a', 60000) || repeat('b', 60000)", "|| makes a constant of 120000 bytes"),
        ("concat(repeat('a', 60000), repeat('b', 60000))", "concat makes a constant"),
        ("CAST(arrow_cast(NULL, 'FixedSizeBinary(2000000000)') AS STRING)", "FixedSizeBinary(2000000000)"),
        ("CASE WHEN id > 0 THEN repeat('a', 2000000000) END", "repeat makes a constant"),
    ];
    for (call, expected) in calls {
        let error = bad(&format!("INSERT INTO rows_out SELECT {call}, id FROM plain;"));
        assert!(error.contains(expected) && error.starts_with("line "), "{call}: {error}");
    }
    let grouped = [
        ("string_agg(card, repeat('x', 1000))", "the delimiter has 1000 bytes"),
        ("CAST(approx_percentile_cont(id, 0.5, 2000000000) AS STRING)", "2000000000 centroids are asked for"),
    ];
    for (call, expected) in grouped {
        let error = bad(&format!("INSERT INTO keyed SELECT {call}, max(id) FROM plain GROUP BY card;"));
        assert!(error.contains(expected), "{call}: {error}");
    }
}

#[test]
fn what_is_no_constant_is_bounded_when_it_is_computed() {
    let query = good("INSERT INTO rows_out SELECT repeat(card, id) || card, id FROM plain;");
    let Project { exprs, .. } = query.dataflow.stages[0].pipelines[0].ops[0].downcast_ref().expect("a projection");
    let schema = query.sources[0].layout();
    let rows = |id: i64| {
        let columns = schema.fields().iter().map(|field| match field.data_type() {
            arrow::datatypes::DataType::Utf8 => std::sync::Arc::new(arrow::array::StringArray::from(vec!["a"])) as _,
            arrow::datatypes::DataType::Int64 => std::sync::Arc::new(arrow::array::Int64Array::from(vec![id])) as _,
            other => new_null_array(other, 1),
        });
        RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
    };
    let error = highwater_dataflow::error::EngineError::from(exprs[0].evaluate(&rows(2_000_000_000)).unwrap_err());
    assert_eq!(error.kind(), highwater_protocol::error::ErrorKind::Fix);
    let text = error.to_string();
    assert!(text.contains("repeat makes a value of 2000000000 bytes here, but the maximum is 16777216"), "{text}");
    let made = exprs[0].evaluate(&rows(3)).unwrap().into_array(1).unwrap();
    assert_eq!(made.as_string::<i32>().value(0), "aaaa");
}
