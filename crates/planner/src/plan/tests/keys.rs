//! Sinks with PRIMARY KEY: when the key is proven unique, and what is kept when it is not.

use super::*;
use highwater_operators::keyed_sink::KeyedSinkSpec;
use highwater_operators::rows::Project;

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
    let Project { schema, .. } = query.dataflow.stages[0].pipelines[0].ops[1].downcast_ref().expect("a projection");
    assert!(!schema.field(0).is_nullable() && schema.field(1).is_nullable());
}

#[test]
fn grouping_sets_may_share_a_key() {
    let query = good(
        "INSERT INTO keyed SELECT card, count(*) FROM plain WHERE card IS NOT NULL GROUP BY GROUPING SETS ((card), (card, id));",
    );
    assert!(query.explain_text().contains("keeps the rows of each key"), "{}", query.explain_text());
}

/// Compiles a sink keyed by `key`; returns what is proven about its keys, and its warnings.
#[track_caller]
fn told(columns: &str, key: &str, select: &str) -> (String, Vec<String>) {
    let table = format!(
        "CREATE TABLE s ({columns}, PRIMARY KEY ({key}) NOT ENFORCED)
           WITH ('connector' = 'kafka', 'topic' = 's', 'bootstrap.servers' = 'h:1', 'format' = 'json');"
    );
    let query = good(&format!("{table} INSERT INTO s {select};"));
    let op = query.dataflow.stages.iter().flat_map(|stage| &stage.pipelines).flat_map(|pipeline| &pipeline.ops);
    let gathered = shape(&query).iter().any(|line| line.contains(": keyed"));
    let keyed = op.filter_map(|op| op.downcast_ref()).map(|keyed| match keyed {
        KeyedSinkSpec { unique: true, .. } if gathered => "apart".to_string(),
        KeyedSinkSpec { unique: true, .. } => "together".to_string(),
        KeyedSinkSpec { close: Some(close), .. } => format!("until {} {:?}", close.group_index, close.kind),
        KeyedSinkSpec { .. } => "shared".to_string(),
    });
    let told = keyed.collect::<Vec<_>>().join(" ");
    let own = query.warnings.into_iter().filter(|warning| warning.contains("every key ever written")).collect();
    (told, own)
}

const WINDOW: &str = "a TIMESTAMP(3), b STRING, c BIGINT";

fn windows(function: &str, select: &str, group: &str) -> String {
    let table = match function {
        "TUMBLE" => "TUMBLE(TABLE pay, DESCRIPTOR(ts), INTERVAL '10' SECOND)",
        "HOP" => "HOP(TABLE pay, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '10' SECOND)",
        "CUMULATE" => "CUMULATE(TABLE pay, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '10' SECOND)",
        _ => "SESSION(TABLE pay PARTITION BY card, DESCRIPTOR(ts), INTERVAL '5' SECOND)",
    };
    format!("SELECT {select}, count(*) FROM TABLE({table}) GROUP BY {group}")
}

#[test]
fn times_of_one_window_decide_one_another() {
    let all = "window_start, window_end, window_time, card";
    for (function, time, expected) in [
        ("TUMBLE", "window_start", "together"),
        ("TUMBLE", "window_end", "together"),
        ("TUMBLE", "window_time", "together"),
        ("HOP", "window_start", "together"),
        ("HOP", "window_end", "together"),
        ("HOP", "window_time", "together"),
        ("CUMULATE", "window_end", "together"),
        ("CUMULATE", "window_time", "together"),
        // Several begin together. The start frees them once the longest is over.
        ("CUMULATE", "window_start", "until 0 WindowStart { size_ms: 10000 }"),
        // A session that grows is another group, of another shard, with the same start.
        ("SESSION", "window_start", "apart"),
        ("SESSION", "window_end", "apart"),
        ("SESSION", "window_time", "apart"),
    ] {
        let select = windows(function, &format!("{time}, card"), all);
        let (keys, warnings) = told(WINDOW, "a, b", &select);
        assert_eq!(keys, expected, "{select}");
        assert!(warnings.is_empty(), "{select}: {warnings:?}");
    }
}

#[test]
fn what_a_session_is_of_must_be_in_the_key() {
    let select = windows("SESSION", "window_start, category", "window_start, window_end, card, category");
    assert_eq!(told(WINDOW, "a, b", &select).0, "shared");
}

#[test]
fn a_window_alone_says_nothing_of_other_groups() {
    let select = windows("TUMBLE", "window_start, card", "window_start, window_end, card, category");
    let (keys, warnings) = told(WINDOW, "a, b", &select);
    assert_eq!((keys.as_str(), warnings.len()), ("until 0 WindowStart { size_ms: 10000 }", 0));
}

#[test]
fn what_is_computed_from_a_key_follows_from_it() {
    let columns = "a STRING, b BIGINT, c BIGINT, d STRING";
    for select in [
        "SELECT card, count(*), 1, upper(card) FROM plain GROUP BY card, upper(card)",
        "SELECT card, count(*), 1, u FROM (SELECT card, concat(upper(card), '!') AS u FROM plain) GROUP BY card, u",
        "SELECT card, count(*), 1, 'x' FROM (SELECT card, CASE WHEN card LIKE 'a%' THEN 1 ELSE 2 END AS c FROM plain) GROUP BY card, c",
        "SELECT DISTINCT card, 1, 2, left(card, 3) FROM plain",
    ] {
        assert_eq!(told(columns, "a", select).0, "together", "{select}");
    }
    for select in [
        // The other way round two cards may become one.
        "SELECT upper(card), count(*), 1, card FROM plain GROUP BY card, upper(card)",
        // Of each branch it is another function.
        "SELECT card, count(*), 1, u FROM (SELECT card, upper(card) AS u FROM plain UNION ALL SELECT card, lower(card) FROM plain) GROUP BY card, u",
        "SELECT card, count(*), 1, u FROM (SELECT card, concat(card, CAST(id AS STRING)) AS u FROM plain) GROUP BY card, u",
        // NULL where nothing matches, whatever the function.
        "SELECT r.card, count(*), 1, r.u FROM pay l LEFT JOIN (SELECT card, coalesce(card, 'none') AS u FROM plain) r ON l.card = r.card GROUP BY r.card, r.u",
        // A key that is NULL for one of the sets.
        "SELECT card, count(*), 1, u FROM (SELECT card, upper(card) AS u FROM plain) GROUP BY GROUPING SETS ((card), (card, u))",
    ] {
        assert_eq!(told(columns, "a", select).0, "shared", "{select}");
    }
}

