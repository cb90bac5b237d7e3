//! `late_topic`: which operators' late rows go where.

use super::*;

const EVENTS: &str = "CREATE TABLE events (id BIGINT, card STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
    WITH ('connector' = 'kafka', 'topic' = 'events', 'bootstrap.servers' = 'h:9092', 'format' = 'json', 'late_topic' = 'events-late');";
const WINDOWS: &str = "INSERT INTO windows SELECT window_start, card, count(*)
    FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end, card;";

/// Stage, late sinks of its pipelines' inputs.
fn late(query: &CompiledQuery) -> Vec<(u32, Vec<Option<u32>>)> {
    let pipelines = query.dataflow.stages.iter().flat_map(|stage| stage.pipelines.iter().map(move |one| (stage, one)));
    pipelines
        .filter(|(_, pipeline)| !pipeline.late.is_empty())
        .map(|(stage, pipeline)| (stage.id.0, pipeline.late.iter().map(|sink| sink.map(|sink| sink.0)).collect()))
        .collect()
}

#[test]
fn a_windows_late_rows_go_to_a_hidden_sink() {
    let query = good(&format!("{EVENTS} {WINDOWS}"));
    assert_eq!(late(&query), [(0, vec![Some(1)])]);
    let sink = &query.sinks[1];
    assert_eq!(sink.name, "events (late rows)");
    assert_eq!((sink.connector.place(), sink.connector.format.name()), (Some("events-late"), "raw"));
    assert_eq!(query.dataflow.stages[0].sinks.len(), 1);
}

#[test]
fn every_operator_on_the_way_and_each_side_of_a_join_has_its_own() {
    let join = "INSERT INTO rows_out SELECT a.card, b.id FROM events a JOIN pay b
        ON a.card = b.card AND a.ts BETWEEN b.ts - INTERVAL '1' MINUTE AND b.ts;";
    assert_eq!(late(&good(&format!("{EVENTS} {join}"))), [(2, vec![Some(1), None])]);
    let twice = "CREATE VIEW v AS SELECT window_time AS at, card, count(*) AS n
          FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end, window_time, card;
        INSERT INTO windows SELECT window_start, card, sum(n)
          FROM TABLE(TUMBLE(TABLE v, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, card;";
    assert_eq!(late(&good(&format!("{EVENTS} {twice}"))), [(0, vec![Some(1)]), (1, vec![Some(1)])]);
}

#[test]
fn a_setting_holds_for_all_sources_and_idle_ones_are_told() {
    let query = good(&format!("SET late_topic = 'late'; {}", WINDOWS.replace("events", "pay")));
    assert_eq!(late(&query), [(0, vec![Some(1)])]);
    let idle = good(&format!("{EVENTS} INSERT INTO rows_out SELECT card, id FROM events;"));
    assert_eq!(idle.warnings, ["'late_topic' of 'events' does nothing: no operator closes windows over its rows"]);
    assert_eq!(idle.sinks.len(), 1);
}

#[test]
fn a_loop_is_refused() {
    let error = bad(&format!("{} {WINDOWS}", EVENTS.replace("events-late", "events")));
    assert!(error.contains("'late_topic' of table 'events' is the topic it reads"), "{error}");
}
