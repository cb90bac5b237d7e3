//! The contract of the command line: exit codes, JSON, names, the life of a query.

use crate::table::Tables;
use highwater_testkit::highwater::DEADLINE;
use highwater_testkit::{Highwater, wait_until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsString;

fn code(cluster: &Highwater, args: &[&str]) -> (i32, String) {
    let output = cluster.run(args);
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_life_of_a_query() {
    let tables = Tables::new("life", 2);
    tables.produce(0, 0..100);
    let cluster = Highwater::start(1);
    let path = cluster.file("life.sql", &tables.copy("", ""));
    cluster.ok(&["validate", &path]);
    assert!(cluster.ok(&["explain", &path]).contains("stage"), "explain draws stages");
    cluster.ok(&["submit", &path]);
    let (exit, stderr) = code(&cluster, &["submit", &path]);
    assert_eq!(exit, 1, "{stderr}");
    assert!(stderr.contains("life") && stderr.contains("--replace"), "{stderr}");
    cluster.wait_caught_up("life");

    let status = cluster.status("life");
    let keys: Vec<&str> = status.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["name", "state", "runId", "batchId", "message", "warnings", "executors"]);
    assert_eq!(status["state"], "running");
    let executor = &status["executors"][0];
    let keys: Vec<&str> = executor.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["id", "address", "slots", "partitions", "shards", "inputRows"]);
    assert_eq!(executor["partitions"][&tables.input], serde_json::json!([0, 1]));
    assert_eq!(cluster.json(&["ls"]).as_array().unwrap().len(), 1);

    let lag = cluster.json(&["lag", "life"]);
    assert_eq!(lag["totalLag"], 0);
    assert_eq!(lag["partitions"][0]["committedOffset"], 100);
    assert_eq!(lag["partitions"][0]["latestOffset"], 100);
    assert_eq!(lag["partitions"][0]["earliestOffset"], 0);

    let progress: Value = cluster.progress("life").pop().unwrap();
    for key in [
        "id",
        "runId",
        "name",
        "timestamp",
        "batchId",
        "batchDuration",
        "numInputRows",
        "durationMs",
        "sources",
        "sink",
    ] {
        assert!(!progress[key].is_null(), "{key} is missing: {progress}");
    }
    assert_eq!(progress["sources"][0]["endOffset"][&tables.input]["0"], 100);

    cluster.ok(&["stop", "life"]);
    assert_eq!(cluster.wait_state("life", &["stopped"])["state"], "stopped");
    tables.produce(0, 100..200);
    let (exit, _) = code(&cluster, &["drop", "nosuch"]);
    assert_eq!(exit, 1);
    cluster.ok(&["start", "life"]);
    cluster.wait_caught_up("life");
    assert_eq!(tables.ids(), (0..200).collect::<Vec<_>>());
    cluster.ok(&["stop", "life"]);
    cluster.wait_state("life", &["stopped"]);
    cluster.ok(&["drop", "life"]);
    assert_eq!(cluster.json(&["ls"]).as_array().unwrap().len(), 0);
}

#[test]
fn stopped_stays_stopped_across_a_restart() {
    let tables = Tables::new("stays-stopped", 1);
    let mut cluster = Highwater::start(1);
    cluster.submit("q", &tables.copy("", ""));
    cluster.wait_state("q", &["running"]);
    cluster.ok(&["stop", "q"]);
    cluster.wait_state("q", &["stopped"]);
    cluster.kill_driver();
    cluster.start_driver(&[]);
    assert_eq!(cluster.wait_state("q", &["stopped", "running", "starting", "waiting"])["state"], "stopped");
}

#[test]
fn replace_starts_from_the_beginning() {
    let tables = Tables::new("replace", 1);
    tables.produce(0, 0..10);
    let cluster = Highwater::start(1);
    let path = cluster.file("q.sql", &tables.copy("", ""));
    cluster.ok(&["submit", &path]);
    cluster.wait_caught_up("q");
    cluster.ok(&["submit", &path, "--replace"]);
    cluster.wait("the rows again", || (tables.ids().len() == 20).then_some(()));
}

