//! Which stages, exchanges and operators a query becomes.

use super::*;
use highwater_dataflow::{CloseKey, CloseKind, EmitMode};
use highwater_operators::aggregate::AggregateSpec;
use highwater_operators::aggregate::FinalAggregateSpec;
use std::sync::Arc;

#[track_caller]
fn expect(statements: &str, lines: &[&str]) -> CompiledQuery {
    let query = good(statements);
    assert_eq!(shape(&query), lines, "{statements}\n{}", query.explain_text());
    query
}

fn final_spec(query: &CompiledQuery) -> Arc<AggregateSpec> {
    let ops = query.dataflow.stages.iter().flat_map(|stage| &stage.pipelines).flat_map(|pipeline| &pipeline.ops);
    ops.filter_map(|op| op.downcast_ref::<FinalAggregateSpec>()).next().unwrap().spec.clone()
}

#[test]
fn filter_and_projection_stay_in_the_source_stage() {
    let query =
        expect("INSERT INTO rows_out SELECT card, id FROM plain WHERE amount > 10;", &["0: filter project -> sink 0"]);
    assert_eq!(query.sources[0].columns_used, [0, 1, 2]);
    assert!(query.warnings.is_empty());
    assert_eq!(query.dataflow.topology()[0].sinks.len(), 1);
    assert!(!query.dataflow.closes_windows());
}

#[test]
fn a_tumbling_count_appends_when_its_window_closes() {
    let sql = format!(
        "INSERT INTO windows SELECT window_start, card, count(*) FROM {TUMBLE} GROUP BY window_start, window_end, card;"
    );
    let query = expect(&sql, &["0: timed project partial0 -> edge 0 [0, 1, 2]", "1: final0:OnClose project -> sink 0"]);
    assert_eq!(final_spec(&query).close, Some(CloseKey { group_index: 1, kind: CloseKind::WindowEnd }));
    assert!(query.dataflow.closes_windows() && query.warnings.is_empty());
    assert_eq!(query.dataflow.operators[0].bounded_by.as_deref(), Some("window_end, by the watermark of pay"));
    assert!(query.source_specs()[0].has_watermark);
}

#[test]
fn a_tumbling_count_into_a_keyed_sink_updates() {
    let sql = format!(
        "INSERT INTO keyed_windows SELECT window_start, card, count(*) FROM {TUMBLE} GROUP BY window_start, card;"
    );
    let query = expect(
        &sql,
        &["0: timed project partial0 -> edge 0 [0, 1]", "1: final0:Updates project keyed1[0, 1]unique -> sink 0"],
    );
    assert_eq!(
        final_spec(&query).close,
        Some(CloseKey { group_index: 0, kind: CloseKind::WindowStart { size_ms: 10_000 } })
    );
}

#[test]
fn append_mode_into_a_keyed_sink_waits_for_the_close() {
    let sql = format!(
        "SET output_mode = 'append'; INSERT INTO keyed_windows SELECT window_start, card, count(*) FROM {TUMBLE} GROUP BY window_start, card;"
    );
    expect(
        &sql,
        &["0: timed project partial0 -> edge 0 [0, 1]", "1: final0:OnClose project keyed1[0, 1]unique -> sink 0"],
    );
}

#[test]
fn window_time_and_event_time_close_a_millisecond_later() {
    let sql =
        format!("INSERT INTO windows SELECT window_time, card, count(*) FROM {TUMBLE} GROUP BY window_time, card;");
    assert_eq!(final_spec(&good(&sql)).close, Some(CloseKey { group_index: 0, kind: CloseKind::EventTime }));
    let by_time = good("INSERT INTO windows SELECT ts, card, count(*) FROM pay GROUP BY card, ts;");
    assert_eq!(final_spec(&by_time).close, Some(CloseKey { group_index: 1, kind: CloseKind::EventTime }));
}

