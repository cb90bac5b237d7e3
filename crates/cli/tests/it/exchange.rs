//! Rows from stage to stage, between executors.

use crate::table::Tables;
use highwater_testkit::{Highwater, Message};
use serde_json::json;

/// A name so long that a few thousand rows are too large for one message.
fn long_name(id: i64) -> String {
    format!("{id:0>600}")
}

#[test]
fn more_groups_than_fit_into_a_message_go_to_another_executor() {
    let tables = Tables::new("many-groups", 1);
    let groups = 80_000;
    let record = |id: i64| Message::json(&json!({"id": id, "name": long_name(id)}));
    tables.kafka.produce(&tables.input, (0..groups).map(record));
    let cluster = Highwater::start(2);
    // One executor reads everything in one batch, and half of the groups belong to the other: 24 MB.
    let sql = format!(
        "SET trigger = 'once'; {} {} INSERT INTO o SELECT name, count(*) FROM t GROUP BY name;",
        tables.source(""),
        tables.sink("name STRING, n BIGINT, PRIMARY KEY (name) NOT ENFORCED")
    );
    cluster.submit("q", &sql);
    cluster.wait_state("q", &["finished"]);
    assert_eq!(cluster.progress("q").len(), 1);
    let mut names: Vec<String> = tables.rows().iter().map(|row| row["name"].as_str().unwrap().to_string()).collect();
    names.sort();
    assert_eq!(names.len(), groups as usize);
    assert!(names.iter().zip(0..groups).all(|(name, id)| *name == long_name(id)));
}

#[test]
fn a_row_that_fits_into_no_message_stops_the_query_and_says_so() {
    let tables = Tables::new("large-row", 1);
    let record = |id: i64| Message::json(&json!({"id": id, "name": long_name(id)}));
    tables.kafka.produce(&tables.input, (0..60_000).map(record));
    let cluster = Highwater::start(2);
    // Two texts of 18 MB, at least one of which belongs to the executor that has not computed it.
    let sql = format!(
        "SET trigger = 'once'; {} {} CREATE VIEW all_names AS SELECT id % 2 AS k, string_agg(name, '' ORDER BY id) AS names FROM t GROUP BY id % 2;
         INSERT INTO o SELECT length(names), sum(k) FROM all_names GROUP BY names;",
        tables.source(""),
        tables.sink("name BIGINT, n BIGINT, PRIMARY KEY (name) NOT ENFORCED")
    );
    cluster.submit("q", &sql);
    let status = cluster.wait_state("q", &["failed"]);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("must go from one stage to another") && message.contains("make smaller rows"),
        "{message}"
    );
}