#[test]
fn output_of_a_dropped_query_is_not_written_twice_silently() {
    let tables = Tables::new("dropped", 1);
    tables.produce(0, 0..10);
    let cluster = Highwater::start(1);
    let path = cluster.file("q.sql", &tables.copy("", ""));
    cluster.ok(&["submit", &path]);
    cluster.wait_caught_up("q");
    cluster.ok(&["drop", "q", "--force"]);
    let (exit, stderr) = code(&cluster, &["submit", &path]);
    assert_eq!(exit, 1, "{stderr}");
    assert!(stderr.contains("--new-output"), "{stderr}");
    assert_eq!(tables.ids().len(), 10);
    cluster.ok(&["submit", &path, "--new-output"]);
    cluster.wait("the rows again", || (tables.ids().len() == 20).then_some(()));
}

#[test]
fn warnings_are_below_the_plan_and_each_appears_once() {
    let cluster = Highwater::start(0);
    let with = "WITH ('connector'='kafka', 'topic'='t', 'bootstrap.servers'='localhost:1', 'format'='json')";
    let path = cluster.file(
        "warned.sql",
        &format!(
            "CREATE TABLE t (k STRING, x BIGINT) {with}; CREATE TABLE o (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) {with};
             CREATE TABLE p (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) {with};
             INSERT INTO o SELECT k, count(*) FROM t GROUP BY k; INSERT INTO p SELECT k, sum(x) FROM t GROUP BY k;"
        ),
    );
    // Both streams in one file, as on a terminal.
    let shown = std::fs::File::create(cluster.path().join("shown")).unwrap();
    let ended = cluster.command(&["explain", &path]).stdout(shown.try_clone().unwrap()).stderr(shown).status().unwrap();
    assert!(ended.success());
    let shown = std::fs::read_to_string(cluster.path().join("shown")).unwrap();
    let (plan, warnings) = shown.split_once("\n\nwarning: ").unwrap_or_else(|| panic!("{shown}"));
    assert!(plan.ends_with("inserts and retractions") && !plan.contains("warning:"), "{shown}");
    assert_eq!(warnings.matches("nothing bounds the state of operator").count(), 2, "{shown}");
    for command in ["explain", "validate"] {
        let output = cluster.run(&[command, &path]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: std::collections::BTreeSet<&str> = stderr.lines().collect();
        assert_eq!((lines.len(), stderr.lines().count()), (2, 2), "{command}: {stderr}");
        // In JSON they are in the document and nowhere else.
        let json = cluster.run(&[command, &path, "--json"]);
        let document: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(document["warnings"].as_array().unwrap().len(), 2, "{document}");
        assert_eq!(String::from_utf8_lossy(&json.stderr), "");
    }
}

#[test]
fn invalid_sql_exits_2_with_line_and_column_and_stores_nothing() {
    let tables = Tables::new("invalid", 1);
    let cluster = Highwater::start(0);
    let wrong_column = format!("{}\n{}\nINSERT INTO o SELECT idd FROM t;", tables.source(""), tables.sink("id BIGINT"));
    for (sql, expected) in [
        (wrong_column.as_str(), "id"),
        ("SELEC 1;", "SELEC"),
        ("SET triger = 'asap';", "trigger"),
        ("CREATE TABLE t (a BIGINT) WITH ('conector'='kafka');", "connector"),
        ("", "INSERT"),
    ] {
        let path = cluster.file("bad.sql", sql);
        for command in ["validate", "submit"] {
            let (exit, stderr) = code(&cluster, &[command, &path]);
            assert_eq!(exit, 2, "{command} {sql:?}: {stderr}");
            assert!(stderr.contains(expected), "{command} {sql:?}: {stderr}");
        }
    }
    let path = cluster.file("bad.sql", &wrong_column);
    let (_, stderr) = code(&cluster, &["validate", &path]);
    assert!(stderr.contains("line") || stderr.contains(":7:"), "no place: {stderr}");
    assert_eq!(cluster.json(&["ls"]).as_array().unwrap().len(), 0);
}

#[test]
fn a_missing_source_topic_is_an_error_and_a_missing_sink_topic_is_created() {
    let tables = Tables::new("missing", 1);
    let cluster = Highwater::start(1);
    let sql = tables.copy("", "").replace("missing-in", "missing-nowhere");
    let path = cluster.file("q.sql", &sql);
    let (exit, stderr) = code(&cluster, &["submit", &path]);
    assert_eq!(exit, 1, "{stderr}");
    assert!(stderr.contains("missing-nowhere"), "{stderr}");
    tables.produce(0, 0..3);
    let path = cluster.file("q.sql", &tables.copy("", "").replace("missing-out", "missing-made"));
    cluster.ok(&["submit", &path]);
    cluster.wait_caught_up("q");
    assert!(tables.kafka.topics().contains("missing-made"));
}

#[test]
fn an_unreachable_driver_exits_3() {
    let mut cluster = Highwater::start(0);
    cluster.kill_driver();
    let (exit, stderr) = code(&cluster, &["ls"]);
    assert_eq!(exit, 3, "{stderr}");
    assert!(stderr.contains(&cluster.url), "{stderr}");
}

#[test]
fn run_needs_no_cluster_and_resumes_from_its_folder() {
    let tables = Tables::new("run", 2);
    tables.produce(0, 0..50);
    let cluster = Highwater::start(0);
    let path = cluster.file("q.sql", &tables.copy("SET trigger = 'available_now';", ""));
    let data = cluster.path().join("run-data");
    let run = || cluster.ok(&["run", &path, "--data-dir", data.to_str().unwrap()]);
    run();
    assert_eq!(tables.ids(), (0..50).collect::<Vec<_>>());
    tables.produce(1, 50..80);
    run();
    assert_eq!(tables.ids(), (0..80).collect::<Vec<_>>());
}

#[test]
fn checkpoints_are_listed_shown_exported_and_verified() {
    let tables = Tables::new("checkpoints", 1);
    tables.produce(0, 0..10);
    let mut cluster = Highwater::start(1);
    cluster.submit("q", &tables.copy("", ""));
    cluster.wait_caught_up("q");
    cluster.ok(&["stop", "q"]);
    cluster.wait_state("q", &["stopped"]);
    cluster.kill_driver();
    let data = cluster.data_dir();
    let data = data.to_str().unwrap();
    let listed = cluster.json(&["checkpoint", "ls", "q", "--data-dir", data]);
    assert!(!listed.as_array().unwrap().is_empty(), "{listed}");
    cluster.ok(&["checkpoint", "verify", "q", "--data-dir", data]);
    let out = cluster.path().join("export");
    cluster.ok(&["checkpoint", "export", "q", "--data-dir", data, "--to", out.to_str().unwrap()]);
    let offsets: Vec<_> = std::fs::read_dir(out.join("offsets")).unwrap().collect();
    assert!(!offsets.is_empty());
    let newest = offsets.into_iter().map(|entry| entry.unwrap().path()).max().unwrap();
    let text = std::fs::read_to_string(newest).unwrap();
    let exported: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(exported[&tables.input]["0"], 10, "{text}");
}

#[test]
fn an_executors_scratch_is_in_its_data_dir_and_is_removed_with_it() {
    let mut cluster = Highwater::start(0);
    let parent = cluster.path().join("scratch");
    let args = ["--data-dir", parent.to_str().unwrap()];
    let folders = || -> BTreeSet<OsString> {
        std::fs::read_dir(&parent)
            .map_or_else(|_| BTreeSet::new(), |all| all.map(|one| one.unwrap().file_name()).collect())
    };
    let number = cluster.add_executor_with(&[], &args);
    wait_until("there is a scratch folder", DEADLINE, || folders().len() == 1);
    cluster.executor(number).terminate();
    assert!(cluster.executor(number).wait(DEADLINE).success());
    assert!(folders().is_empty(), "the folder is removed by a process that ends in order");

    let number = cluster.add_executor_with(&[], &args);
    wait_until("there is a scratch folder", DEADLINE, || folders().len() == 1);
    cluster.kill_executor(number);
    let dead = folders();
    cluster.add_executor_with(&[], &args);
    wait_until("only live executors have a folder", DEADLINE, || folders().len() == 1 && folders() != dead);

    let file = cluster.file("not-a-folder", "");
    let (exit, stderr) = code(&cluster, &["executor", "--data-dir", &file]);
    assert_eq!(exit, 1, "{stderr}");
    assert!(stderr.contains("not-a-folder") && stderr.contains("--data-dir"), "{stderr}");
}
