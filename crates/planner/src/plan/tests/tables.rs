//! Tables, options, settings and watermarks.

use super::*;
use highwater_operators::rows::Project;
use highwater_protocol::options::{OnDataLoss, OutputMode, StartingOffsets, Trigger};

/// A script over one source with these WITH options, columns and watermark.
fn over(columns: &str, options: &str, select: &str) -> Result<CompiledQuery, highwater_sql::SqlError> {
    compile(&format!(
        "CREATE TABLE s ({columns})\nWITH ('connector' = 'kafka', 'topic' = 's', 'bootstrap.servers' = 'h:1', 'format' = 'json'{options});
         CREATE TABLE t (a STRING) WITH ('connector' = 'console'); INSERT INTO t {select};"
    ))
}

#[test]
fn settings_hold_for_the_script_and_tables_override_them() {
    let query = good(
        "SET trigger = 'every 2 seconds'; SET shards = 16; SET startingOffsets = 'latest'; SET 'kafka.client.id' = 'me';
         SET on_data_loss = 'latest';
         CREATE TABLE own (a STRING) WITH ('connector' = 'kafka', 'topic' = 'o', 'bootstrap.servers' = 'h:1', 'format' = 'json',
           'on_data_loss' = 'earliest', 'maxOffsetsPerTrigger' = '1_000');
         INSERT INTO rows_out SELECT card, id FROM plain UNION ALL SELECT a, 1 FROM own;",
    );
    assert_eq!(query.options.trigger, Trigger::Every { interval_ms: 2000 });
    assert_eq!(query.options.shards, 16);
    let [plain, own] = query.sources.as_slice() else { panic!("two sources") };
    assert_eq!(plain.options.starting_offsets, StartingOffsets::Latest);
    assert_eq!((plain.options.on_data_loss, own.options.on_data_loss), (OnDataLoss::Latest, OnDataLoss::Earliest));
    assert_eq!(own.options.max_offsets_per_trigger, Some(1000));
    assert_eq!(plain.connector.values.properties()["client.id"], "me");
    assert_eq!(query.source_specs()[1].topic, "o");
}

#[test]
fn misspelt_settings_and_options_are_refused_with_the_near_name() {
    assert_eq!(
        bad("SET tigger = 'asap';"),
        "line 1, column 5: unknown setting 'tigger'\n  hint: did you mean 'trigger'?"
    );
    assert!(
        bad("SET trigger = 'hourly';")
            .starts_with("line 1, column 15: 'hourly' is not a value of 'trigger'\n  hint: write one of")
    );
    assert!(bad("SET shards = 0;").contains("line 1, column 14"));
    let error = over("a STRING", ",\n 'max_offset_per_trigger' = '5'", "SELECT a FROM s").unwrap_err().to_string();
    assert_eq!(
        error,
        "line 3, column 2: unknown option 'max_offset_per_trigger'\n  hint: did you mean 'max_offsets_per_trigger'?"
    );
    let error = over("a STRING", ", 'on_bad_record' = 'skipp'", "SELECT a FROM s").unwrap_err().to_string();
    assert!(error.contains("did you mean 'skip'?"), "{error}");
    let error = over("a STRING", ", 'kafka.transactional.id' = 'x'", "SELECT a FROM s").unwrap_err().to_string();
    assert!(error.contains("cannot be set"), "{error}");
    let complete = "SET output_mode = 'complete'; INSERT INTO";
    assert!(bad(&format!("{complete} keyed SELECT card, count(*) FROM plain GROUP BY card;")).contains("use 'update'"));
    let query = good(&format!("{complete} rows_out SELECT card, count(*) FROM plain GROUP BY card;"));
    assert!(shape(&query).join("\n").contains("complete1 -> sink"), "{:?}", shape(&query));
}

#[test]
fn watermarks_are_functions_of_a_row() {
    let from = "SELECT a FROM TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY a, window_end";
    for columns in [
        "a STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND",
        "a STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts",
        "a STRING, ts TIMESTAMP(3), WATERMARK FOR ts",
        "a STRING, ts TIMESTAMP(6), WATERMARK FOR ts AS ts - INTERVAL '1 minute'",
        "a STRING, ts TIMESTAMP_LTZ(3), WATERMARK FOR ts AS ts - INTERVAL '0.5' SECOND",
    ] {
        let query = over(columns, "", from).unwrap_or_else(|error| panic!("{columns}: {error}"));
        assert!(query.sources[0].watermark.is_some() && query.dataflow.closes_windows(), "{columns}");
        assert_eq!(query.sources[0].columns_used, [0, 1]);
    }
    let by_metadata = over(
        "a STRING, WATERMARK FOR _timestamp AS _timestamp - INTERVAL '5' SECOND",
        "",
        &from.replace("ts)", "_timestamp)"),
    )
    .unwrap();
    assert!(by_metadata.dataflow.closes_windows());
    assert_eq!(by_metadata.sources[0].schema.field(1).name(), "_timestamp");
}

