//! A query that falls behind shows its lag, and does no harm.

use crate::table::Tables;
use highwater_testkit::{Highwater, Message};
use serde_json::json;

/// Resident memory of a process, bytes.
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_slow_query_shows_its_lag_in_records_and_time_and_keeps_its_memory() {
    let tables = Tables::new("slow", 2);
    let cluster = Highwater::start(1);
    cluster.submit("q", &tables.copy("SET max_records_per_second = 100;", ""));
    cluster.wait_state("q", &["running"]);
    // 200 MB, more than a reader may hold.
    let pad = "x".repeat(20_000);
    for round in 0..5 {
        let ids = round * 2_000..(round + 1) * 2_000;
        let message = |id: i64| Message::json(&json!({"id": id, "other": pad})).partition((id % 2) as i32);
        tables.kafka.produce(&tables.input, ids.map(message));
    }
    let lag = cluster.wait("lag in records and time", || {
        let lag = cluster.json(&["lag", "q"]);
        let behind = lag["partitions"].as_array()?.iter().all(|p| p["behindMs"].as_i64() > Some(500));
        (lag["totalLag"].as_i64()? > 5_000 && behind).then_some(lag)
    });
    assert_eq!(lag["partitions"].as_array().unwrap().len(), 2, "{lag}");
    let (_, executor) = cluster.processes().into_iter().find(|(name, _)| name.starts_with("executor")).unwrap();
    let held = resident_bytes(executor);
    assert!(held < 600 << 20, "{} MiB held by a slow query's executor", held >> 20);
    let text = cluster.ok(&["lag", "q"]);
    assert!(text.contains("total lag of q:"), "{text}");

    cluster.ok(&["stop", "q"]);
    cluster.wait_state("q", &["stopped"]);
    cluster.submit("fast", &tables.copy("", "").replace("slow-out", "slow-out-2"));
    cluster.wait_caught_up("fast");
    assert_eq!(cluster.json(&["lag", "fast"])["totalLag"], 0);
}

#[test]
fn approaching_retention_is_warned_of() {
    let tables = Tables::new("retention", 1);
    tables.produce(0, 0..10_000);
    let cluster = Highwater::start(1);
    cluster.submit("q", &tables.copy("SET max_records_per_second = 50;", ""));
    let committed = cluster.wait("a first batch", || {
        cluster.json(&["lag", "q"])["partitions"][0]["committedOffset"].as_i64().filter(|offset| *offset > 0)
    });
    assert!(committed < 1_000, "too fast: {committed}");
    tables.kafka.delete_records(&tables.input, 0, committed.min(20));
    let warning = cluster.wait("the warning", || {
        let status = cluster.status("q");
        let warnings = status["warnings"].as_array()?.clone();
        warnings.iter().filter_map(|w| w.as_str()).find(|w| w.contains("retention")).map(str::to_string)
    });
    assert!(warning.contains(&format!("{}-0", tables.input)), "{warning}");
}