#[test]
fn a_float_decides_nothing_that_is_computed_from_it() {
    // 0.0 and −0.0 are one group, and 1 / them are two.
    let select = "SELECT score, count(*) FROM pay GROUP BY score, 1 / score";
    assert_eq!(told("a DOUBLE, b BIGINT", "a", select).0, "shared");
    assert_eq!(told("a DOUBLE, b BIGINT", "a", "SELECT score, count(*) FROM pay GROUP BY score").0, "together");
}

#[test]
fn windows_of_two_sizes_or_two_times_share_their_starts() {
    let union = |size: u32| {
        format!(
            "SELECT window_start, card, count(*) FROM (
               SELECT window_start, window_end, card FROM TABLE(TUMBLE(TABLE pay, DESCRIPTOR(ts), INTERVAL '10' SECOND))
               UNION ALL
               SELECT window_start, window_end, card FROM TABLE(TUMBLE(TABLE pay, DESCRIPTOR(ts), INTERVAL '{size}' SECOND)))
             GROUP BY window_start, window_end, card"
        )
    };
    assert_eq!(told(WINDOW, "a, b", &union(10)).0, "together");
    assert_eq!(told(WINDOW, "a, b", &union(20)).0, "shared");
    // Of two windows that were joined one says nothing of the other.
    let joined = format!(
        "SELECT l.window_start, l.card, count(*) FROM {TUMBLE} l JOIN {TUMBLE} r ON l.card = r.card
         GROUP BY l.window_start, r.window_end, l.card"
    );
    assert_ne!(told(WINDOW, "a, b", &joined).0, "together");
    // Nulled together where nothing matches.
    let outer = format!(
        "SELECT r.window_start, l.card, count(*) FROM {TUMBLE} l
         LEFT JOIN {TUMBLE} r ON l.card = r.card AND l.window_start = r.window_start
         GROUP BY r.window_start, r.window_end, l.card"
    );
    assert_eq!(told(WINDOW, "a, b", &outer).0, "together");
}

#[test]
fn two_inserts_share_what_they_keep_until_their_window_is_over() {
    let insert = |size: u32| {
        format!(
            "INSERT INTO keyed_windows SELECT window_end, card, count(*)
             FROM TABLE(TUMBLE(TABLE pay, DESCRIPTOR(ts), INTERVAL '{size}' SECOND)) GROUP BY window_start, window_end, card;"
        )
    };
    let query = good(&format!("{}{}", insert(10), insert(20)));
    assert!(query.warnings.is_empty(), "{:?}", query.warnings);
    let text = query.explain_text();
    assert!(text.contains("keeps the live rows of each key, bounded by w, by the watermark"), "{text}");
    // Records as they are come late, and none of them is dropped: nothing is final.
    let rows = good("INSERT INTO keyed_windows SELECT ts, card, id FROM pay;");
    assert!(rows.explain_text().contains("UNBOUNDED"), "{}", rows.explain_text());
}

#[test]
fn the_first_row_of_each_partition_has_its_key() {
    let ranked = |partition: &str, limit: &str| {
        format!(
            "SELECT card, n FROM (SELECT card, id, CAST(n AS BIGINT) AS n FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY {partition} ORDER BY id) AS n
             FROM plain) WHERE {limit})"
        )
    };
    let columns = "a STRING, b BIGINT";
    assert_eq!(told(columns, "a", &ranked("card", "n = 1")).0, "together");
    assert_eq!(told(columns, "a", &ranked("card", "n <= 2")).0, "shared");
    assert_eq!(told(columns, "a", &ranked("card, id", "n = 1")).0, "shared");
    // RANK has ties.
    let ties = ranked("card", "n = 1").replace("ROW_NUMBER()", "RANK()");
    assert_eq!(told(columns, "a", &ties).0, "shared");
}

#[test]
fn with_a_ttl_sessions_are_kept_by_key() {
    let select = windows("SESSION", "window_start, card", "window_start, window_end, card");
    let table = "CREATE TABLE s (a TIMESTAMP(3), b STRING, c BIGINT, PRIMARY KEY (a, b) NOT ENFORCED)
           WITH ('connector' = 'kafka', 'topic' = 's', 'bootstrap.servers' = 'h:1', 'format' = 'json');";
    let query = good(&format!("SET state_ttl = '1 hour'; {table} INSERT INTO s {select};"));
    assert!(query.explain_text().contains("keeps the rows of each key"), "{}", query.explain_text());
}

#[test]
fn the_readmes_first_example_keeps_nothing_unbounded() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let sql = readme.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let query = compile(sql).unwrap();
    check(&query);
    assert!(query.warnings.is_empty(), "{:?}", query.warnings);
    assert!(!query.explain_text().contains("UNBOUNDED"), "{}", query.explain_text());
}
