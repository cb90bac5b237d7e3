//! Tables with PRIMARY KEY as sources, and temporal joins with them and with views of last rows.

use super::*;
use highwater_dataflow::runtime::BatchContext;
use highwater_protocol::ids::SourceId;
use highwater_sql::tables::UpsertKey;
use std::collections::BTreeMap;

/// Orders, rates by currency, and sinks for both.
const RATES: &str = "
CREATE TABLE orders (id BIGINT, currency STRING, amount BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
  WITH ('connector' = 'kafka', 'topic' = 'orders', 'bootstrap.servers' = 'h:1', 'format' = 'json');
CREATE TABLE rates (note STRING, rate BIGINT, currency STRING, ts TIMESTAMP(6), PRIMARY KEY (currency) NOT ENFORCED,
  WATERMARK FOR ts AS ts) WITH ('connector' = 'kafka', 'topic' = 'rates', 'bootstrap.servers' = 'h:1', 'format' = 'json');
CREATE TABLE two (a INT, b BIGINT, x BIGINT, ts TIMESTAMP(3), PRIMARY KEY (b, a) NOT ENFORCED, WATERMARK FOR ts AS ts)
  WITH ('connector' = 'kafka', 'topic' = 'two', 'bootstrap.servers' = 'h:1', 'format' = 'json');
CREATE TABLE ticks (currency STRING, rate BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
  WITH ('connector' = 'kafka', 'topic' = 'ticks', 'bootstrap.servers' = 'h:1', 'format' = 'json');
CREATE VIEW last_ticks AS SELECT currency, rate, ts FROM
  (SELECT *, ROW_NUMBER() OVER (PARTITION BY currency ORDER BY ts DESC) AS n FROM ticks) q WHERE n = 1 AND rate > 0;
CREATE TABLE final_out (a BIGINT, b BIGINT) WITH ('connector' = 'console');
CREATE TABLE open_out (a BIGINT, b BIGINT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'console');
";

const JOIN: &str =
    "SELECT o.id, r.rate FROM orders o JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency";

#[test]
fn a_keyed_table_is_folded_by_its_key_before_anything_else() {
    let query =
        good(&format!("{RATES} INSERT INTO open_out SELECT rate, count(*) FROM rates WHERE rate > 1 GROUP BY rate;"));
    assert_eq!(
        shape(&query),
        [
            "0:  -> edge 0 [1]",
            "1: upsert0[1] filter project -> edge 1 [0] weighted",
            "2: aggregate1:Updates project keyed2[0]unique -> sink 0"
        ]
    );
    // The key is read though the query does not ask for it; event time is not.
    assert_eq!(query.sources[0].columns_used, [1, 2]);
    assert_eq!(query.sources[0].upsert, Some(UpsertKey { columns: vec![2], time: None }));
    let warned = query.warnings.iter().any(|warning| warning.contains("keyed source rates by currency: the last rate"));
    assert!(warned, "{:?}", query.warnings);
    let counted = good(&format!("{RATES} INSERT INTO open_out SELECT 1, count(*) FROM rates;"));
    assert!(shape(&counted)[1].starts_with("1: upsert0[0]"), "{:?}", shape(&counted));
}

#[test]
fn a_copy_of_a_keyed_table_needs_no_proof_of_its_key() {
    let sink = "CREATE TABLE copy (a STRING, b BIGINT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'console');";
    let query = good(&format!("{RATES} {sink} INSERT INTO copy SELECT currency, rate FROM rates WHERE rate > 0;"));
    assert!(shape(&query)[1].ends_with("keyed1[0]unique -> sink 0"), "{:?}", shape(&query));
    let other = good(&format!("{RATES} {sink} INSERT INTO copy SELECT note, rate FROM rates;"));
    assert!(shape(&other).join("\n").contains("keyed1[0] -> sink 0"), "{:?}", shape(&other));
}

#[test]
fn what_appends_cannot_take_a_keyed_table() {
    let error = bad(&format!("{RATES} INSERT INTO final_out SELECT rate, 1 FROM rates;"));
    assert!(error.contains("this query corrects rows it has written"), "{error}");
    for (columns, expected) in [
        ("a STRING, PRIMARY KEY (_key) NOT ENFORCED", "table 's' has no column '_key'"),
        ("a STRING, PRIMARY KEY (a, a) NOT ENFORCED", "'a' is in the PRIMARY KEY twice"),
    ] {
        let error = bad(&format!(
            "CREATE TABLE s ({columns}) WITH ('connector' = 'kafka', 'topic' = 's', 'bootstrap.servers' = 'h:1', 'format' = 'json');
             INSERT INTO rows_out SELECT a, 1 FROM s;"
        ));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_temporal_join_reads_the_records_of_a_keyed_table() {
    for (sink, how) in [("final_out", "final"), ("open_out", "at-once")] {
        let query = good(&format!("{RATES} INSERT INTO {sink} {JOIN};"));
        let shape = shape(&query);
        assert!(shape[2].starts_with(&format!("2: temporal0:{how} ")), "{shape:?}");
        assert!(!shape.join("\n").contains("upsert"), "{shape:?}");
        let rates = query.sources.iter().find(|source| source.name == "rates").unwrap();
        assert_eq!(rates.upsert, Some(UpsertKey { columns: vec![2], time: Some(3) }));
        assert_eq!(rates.columns_used, [1, 2, 3]);
        assert!(query.dataflow.closes_windows());
        assert!(query.explain_text().contains("the version of ts by ts"), "{}", query.explain_text());
    }
}

#[test]
fn what_has_versions_and_what_more_may_stand_in_the_condition() {
    for from in [
        "orders o LEFT JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency AND r.rate > o.amount AND r.rate > 2",
        "orders o JOIN last_ticks FOR SYSTEM_TIME AS OF o.ts AS r ON r.currency = o.currency",
        "orders o JOIN (SELECT 1 AS one FROM plain) p ON p.one = o.id JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON r.currency = o.currency",
        "(orders o JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON r.currency = upper(o.currency))",
        "(SELECT id, ts, currency FROM orders WHERE id > 1) o JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON r.currency = o.currency",
    ] {
        let query = good(&format!("{RATES} INSERT INTO open_out SELECT o.id, r.rate FROM {from} WHERE r.rate <> 7;"));
        assert!(shape(&query).join("\n").contains("temporal"), "{from}: {:?}", shape(&query));
    }
    let filtered = good(&format!("{RATES} INSERT INTO final_out {JOIN} WHERE o.amount > 3 AND r.rate > 4;"));
    let lines = shape(&filtered);
    assert!(lines[0].starts_with("0: filter"), "{lines:?}");
    assert!(lines[2].starts_with("2: temporal0:final project filter"), "{lines:?}");
    let ticks = "WITH q AS (SELECT DISTINCT ON (currency) currency, rate, ts FROM ticks ORDER BY currency, ts DESC)";
    let distinct = good(&format!(
        "{RATES} INSERT INTO final_out {ticks} SELECT o.id, q.rate FROM orders o JOIN q FOR SYSTEM_TIME AS OF o.ts ON q.currency = o.currency;"
    ));
    assert!(shape(&distinct).join("\n").contains("temporal0:final"), "{:?}", shape(&distinct));
    let two = good(&format!(
        "{RATES} INSERT INTO final_out SELECT o.id, t.x FROM orders o JOIN two FOR SYSTEM_TIME AS OF o.ts AS t ON o.id = t.b AND o.amount = t.a;"
    ));
    assert!(shape(&two).iter().any(|line| line.contains("temporal")), "{:?}", shape(&two));
}

#[test]
fn windows_go_on_behind_a_temporal_join() {
    let query = good(&format!(
        "{RATES} CREATE VIEW j AS SELECT o.ts, o.id, r.rate FROM orders o JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency;
         INSERT INTO windows SELECT window_end, 'a', sum(rate) FROM TABLE(TUMBLE(TABLE j, DESCRIPTOR(ts), INTERVAL '10' SECOND)) GROUP BY window_start, window_end;"
    ));
    assert!(shape(&query).join("\n").contains("final1:OnClose"), "{:?}", shape(&query));
}

#[test]
fn temporal_joins_that_cannot_be() {
    let start = "INSERT INTO final_out SELECT o.id, 1 FROM orders AS o ";
    for (join, expected) in [
        (
            "JOIN rates FOR SYSTEM_TIME AS OF PROCTIME() AS r ON o.currency = r.currency",
            "line 1, column 88: FOR SYSTEM_TIME AS OF PROCTIME() on a stream is not supported in streaming yet",
        ),
        (
            "JOIN ticks FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency",
            "line 1, column 88: FOR SYSTEM_TIME AS OF needs a right side that has versions",
        ),
        (
            "JOIN rates FOR SYSTEM_TIME AS OF o.id AS r ON o.currency = r.currency",
            "needs the event time of the left side, and 'o.id' is not",
        ),
        ("JOIN rates FOR SYSTEM_TIME AS OF r.ts AS r ON o.currency = r.currency", "line 1, column 88: "),
        (
            "JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.id = r.rate",
            "compares the whole key of its right side, and the condition leaves out currency",
        ),
        ("JOIN two FOR SYSTEM_TIME AS OF o.ts AS r ON o.id = r.b", "the condition leaves out a"),
        ("JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r USING (currency)", "needs a condition ON its key"),
        ("RIGHT JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency", "is a JOIN or a LEFT JOIN"),
        ("CROSS JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r", "is a JOIN or a LEFT JOIN"),
        (", rates FOR SYSTEM_TIME AS OF o.ts AS r", "belongs to the right side of a JOIN"),
    ] {
        let error = bad(&format!("{start}{join};{RATES}"));
        assert!(error.contains(expected), "{join}: {error}");
    }
    let error = bad(&format!("INSERT INTO final_out SELECT id, 1 FROM orders WHERE hw_as_of(ts);{RATES}"));
    assert!(error.contains("unknown function 'hw_as_of'"), "{error}");
}

#[test]
fn versions_may_be_of_kafkas_time_but_not_of_a_computed_one() {
    let table = |time: &str| {
        format!(
            "{RATES} CREATE TABLE r (k STRING, x BIGINT, {time}, PRIMARY KEY (k) NOT ENFORCED, WATERMARK FOR at AS at)
               WITH ('connector' = 'kafka', 'topic' = 'r', 'bootstrap.servers' = 'h:1', 'format' = 'json');
             INSERT INTO final_out SELECT o.id, r.x FROM orders o JOIN r FOR SYSTEM_TIME AS OF o.ts ON o.currency = r.k;"
        )
    };
    let query = good(&table("at TIMESTAMP(3) METADATA FROM 'timestamp'"));
    let source = query.sources.iter().find(|source| source.name == "r").unwrap();
    let time = source.upsert.as_ref().unwrap().time.unwrap();
    assert_eq!(source.schema.field(time).name(), "_timestamp");
    let error = bad(&table("at AS to_timestamp_millis(x)"));
    assert!(error.contains("needs a right side that has versions") && error.contains("a stored column"), "{error}");
}

#[test]
fn ranks_by_a_column_that_is_not_selected_are_limited_all_the_same() {
    let rank = "ROW_NUMBER() OVER (PARTITION BY currency ORDER BY ts DESC) AS n";
    let query = good(&format!(
        "{RATES} INSERT INTO open_out SELECT rate, 1 FROM (SELECT rate, {rank} FROM ticks) q WHERE n = 1;"
    ));
    assert!(shape(&query)[1].starts_with("1: deduplicate0 "), "{:?}", shape(&query));
}

#[test]
fn a_temporal_join_tells_the_watermark_that_its_rows_meet() {
    let query = good(&format!("{RATES} INSERT INTO final_out {JOIN};"));
    let time = |of: &str| if of == "orders" { 7_000 } else { 9_000 };
    let times: BTreeMap<SourceId, i64> = query.sources.iter().map(|source| (source.id, time(&source.name))).collect();
    let context = BatchContext { close_before: times, ..BatchContext::default() };
    let watermarks = context.watermarks(&query.dataflow);
    assert_eq!(watermarks.into_values().collect::<Vec<_>>(), [[None, Some(7_000)]]);
}
