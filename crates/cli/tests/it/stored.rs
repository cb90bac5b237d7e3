//! Stored queries that cannot run, and queries that replace others.

use crate::table::Tables;
use highwater_checkpoint::CheckpointStore;
use highwater_testkit::Highwater;
use highwater_testkit::highwater::DEADLINE;

#[test]
fn a_stored_query_that_no_longer_compiles_is_listed_as_failed_and_can_be_replaced_or_dropped() {
    let tables = Tables::new("uncompiled", 1);
    tables.produce(0, 0..10);
    let mut cluster = Highwater::start(1);
    for name in ["replaced", "dropped"] {
        cluster.submit(name, &tables.copy("", ""));
        cluster.wait_caught_up(name);
    }
    cluster.driver().terminate();
    cluster.driver().wait(DEADLINE);
    {
        // As if a later version no longer had a function.
        let store = CheckpointStore::open(&cluster.data_dir()).unwrap();
        let epoch = store.claim_epoch().unwrap();
        for mut spec in store.queries().unwrap() {
            spec.sql = spec.sql.replace("SELECT id", "SELECT forgotten(id)");
            store.put_query(epoch, &spec).unwrap();
        }
    }
    cluster.start_driver(&[]);
    let listed = cluster.json(&["ls"]);
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    for query in listed.as_array().unwrap() {
        let message = query["message"].as_str().unwrap();
        assert_eq!(query["state"], "failed", "{query}");
        assert!(message.contains("forgotten") && message.contains("--replace"), "{message}");
        assert_eq!(query["batchId"], 0, "its checkpoint is there: {query}");
    }
    let started = cluster.run(&["start", "replaced"]);
    assert_eq!(started.status.code(), Some(1));
    let why = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(why.contains("forgotten") && why.contains("no longer compiles"), "{why}");
    assert_eq!(cluster.run(&["lag", "replaced"]).status.code(), Some(1));
    cluster.ok(&["stop", "replaced"]);

    let file = cluster.file("replaced.sql", &tables.copy("", ""));
    cluster.ok(&["submit", &file, "--replace", "--new-output"]);
    cluster.wait_state("replaced", &["running"]);
    cluster.ok(&["drop", "dropped"]);
    assert_eq!(cluster.json(&["ls"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_driver_that_dies_while_replacing_a_query_has_the_old_or_the_new_one() {
    let tables = Tables::new("replacing", 1);
    tables.produce(0, 0..10);
    let mut cluster = Highwater::stopped();
    let log = cluster.path().join("crash.log");
    let env = [
        ("HIGHWATER_CRASH_POINT", "driver_before_replace".to_string()),
        ("HIGHWATER_CRASH_LOG", log.to_str().unwrap().to_string()),
    ];
    cluster.start_driver(&env);
    cluster.add_executor(&[]);
    cluster.submit("q", &tables.copy("", ""));
    cluster.wait_caught_up("q");
    let file = cluster.file("q.sql", &tables.copy("SET shards = 8;", ""));
    let mut replacing = cluster.command(&["submit", &file, "--replace"]).spawn().unwrap();
    cluster.driver().wait(DEADLINE);
    replacing.kill().unwrap();
    replacing.wait().unwrap();
    cluster.start_driver(&env);

    tables.produce(0, 10..20);
    cluster.wait_caught_up("q");
    let found = cluster.status("q");
    assert_eq!(found["state"], "running", "it ran, and still runs: {found}");
    assert_eq!(tables.ids(), (0..20).collect::<Vec<_>>(), "from where it was");
    cluster.ok(&["submit", &file, "--replace"]);
    cluster.wait_caught_up("q");
    assert_eq!(cluster.json(&["ls"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_plan_that_does_not_match_the_stored_state_is_refused() {
    let tables = Tables::new("replanned", 1);
    tables.produce(0, 0..10);
    let mut cluster = Highwater::start(1);
    let script = |sum: &str| {
        let sink = tables.sink("id BIGINT, n BIGINT, PRIMARY KEY (id) NOT ENFORCED");
        format!("{} {sink} INSERT INTO o SELECT id % 3, {sum}(id) FROM t GROUP BY id % 3;", tables.source(""))
    };
    cluster.submit("q", &script("sum"));
    cluster.wait_caught_up("q");
    cluster.driver().terminate();
    cluster.driver().wait(DEADLINE);
    let (sql, plan) = {
        // As if a later version planned the same script differently.
        let store = CheckpointStore::open(&cluster.data_dir()).unwrap();
        let epoch = store.claim_epoch().unwrap();
        let mut spec = store.queries().unwrap().remove(0);
        let before = (spec.sql.clone(), spec.plan.clone());
        spec.sql = spec.sql.replace("sum(id)", "count(id)");
        store.put_query(epoch, &spec).unwrap();
        before
    };
    cluster.start_driver(&[]);
    let refused = cluster.wait_state("q", &["failed"]);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("operator 0 (aggregate) has other keys, schemas or expressions"), "{message}");
    assert!(message.contains("--replace"), "{message}");
    assert_eq!(cluster.run(&["start", "q"]).status.code(), Some(1), "nor is it started by hand");
    cluster.driver().terminate();
    cluster.driver().wait(DEADLINE);
    {
        // The right plan again, in a spec from before plans were recorded.
        let store = CheckpointStore::open(&cluster.data_dir()).unwrap();
        let epoch = store.claim_epoch().unwrap();
        let mut spec = store.queries().unwrap().remove(0);
        (spec.sql, spec.plan) = (sql, None);
        store.put_query(epoch, &spec).unwrap();
    }
    cluster.start_driver(&[]);
    cluster.ok(&["start", "q"]);
    tables.produce(0, 10..20);
    cluster.wait_caught_up("q");
    cluster.driver().terminate();
    cluster.driver().wait(DEADLINE);
    let store = CheckpointStore::open(&cluster.data_dir()).unwrap();
    assert_eq!(store.queries().unwrap()[0].plan, plan, "it is recorded at the next start");
}
