//! What a submitted script may reach, and that secrets are never shown.

use crate::table::Tables;
use highwater_testkit::secure::{PASSWORD, SecureKafka, USER};
use highwater_testkit::{Highwater, Message};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let entries: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let below = entries.iter().filter(|path| path.is_dir()).flat_map(|path| files_under(path));
    let below: Vec<PathBuf> = below.collect();
    entries.into_iter().chain(below).collect()
}

fn refusal(cluster: &Highwater, name: &str, sql: &str) -> String {
    let file = cluster.file(&format!("{name}.sql"), sql);
    let output = cluster.run(&["submit", &file]);
    assert_eq!(output.status.code(), Some(1), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A source that sends a password, which is this reference, although its broker does not require a login.
fn script(tables: &Tables, password: &str) -> String {
    tables.copy("SET trigger = 'once';", &format!(", 'kafka.sasl.password' = '{password}'"))
}

#[test]
fn scripts_reach_only_what_driver_and_executor_allow() {
    let tables = Tables::new("allowed", 1);
    tables.produce(0, 0..10);
    let dir = tempfile::tempdir().unwrap();
    let (inside, link) = (dir.path().join("password"), dir.path().join("link"));
    std::fs::write(&inside, "x").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
    let folder = dir.path().to_str().unwrap();
    std::fs::write(dir.path().join("side.json"), "{\"id\":3,\"label\":\"three\"}\n").unwrap();
    let folder_name = folder.to_string();
    let environment = [("ALLOWED", "x".to_string()), ("OTHER", "y".to_string()), ("FILES", folder_name)];
    let mut cluster = Highwater::stopped();
    let flags = ["--allow-env", "ALLOWED,FILES", "--allow-path", folder];
    cluster.start_driver_with(&environment, &flags);
    let strict = cluster.add_executor_with(&environment, &["--slots", "1", "--allow-env", "", "--allow-path", folder]);
    cluster.ok(&["ls"]);

    let error = refusal(&cluster, "env", &script(&tables, "${env:OTHER}"));
    assert!(error.contains("OTHER") && error.contains("--allow-env"), "{error}");
    let error = refusal(&cluster, "file", &script(&tables, "${file:/etc/hostname}"));
    assert!(error.contains("/etc/hostname") && error.contains("--allow-path"), "{error}");
    for path in [format!("{folder}/../../etc/hostname"), link.display().to_string()] {
        let error = refusal(&cluster, "escape", &script(&tables, &format!("${{file:{path}}}")));
        assert!(error.contains("--allow-path"), "{error}");
    }
    let looks_up = |path: &str| {
        format!(
            "SET trigger = 'once'; {} {}
             CREATE TABLE f (id BIGINT, label STRING) WITH ('connector' = 'filesystem', 'format' = 'json', 'path' = '{path}');
             INSERT INTO o SELECT t.id FROM t JOIN f ON f.id = t.id;",
            tables.source(""),
            tables.sink("id BIGINT")
        )
    };
    let error = refusal(&cluster, "table", &looks_up("/etc/hostname"));
    assert!(error.contains("/etc/hostname") && error.contains("--allow-path"), "{error}");

    // The driver allows it, the executor does not.
    cluster.submit("q", &script(&tables, "${env:ALLOWED}"));
    let status = cluster.wait_state("q", &["failed"]);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("this executor") && message.contains("--allow-env ALLOWED"), "{status}");
    cluster.kill_executor(strict);
    cluster.add_executor_with(&environment, &["--slots", "1", "--allow-env", "ALLOWED,FILES", "--allow-path", folder]);
    cluster.ok(&["start", "q", "--wait"]);
    assert_eq!(tables.ids(), (0..10).collect::<Vec<_>>());
    cluster.submit("looks-up", &looks_up("${env:FILES}/side.json"));
    cluster.wait_state("looks-up", &["finished"]);
    assert_eq!(tables.ids().iter().filter(|id| **id == 3).count(), 2, "the file has one of the ids");
    assert_eq!(tables.ids().len(), 11);
    cluster.submit("files", &script(&tables, &format!("${{file:{}}}", inside.display())));
    cluster.wait_state("files", &["finished"]);
}

#[test]
fn a_stored_query_is_checked_again_by_a_stricter_driver() {
    let tables = Tables::new("stricter", 1);
    tables.produce(0, 0..10);
    let environment = [("ALLOWED", "x".to_string())];
    let mut cluster = Highwater::stopped();
    cluster.start_driver(&environment);
    cluster.ok(&["ls"]);
    cluster.submit("q", &script(&tables, "${env:ALLOWED}"));
    cluster.kill_driver();
    cluster.start_driver_with(&environment, &["--allow-env", "OTHER"]);
    let status = cluster.wait_state("q", &["failed"]);
    assert!(status["message"].as_str().unwrap().contains("--allow-env ALLOWED"), "{status}");
}

#[test]
fn secrets_are_never_shown() {
    let kafka = SecureKafka::shared();
    kafka.cluster.create_topic("secrets-in", 1);
    kafka.cluster.produce("secrets-in", (0..10).map(|id| Message::json(&json!({"id": id}))));
    let literal = "literal-s3cret-of-the-test";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let sql = |servers: &str, password: &str| {
        format!(
            "CREATE TABLE t (id BIGINT) WITH ('connector' = 'kafka', 'topic' = 'secrets-in', 'format' = 'json',
               'bootstrap.servers' = '{servers}', 'kafka.security.protocol' = 'SASL_PLAINTEXT',
               'kafka.sasl.mechanism' = 'PLAIN', 'kafka.sasl.username' = '{USER}',
               'kafka.sasl.password' = '{password}', 'kafka.ssl.key.password' = '{literal}');
             CREATE TABLE o (id BIGINT) WITH ('connector' = 'console');
             INSERT INTO o SELECT id FROM t;"
        )
    };
    let environment = [("TEST_PASSWORD", PASSWORD.to_string()), ("RUST_LOG", "debug".to_string())];
    let mut cluster = Highwater::stopped();
    cluster.start_driver(&environment);
    cluster.add_executor(&environment);
    cluster.ok(&["ls"]);
    let mut shown = String::new();
    let mut run = |args: &[&str]| {
        let output = cluster.run(args);
        shown.push_str(&String::from_utf8_lossy(&output.stdout));
        shown.push_str(&String::from_utf8_lossy(&output.stderr));
    };
    let right = cluster.file("right.sql", &sql(&kafka.servers("OPEN"), "${env:TEST_PASSWORD}"));
    let from_file = format!("${{file:{}}}", file.display());
    let wrong = cluster.file("wrong.sql", &sql(&kafka.servers("TLS"), &from_file));
    let garbled = cluster.file("garbled.sql", &sql(&kafka.servers("OPEN"), &format!("{literal}${{env:")));
    for path in [&right, &wrong, &garbled] {
        run(&["validate", path]);
        run(&["explain", path]);
        run(&["explain", path, "--json"]);
        run(&["submit", path]);
    }
    cluster.wait_caught_up("right");
    for args in [["status", "right"], ["progress", "right"], ["lag", "right"], ["ls", "--json"], ["status", "--json"]] {
        run(&args);
    }
    run(&["status", "right", "--json"]);
    assert!(
        shown.contains("'kafka.ssl.key.password' stands in the script"),
        "there is a warning about a literal secret: {shown}"
    );
    assert!(shown.contains("sink 'o' is outside the exactly-once promise"), "submit warns about the console: {shown}");
    cluster.ok(&["stop", "right"]);
    for name in ["driver-0.stderr", "driver-0.stdout", "executor-0.stderr", "executor-0.stdout"] {
        shown.push_str(&std::fs::read_to_string(cluster.path().join(name)).unwrap());
    }
    for secret in [PASSWORD, literal] {
        let place = shown.lines().find(|line| line.contains(secret));
        assert_eq!(place, None, "a secret is shown");
    }
    let stored = files_under(&cluster.data_dir());
    for path in &stored {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} is open to others: {mode:o}", path.display());
        if path.is_file() {
            let content = std::fs::read(path).unwrap();
            let found = content.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes());
            assert!(!found, "{} holds what a reference stands for", path.display());
        }
    }
    assert!(!stored.is_empty());
    let mode = cluster.data_dir().metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
}