#[test]
fn an_unwindowed_aggregate_updates_and_warns() {
    let query = expect(
        "INSERT INTO keyed SELECT card, count(*) FROM plain GROUP BY card;",
        &["0: partial0 -> edge 0 [0]", "1: final0:Updates project keyed1[0]unique -> sink 0"],
    );
    assert_eq!(query.warnings.len(), 1);
    assert!(
        query.warnings[0].starts_with("nothing bounds the state of operator 0 (count(*) by card)"),
        "{}",
        query.warnings[0]
    );
    assert_eq!(query.sources[0].columns_used, [1]);
}

#[test]
fn a_global_aggregate_is_one_group_on_one_shard() {
    let query = expect(
        "INSERT INTO keyed SELECT 'all', count(*) FROM plain;",
        &["0: project partial0 -> edge 0 []", "1: final0:Updates project keyed1[0]unique -> sink 0"],
    );
    assert_eq!(query.dataflow.operators[0].bounded_by.as_deref(), Some("a single group"));
    assert!(query.warnings.is_empty());
    assert_eq!(query.sources[0].columns_used, [0], "something must be read to count rows");
}

#[test]
fn distinct_gives_each_row_when_first_seen() {
    let query = expect(
        "INSERT INTO rows_out SELECT DISTINCT card, id FROM plain;",
        &["0: project partial0 -> edge 0 [0, 1]", "1: final0:OnFirst project -> sink 0"],
    );
    assert_eq!(query.dataflow.operators[0].name, "distinct");
    let ops = &query.dataflow.stages[1].pipelines[0].ops;
    assert_eq!(ops[0].downcast_ref::<FinalAggregateSpec>().unwrap().emit, EmitMode::OnFirst);
}

#[test]
fn union_all_leads_all_flows_to_one_sink_or_one_aggregate() {
    expect(
        "INSERT INTO rows_out SELECT card, id FROM plain UNION ALL SELECT card, id FROM pay;",
        &["0: project -> sink 0", "1: project -> sink 0"],
    );
    let query = expect(
        "CREATE VIEW both AS SELECT card FROM plain UNION ALL SELECT category FROM pay;
         INSERT INTO keyed SELECT card, count(*) FROM both GROUP BY card;",
        &[
            "0: partial0 -> edge 0 [0]",
            "1: partial0 -> edge 0 [0]",
            "2: final0:Updates project keyed1[0]unique -> sink 0",
        ],
    );
    assert_eq!(query.dataflow.operators[0].sources.len(), 2);
    assert_eq!(query.dataflow.producers(highwater_protocol::ids::EdgeId(0)).count(), 2);
    expect(
        "INSERT INTO rows_out SELECT card, id FROM plain UNION SELECT card, id FROM pay;",
        &[
            "0: project partial0 -> edge 0 [0, 1]",
            "1: project partial0 -> edge 0 [0, 1]",
            "2: final0:OnFirst project -> sink 0",
        ],
    );
}

#[test]
fn having_and_filters_above_an_aggregate_run_after_it() {
    let query = good(
        "INSERT INTO keyed SELECT upper(card), n + 1 FROM (SELECT card, count(*) AS n FROM plain GROUP BY card HAVING count(*) > 2) WHERE n < 100;",
    );
    let above: Vec<String> = query.dataflow.stages[1].pipelines[0].ops.iter().map(op_name).collect();
    assert_eq!(above.first().map(String::as_str), Some("final0:Updates"));
    assert!(above.contains(&"filter".to_string()), "{above:?}");
}

#[test]
fn several_inserts_share_one_source() {
    let query = expect(
        "CREATE VIEW v AS SELECT card, id, amount FROM plain WHERE amount > 0;
         INSERT INTO rows_out SELECT card, id FROM v;
         INSERT INTO keyed SELECT card, count(*) FROM v GROUP BY card;
         INSERT INTO rows_two SELECT card, id FROM v WHERE id > 5;",
        &[
            "0: filter project -> sink 0",
            "0: project filter project partial0 -> edge 0 [0]",
            "0: filter project -> sink 2",
            "1: final0:Updates project keyed1[0]unique -> sink 1",
        ],
    );
    assert_eq!(query.sources.len(), 1);
    assert_eq!(
        query.sinks.iter().map(|sink| sink.name.as_str()).collect::<Vec<_>>(),
        ["rows_out", "keyed", "rows_two"]
    );
}