#[test]
fn wrong_watermarks_are_refused_where_they_stand() {
    for (columns, message) in [
        ("a STRING, ts BIGINT, WATERMARK FOR ts AS ts", "WATERMARK FOR needs a TIMESTAMP column, and 'ts' is BIGINT"),
        (
            "a STRING, ts TIMESTAMP(3), WATERMARK FOR tz AS ts",
            "table 's' has no column 'tz'\n  hint: did you mean 'ts'?",
        ),
        (
            "a STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS a",
            "a watermark is a TIMESTAMP, and this expression is STRING",
        ),
        ("a STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS now()", "a watermark is a function of its row alone"),
        ("a STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS max(ts)", "a watermark is a function of its row alone"),
        ("a STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts, WATERMARK FOR ts AS ts", "a table has one WATERMARK"),
    ] {
        let error = over(columns, "", "SELECT a FROM s").unwrap_err().to_string();
        assert!(error.contains(message) && error.starts_with("line 1, column "), "{columns}: {error}");
    }
}

#[test]
fn a_watermark_nothing_needs_costs_no_column() {
    let query = over("a STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts", "", "SELECT a FROM s").unwrap();
    assert_eq!(query.sources[0].columns_used, [0]);
    assert!(!query.source_specs()[0].has_watermark);
}

#[test]
fn tables_no_insert_reaches_are_not_opened() {
    let query = good("INSERT INTO rows_out SELECT card, id FROM plain;");
    assert_eq!((query.sources.len(), query.sinks.len()), (1, 1));
    assert_eq!(query.sinks[0].mode, OutputMode::Append);
}

#[test]
fn a_sink_routes_by_its_metadata_columns() {
    let sink = |columns: &str, select: &str| {
        good(&format!(
            "CREATE TABLE s ({columns}) WITH ('connector' = 'kafka', 'bootstrap.servers' = 'h:1', 'format' = 'json');
             INSERT INTO s {select};"
        ))
    };
    let query = sink(
        "_topic STRING, _key STRING, _timestamp TIMESTAMP(3), _headers ARRAY<ROW<key STRING, value BYTES>>, a STRING",
        "SELECT 'to_' || category, card, ts, _headers, card FROM pay",
    );
    assert_eq!((query.sinks[0].connector.place(), query.sinks[0].schema.fields().len()), (None, 5));
    sink("_topic STRING, _key BYTES, a STRING", "SELECT 'x', _key, card FROM pay");
}

#[test]
fn columns_are_assigned_by_position_and_cast() {
    let query = good("INSERT INTO rows_out (b, a) SELECT CAST(1 AS SMALLINT), id FROM plain;");
    let Project { schema, exprs } = query.dataflow.stages[0].pipelines[0].ops[0].downcast_ref().expect("a projection");
    assert_eq!(schema, &query.sinks[0].schema);
    assert!(exprs[0].to_string().starts_with("CAST(id@"), "{}", exprs[0]);
    let missing = good("INSERT INTO rows_out (a) SELECT card FROM plain;");
    assert!(missing.explain_text().contains("NULL AS b"), "{}", missing.explain_text());
}

#[test]
fn what_does_nothing_for_a_sink_is_told() {
    let query = good(
        "CREATE TABLE s (a STRING) WITH ('connector' = 'kafka', 'topic' = 's', 'bootstrap.servers' = 'h:1', 'format' = 'json',
           'startingOffsets' = 'latest', 'kafka.linger.ms' = '5');
         INSERT INTO s SELECT card FROM plain;",
    );
    assert_eq!(query.warnings, ["option 'startingOffsets' of 's' does nothing: the table is only written"]);
}

#[test]
fn a_drift_is_a_duration_and_a_source_that_is_never_idle_is_told() {
    let select = "INSERT INTO rows_out SELECT card, id FROM pay;";
    let query = good(&format!("SET max_watermark_drift = '1 minute'; {select}"));
    assert_eq!((query.options.max_drift_ms, query.warnings.len()), (Some(60_000), 0));
    assert_eq!(good(select).options.max_drift_ms, None);
    assert!(query.sources[0].watermark.is_some(), "the watermark is needed though nothing else reads its column");
    assert!(good(select).sources[0].watermark.is_none());
    let never = format!(
        "SET max_watermark_drift = '1 minute'; SET idle_timeout = 'never';
         INSERT INTO windows SELECT window_start, card, count(*) FROM {TUMBLE} GROUP BY window_start, window_end, card;"
    );
    let warnings = good(&never).warnings;
    assert!(warnings[0].contains("holds back the others"), "{warnings:?}");
    let wrong = bad("SET max_watermark_drift = 'a bit';");
    assert!(wrong.contains("'a bit' is not a value of 'max_watermark_drift'"), "{wrong}");
    let place = bad("CREATE TABLE x (a STRING) WITH ('connector' = 'kafka', 'max_watermark_drift' = '1 minute');");
    assert!(place.contains("'max_watermark_drift' holds for the whole query"), "{place}");
}
