//! `on_data_loss` on real brokers: every policy with every trigger, stopped and running, one and several partitions,
//! and the position before, inside and after the log. The queries of one policy run in parallel.

use crate::table::Tables;
use highwater_testkit::{Highwater, Message};
use serde_json::{Value, json};

const TRIGGERS: [&str; 4] = ["asap", "every 100 milliseconds", "available_now", "once"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// Read up to 10 (running: nothing); of 20 records, 15..20 are left.
    Before,
    /// Read up to 10 (running: nothing); of 20 records, 5..20 (running: all) are left.
    Inside,
    /// Read up to 10 (running: nothing): the topic is recreated with 4 records, 100..104.
    After,
}

struct Cell {
    name: String,
    trigger: &'static str,
    running: bool,
    place: Place,
    tables: Tables,
}

impl Cell {
    fn bounded(&self) -> bool {
        matches!(self.trigger, "available_now" | "once")
    }

    /// The ids in the sink at the end, and the number of offsets lost; `None` if the query stops.
    fn expected(&self, policy: &str) -> Option<(Vec<i64>, u64)> {
        let before = if self.running { 0 } else { 10 };
        let and = |more: std::ops::Range<i64>| (0..before).chain(more).collect();
        match (self.place, policy) {
            (Place::Inside, _) => Some(((0..20).collect(), 0)),
            (_, "fail") => None,
            (Place::Before, "earliest") => Some((and(15..20), 15 - before as u64)),
            (Place::Before, _) => Some((and(0..0), 20 - before as u64)),
            // Records of the old topic that were not read are lost as well, as far as the query knew of them.
            (Place::After, "earliest") => Some((and(100..104), if self.running { 20 } else { 0 })),
            (Place::After, _) => Some((and(0..0), 4)),
        }
    }

    fn change_log(&self) {
        let kafka = self.tables.kafka;
        match self.place {
            Place::Before => kafka.delete_records(&self.tables.input, 0, 15),
            Place::Inside if self.running => {}
            Place::Inside => kafka.delete_records(&self.tables.input, 0, 5),
            Place::After => {
                self.tables.recreate();
                self.tables.produce(0, 100..104);
            }
        }
    }
}

fn cells(policy: &str, running: bool) -> Vec<Cell> {
    let places = [Place::Before, Place::Inside, Place::After];
    let all = TRIGGERS.iter().flat_map(|trigger| places.map(|place| (*trigger, place)));
    // A running query notices while the new topic is still empty: a bounded query ends there, and `latest` begins
    // there.
    let ambiguous = |trigger: &str, place| {
        let bounded = matches!(trigger, "available_now" | "once");
        running && place == Place::After && (policy == "latest" || policy == "earliest" && bounded)
    };
    all.filter(|(trigger, place)| !ambiguous(trigger, *place))
        .enumerate()
        .map(|(number, (trigger, place))| {
            let name = format!("loss-{policy}-{}-{number}", if running { "running" } else { "stopped" });
            // Each place and each trigger with one partition and with several.
            let tables = Tables::new(&name, if number % 2 == 0 { 1 } else { 3 });
            Cell { name, trigger, running, place, tables }
        })
        .collect()
}

/// The query of this name among all.
fn one<'a>(all: &'a Value, name: &str) -> &'a Value {
    all.as_array().unwrap().iter().find(|status| status["name"] == *name).unwrap()
}

/// Waits until `done` holds for every cell.
fn wait_for_all(cluster: &Highwater, cells: &[Cell], what: &str, done: impl Fn(&Cell, &Value) -> bool) {
    cluster.wait(what, || {
        let all = cluster.json(&["ls"]);
        cells.iter().all(|cell| done(cell, one(&all, &cell.name))).then_some(())
    });
}

fn table_of(policy: &str, running: bool) {
    let cells = cells(policy, running);
    let mut cluster = Highwater::start(usize::from(!running));
    for cell in &cells {
        cell.tables.produce(0, 0..if running { 20 } else { 10 });
        let settings = format!("SET trigger = '{}'; SET on_data_loss = '{policy}';", cell.trigger);
        cluster.submit(&cell.name, &cell.tables.copy(&settings, ""));
    }
    if !running {
        wait_for_all(&cluster, &cells, "ten records each", |cell, status| match cell.bounded() {
            true => status["state"] == "finished",
            false => status["executors"][0]["inputRows"] == 10,
        });
        for cell in cells.iter().filter(|cell| !cell.bounded()) {
            cluster.ok(&["stop", &cell.name]);
        }
        cells.iter().for_each(|cell| {
            if cell.place != Place::After {
                cell.tables.produce(0, 10..20)
            }
        });
    }
    cells.iter().for_each(Cell::change_log);
    if running {
        cluster.add_executor(&[]);
    } else {
        cells.iter().for_each(|cell| drop(cluster.ok(&["start", &cell.name])));
    }
    wait_for_all(&cluster, &cells, "all to end or catch up", |cell, status| match cell.expected(policy) {
        None => status["state"] == "failed",
        Some(_) if cell.bounded() => status["state"] == "finished",
        Some((ids, _)) => cell.tables.ids().len() >= ids.len() && !status["batchId"].is_null(),
    });
    cells.iter().for_each(|cell| check(&cluster, cell, policy));
}