#[test]
fn a_view_used_twice_is_built_twice() {
    let query = good(
        "CREATE VIEW n (c, n) AS SELECT card, count(*) FROM plain GROUP BY card;
         INSERT INTO keyed SELECT c, n FROM n UNION ALL SELECT c || '!', n FROM n;",
    );
    assert_eq!(query.dataflow.operators.len(), 3);
    assert_eq!(query.dataflow.operators[2].name, "keyed sink");
}

#[test]
fn nested_fields_and_elements_are_reached() {
    let query = good(
        "INSERT INTO rows_out SELECT shop.address.city, items[1].n FROM pay WHERE tags[1] = 'x' AND shop.name IS NOT NULL;",
    );
    assert_eq!(query.sources[0].columns_used, [6, 7, 8]);
    let qualified =
        good("INSERT INTO rows_out SELECT p.shop['name'] || p.items[1].sku, cardinality(p.tags) FROM pay AS p;");
    assert_eq!(qualified.sources[0].columns_used, [6, 7, 8]);
}

#[test]
fn metadata_columns_are_there_but_not_in_a_star() {
    let query = good("INSERT INTO rows_out SELECT _topic, _offset FROM plain WHERE _key IS NOT NULL;");
    let source = &query.sources[0];
    let used: Vec<&str> =
        source.columns_used.iter().map(|column| source.schema.field(*column).name().as_str()).collect();
    assert_eq!(used.iter().copied().collect::<std::collections::BTreeSet<_>>(), ["_key", "_offset", "_topic"].into());
    let star = "CREATE TABLE copy_out (id BIGINT, card STRING, amount DECIMAL(10, 2), ts TIMESTAMP(3))
        WITH ('connector' = 'console');
        INSERT INTO copy_out SELECT * FROM plain WHERE _partition = 0;";
    assert_eq!(good(star).sinks[0].schema.fields().len(), 4);
}

#[test]
fn names_fold_unless_quoted() {
    good("INSERT INTO Rows_Out SELECT CARD, P.Id FROM PLAIN AS p;");
    let query = good(
        "CREATE TABLE \"Mixed\" (\"Card\" STRING, copy BIGINT, level INT, one INT)
           WITH ('connector' = 'kafka', 'topic' = 'm', 'bootstrap.servers' = 'h:1', 'format' = 'json');
         INSERT INTO rows_out SELECT \"Card\", copy + level + one FROM \"Mixed\";",
    );
    assert_eq!(query.sources[0].name, "Mixed");
    assert_eq!(query.sources[0].schema.field(0).name(), "Card");
}

#[test]
fn the_clock_stamps_rows_and_is_shared() {
    let query = good(
        "CREATE TABLE stamped (a STRING, at TIMESTAMP(3), d DATE) WITH ('connector' = 'console');
         INSERT INTO stamped SELECT card, now(), current_date FROM plain;",
    );
    query.clock.set_ms(1234);
    assert_eq!(query.clone().clock.now_ms(), 1234);
    assert!(query.explain_text().contains("now()"), "{}", query.explain_text());
}

#[test]
fn two_compilations_are_one_plan_and_a_change_is_another() {
    let sql = format!(
        "INSERT INTO keyed_windows SELECT window_start, card, count(DISTINCT id) FROM {TUMBLE} WHERE amount > 3 GROUP BY window_start, card;"
    );
    let (one, two) = (good(&sql), good(&sql));
    two.clock.set_ms(99);
    assert_eq!(one.fingerprint(), two.fingerprint());
    assert_eq!(one.explain_text(), two.explain_text());
    assert_eq!(one.fingerprint().len(), 32);
    for changed in [
        sql.replace("> 3", "> 4"),
        sql.replace("'10' SECOND", "'11' SECOND"),
        sql.replace("DISTINCT", ""),
        format!("SET shards = 8; {sql}"),
    ] {
        assert_ne!(one.fingerprint(), good(&changed).fingerprint(), "{changed}");
    }
}