fn check(cluster: &Highwater, cell: &Cell, policy: &str) {
    let name = format!("{} ({} {:?} on {})", cell.name, cell.trigger, cell.place, cell.tables.input);
    let Some((ids, lost)) = cell.expected(policy) else {
        let status = cluster.status(&cell.name);
        let expected = if cell.place == Place::After { "recreated" } else { "earliest available is 15" };
        assert!(status["message"].as_str().unwrap().contains(expected), "{name}: {status}");
        return;
    };
    if !cell.bounded() {
        // It still runs: the next records are read, and nothing else.
        cell.tables.produce(0, 999..1_000);
        cluster.wait(&name, || (cell.tables.ids().last() == Some(&999)).then_some(()));
    }
    let read: Vec<i64> = cell.tables.ids().into_iter().filter(|id| *id != 999).collect();
    assert_eq!(read, ids, "{name}");
    let last = cluster.progress(&cell.name).pop().unwrap();
    assert_eq!(last["numLostOffsets"].as_u64(), Some(lost), "{name}: {last}");
    let longest = cluster.progress(&cell.name).iter().map(|batch| batch["batchDuration"].as_i64().unwrap()).max();
    assert!(longest < Some(600_000), "{name}: a batch of {longest:?} ms");
}

#[test]
fn fail_stopped() {
    table_of("fail", false);
}

#[test]
fn fail_running() {
    table_of("fail", true);
}

#[test]
fn earliest_stopped() {
    table_of("earliest", false);
}

#[test]
fn earliest_running() {
    table_of("earliest", true);
}

#[test]
fn latest_stopped() {
    table_of("latest", false);
}

#[test]
fn latest_running() {
    table_of("latest", true);
}

/// Retention overtakes a finished query; `start --wait` must still end.
#[test]
fn a_finished_query_overtaken_by_retention_ends_again() {
    let tables = Tables::new("lost-finished", 1);
    tables.produce(0, 0..1_000);
    let cluster = Highwater::start(1);
    cluster.submit("q", &tables.copy("SET trigger = 'available_now'; SET on_data_loss = 'earliest';", ""));
    cluster.wait_state("q", &["finished"]);
    tables.produce(0, 1_000..6_000);
    tables.kafka.delete_records(&tables.input, 0, 5_000);
    cluster.ok(&["start", "q", "--wait"]);
    assert_eq!(tables.ids(), (0..1_000).chain(5_000..6_000).collect::<Vec<_>>());
    let last = cluster.progress("q").pop().unwrap();
    assert_eq!(last["numLostOffsets"].as_u64(), Some(4_000), "{last}");
}

#[test]
fn partitions_added_while_a_query_was_stopped_are_read_from_their_first_record() {
    let (kept, lost) = (Tables::new("added-kept", 1), Tables::new("added-lost", 1));
    let cluster = Highwater::start(1);
    for (name, tables) in [("kept", &kept), ("lost", &lost)] {
        tables.produce(0, 0..10);
        cluster.submit(name, &tables.copy("", ", 'starting_offsets'='latest'"));
        cluster.wait_state(name, &["running"]);
        cluster.ok(&["stop", name]);
        tables.kafka.add_partitions(&tables.input, 3);
        tables.produce(1, 10..20);
        tables.produce(2, 20..30);
    }
    kept.kafka.delete_records(&lost.input, 2, 5);
    cluster.ok(&["start", "kept"]);
    cluster.ok(&["start", "lost"]);
    cluster.wait("all rows", || (kept.ids() == (10..30).collect::<Vec<_>>()).then_some(()));
    let status = cluster.wait_state("lost", &["failed"]);
    assert!(status["message"].as_str().unwrap().contains("offset 0 out of range for added-lost-in-2"), "{status}");
}

/// Two tables read the topic, and a third reads another topic, which stays. One query keeps running, the other is
/// stopped.
#[test]
fn a_recreated_topic_is_never_taken_for_the_old_one_whatever_its_length() {
    let cluster = Highwater::start(2);
    for (round, records) in [0, 3, 10, 40, 200].into_iter().enumerate() {
        let (tables, other) = (Tables::new(&format!("again-{round}"), 2), Tables::new(&format!("other-{round}"), 1));
        tables.produce(0, 0..10);
        tables.produce(1, 10..20);
        let names = [format!("runs-{round}"), format!("stops-{round}")];
        for (name, sink) in names.iter().zip([&tables, &other]) {
            let second = tables.source("").replace("CREATE TABLE t ", "CREATE TABLE u ");
            let third = other.source("").replace("CREATE TABLE t ", "CREATE TABLE v ");
            let select = "SELECT id FROM t UNION ALL SELECT id FROM u UNION ALL SELECT id FROM v";
            let sink = sink.sink("id BIGINT");
            cluster.submit(name, &format!("{} {second} {third} {sink} INSERT INTO o {select};", tables.source("")));
        }
        let read = || tables.ids().len() == 40 && other.ids().len() == 40;
        cluster.wait("the old rows", || read().then_some(()));
        cluster.ok(&["stop", &names[1]]);
        tables.recreate();
        if records > 0 {
            let new = (0..records).map(|id| Message::json(&json!({"id": 1_000 + id})).partition(id % 2));
            tables.kafka.produce(&tables.input, new);
        }
        cluster.ok(&["start", &names[1]]);
        for name in names {
            let status = cluster.wait_state(&name, &["failed"]);
            let message = status["message"].as_str().unwrap();
            assert!(message.contains("recreated") && message.contains(&tables.input), "{message}");
        }
        assert!(read(), "records of the new topic were read");
    }
}