#[test]
fn explain_says_what_runs_where() {
    let sql = format!(
        "INSERT INTO keyed_windows SELECT window_start, card, count(*) FROM {TUMBLE} WHERE amount > 3 GROUP BY window_start, card;"
    );
    let query = good(&sql);
    let text = query.explain_text();
    for line in [
        "┌─ stage 0: a task for each executor that reads partitions of pay\n│  source pay: kafka topic pay, reads card, amount, ts, watermark ",
        "│    ▼ partial aggregate 0: count(1) by ",
        "│  ─+▶ exchange 0 by hash of window_start, card, append-only\n└─\n",
        "┌─ stage 1: 64 shards, spread over all executors\n│  ─+▶ exchange 0, from stage 0\n",
        "│    ▼ final aggregate 0: by window_start, card, gives a group every change\n│        keeps groups, bounded by window_start, by the watermark of pay\n",
        "│    ▼ keyed sink 1: by w, a, keys are unique\n│  ─±▶ sink keyed_windows\n└─\n",
        "sink keyed_windows: kafka topic keyed_windows, keyed by w, a\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    let json = query.explain_json();
    assert_eq!(json["operators"][0]["closesWindows"], true);
    assert_eq!(json["sinks"][0]["primaryKey"][1], "a");
    assert_eq!(json["stages"][1]["pipelines"][0]["exchanges"][0], 0);
    assert_eq!((&json["stages"][0]["shards"], &json["stages"][1]["shards"]), (&serde_json::Value::Null, &64.into()));
    assert_eq!(json["operators"][0]["keeps"], "groups");
    assert_eq!(json["operators"][0]["stage"], 1);
    let exchange = &json["exchanges"][0];
    assert_eq!((&exchange["from"][0], &exchange["to"], &exchange["retracting"]), (&0.into(), &1.into(), &false.into()));
}

#[test]
fn explain_draws_joins_corrections_and_what_nothing_bounds() {
    let query = good(
        "INSERT INTO keyed SELECT a.card, b.n FROM plain a
           LEFT JOIN (SELECT card, count(*) AS n FROM plain GROUP BY card) b ON a.card = b.card;",
    );
    let text = query.explain_text();
    for line in [
        "│  ─+▶ left: exchange ",
        "│  ─±▶ right: exchange ",
        "│        keeps the rows of both sides, with how many match, UNBOUNDED: nothing ever frees them\n",
        "│        keeps the live rows of each key, UNBOUNDED",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    let retracting =
        query.explain_json()["exchanges"].as_array().unwrap().iter().filter(|e| e["retracting"] == true).count();
    assert!(retracting >= 2, "{text}");
}

#[test]
fn explain_shows_no_property() {
    let query = compile(
        "CREATE TABLE s (a STRING) WITH ('connector' = 'kafka', 'topic' = 's', 'bootstrap.servers' = 'h:1', 'format' = 'json', 'kafka.sasl.password' = 'hunter2');
         CREATE TABLE t (a STRING) WITH ('connector' = 'console'); INSERT INTO t SELECT a FROM s;",
    );
    let query = query.unwrap();
    assert!(!query.explain_text().contains("hunter2") && !query.explain_json().to_string().contains("hunter2"));
}

#[test]
fn the_examples_compile() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            match compile(&std::fs::read_to_string(&path).unwrap()) {
                Ok(query) => check(&query),
                Err(error) => panic!("{}: {error}", path.display()),
            }
            seen += 1;
        }
    }
    assert!(seen >= 2);
}

#[test]
fn a_column_may_be_selected_twice() {
    let table = "CREATE TABLE s (a STRING, b STRING, c BIGINT, d BIGINT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'console');";
    expect(
        &format!("{table} INSERT INTO s SELECT card, card, count(*), count(*) FROM plain GROUP BY card;"),
        &["0: partial0 -> edge 0 [0]", "1: final0:Updates project keyed1[0]unique -> sink 0"],
    );
    good(
        &format!("{table} INSERT INTO s SELECT *, card FROM (SELECT card, card AS c2, id FROM plain WHERE id > 1);")
            .replace(", card FROM", ", id FROM"),
    );
}
