//! Temporal joins: each row with the version of its time, appended once final, or emitted at once with corrections.

use super::records::{Record, batch_of, records};
use super::{Commit, PARTITIONS_OF_BOTH, Reading, WITH};
use crate::fixed::step;
use crate::harness::{Step, Take, cases};
use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Clone, Debug)]
struct Query {
    /// True if the left side is a keyed table, whose rows are retracted.
    keyed_rows: bool,
    /// True if the right side is a keyed table; else it is a view of the last row of each key.
    keyed_versions: bool,
    left: bool,
    /// True if there is a condition besides the key.
    condition: bool,
    /// True if the view drops some versions.
    filtered: bool,
    /// True if the sink is keyed, so that rows are emitted at once.
    at_once: bool,
}

#[derive(Clone, Debug)]
struct Case {
    query: Query,
    records: Vec<Record>,
    steps: Vec<Step>,
}

fn case() -> impl Strategy<Value = Case> {
    let query = any::<[bool; 6]>().prop_map(|[keyed_rows, keyed_versions, left, condition, filtered, at_once]| Query {
        keyed_rows,
        keyed_versions,
        left,
        condition,
        filtered,
        at_once,
    });
    (query, records(), prop::collection::vec(step(PARTITIONS_OF_BOTH), 1..9)).prop_map(|(query, mut records, steps)| {
        let keyed = [query.keyed_rows, query.keyed_versions];
        records.iter_mut().filter(|record| !keyed[record.table]).for_each(|record| record.deleted = false);
        Case { query, records, steps }
    })
}

impl Query {
    fn join_word(&self) -> &str {
        if self.left { "LEFT JOIN" } else { "JOIN" }
    }

    fn more(&self) -> &str {
        if self.condition { " AND v.x > l.x" } else { "" }
    }

    /// Returns a query of the join's rows, or of distinct ones and their counts.
    fn shaped(&self, from: &str) -> String {
        let columns = ["l.id", "l.b", "l.x", "l.ts", "v.b", "v.x", "v.ts"];
        if !self.at_once {
            return format!("SELECT {} FROM {from}", columns.join(", "));
        }
        let texts = columns.map(|column| format!("coalesce(CAST({column} AS VARCHAR), '-')")).join(", ");
        format!("SELECT {texts}, count(*) AS n FROM {from} GROUP BY {texts}")
    }

    fn script(&self) -> String {
        let table = |name: &str, keyed: bool| {
            let key = if keyed { "PRIMARY KEY (id) NOT ENFORCED" } else { "n BIGINT" };
            format!(
                "CREATE TABLE {name} (id BIGINT, b BIGINT, x BIGINT, ts TIMESTAMP(3), {key}, \
                 WATERMARK FOR ts AS ts - INTERVAL '3' SECOND) {WITH};\n"
            )
        };
        let last = "(SELECT id, b, x, ts, ROW_NUMBER() OVER (PARTITION BY id ORDER BY ts DESC, n DESC) AS i FROM r) q \
                    WHERE i = 1";
        let view = match (self.keyed_versions, self.filtered) {
            (true, false) => "r".to_string(),
            (true, true) => "r WHERE x > 0".to_string(),
            (false, false) => last.to_string(),
            (false, true) => format!("{last} AND x > 0"),
        };
        let columns: Vec<String> = (0..7).map(|i| format!("c{i} {}", self.types()[i])).collect();
        let (columns, key) = match self.at_once {
            true => (columns.join(", "), ", n BIGINT, PRIMARY KEY (c0, c1, c2, c3, c4, c5, c6) NOT ENFORCED"),
            false => (columns.join(", "), ""),
        };
        let (join, more) = (self.join_word(), self.more());
        let from = format!("l {join} v FOR SYSTEM_TIME AS OF l.ts AS v ON v.id = l.id{more}");
        format!(
            "SET shards = 8; {}{}CREATE VIEW v AS SELECT id, b, x, ts FROM {view};\n\
             CREATE TABLE o ({columns}{key}) {WITH};\nINSERT INTO o {};",
            table("l", self.keyed_rows),
            table("r", self.keyed_versions),
            self.shaped(&from)
        )
    }

    fn types(&self) -> [&str; 7] {
        match self.at_once {
            true => ["STRING"; 7],
            false => ["BIGINT", "BIGINT", "BIGINT", "TIMESTAMP(3)", "BIGINT", "BIGINT", "TIMESTAMP(3)"],
        }
    }

    /// Returns the equivalent query over all rows and versions: a row's version is the last one that is not after it, unless
    /// that is a deletion or does not pass the filter.
    fn meaning(&self) -> String {
        let times =
            "(SELECT l.m, max(v.ts) AS at FROM rows l JOIN versions v ON v.id = l.id AND v.ts <= l.ts GROUP BY l.m)";
        let there = if self.filtered { "NOT deleted AND x > 0" } else { "NOT deleted" };
        let (join, more) = (self.join_word(), self.more());
        self.shaped(&format!(
            "rows l LEFT JOIN {times} a ON a.m = l.m {join} (SELECT * FROM versions WHERE {there}) v \
             ON v.id = l.id AND v.ts = a.at{more}"
        ))
    }
}

/// Rows and versions that were not late.
#[derive(Default)]
struct Accepted {
    /// The current record of each key, also of late ones.
    current: BTreeMap<i64, usize>,
    rows: Vec<usize>,
    versions: BTreeMap<(i64, i64), usize>,
    /// All records of versions, also replaced ones.
    seen: Vec<usize>,
    late: u64,
}

impl Accepted {
    fn take(&mut self, query: &Query, records: &[Record], commit: &Commit) {
        let is_late = |id: usize| {
            let before = commit.late_before.unwrap_or(i64::MIN);
            records[id].ts_ms.is_some_and(|time| time < before)
        };
        let of = |table: usize| commit.records.iter().copied().filter(move |id| records[*id].table == table);
        for id in of(1) {
            let record = &records[id];
            match record.ts_ms {
                Some(time) if !is_late(id) => {
                    self.seen.push(id);
                    let last = self.versions.entry((record.id, time)).or_insert(id);
                    // Of a view's rows of one time the greatest counts, of a table's records the last.
                    *last = if query.keyed_versions { id } else { id.max(*last) };
                }
                _ => self.late += 1,
            }
        }
        if !query.keyed_rows {
            // Without a time a row has no version: an inner join loses it.
            let is_lost = |id: usize| is_late(id) || !query.left && records[id].ts_ms.is_none();
            let (late, rows): (Vec<usize>, Vec<usize>) = of(0).partition(|id| is_lost(*id));
            self.late += late.len() as u64;
            self.rows.extend(rows);
            return;
        }
        let last: BTreeMap<i64, usize> = of(0).map(|id| (records[id].id, id)).collect();
        for (key, id) in last {
            let old = self.current.get(&key).copied();
            let new = (!records[id].deleted).then_some(id);
            let content = |id: usize| (records[id].b, records[id].x, records[id].ts_ms);
            if old.map(content) == new.map(content) {
                continue;
            }
            if let Some(old) = old.filter(|old| !is_late(*old)) {
                self.rows.retain(|row| *row != old);
            }
            self.rows.extend(new.filter(|new| !is_late(*new)));
            match new {
                Some(new) => self.current.insert(key, new),
                None => self.current.remove(&key),
            };
        }
    }

    /// Returns the most entries of state: waiting rows, versions that are not final, and one final version of each key.
    fn most_kept(&self, records: &[Record], closed_ms: Option<i64>) -> usize {
        let is_open =
            |id: &&usize| records[**id].ts_ms.is_some_and(|time| closed_ms.is_none_or(|closed| time >= closed));
        let finals: BTreeSet<i64> = self.seen.iter().filter(|id| !is_open(id)).map(|id| records[*id].id).collect();
        self.rows.iter().filter(is_open).count() + self.seen.iter().filter(is_open).count() + finals.len()
    }

    fn tables(&self, query: &Query, records: &[Record], closed_ms: Option<i64>) -> Vec<(&'static str, RecordBatch)> {
        let is_given = |id: &usize| match records[*id].ts_ms {
            _ if query.at_once => true,
            Some(time) => closed_ms.is_some_and(|closed| time < closed),
            // It has no version, and never will.
            None => !query.keyed_rows,
        };
        let rows: Vec<usize> = self.rows.iter().copied().filter(is_given).collect();
        let versions: Vec<usize> = self.versions.values().copied().collect();
        let number = |name: &str| Field::new(name, DataType::Int64, true);
        let time = Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true);
        let schema = Arc::new(Schema::new(vec![number("id"), number("b"), number("x"), time]));
        let with = |batch: RecordBatch, field: Field, column: ArrayRef| {
            let fields = batch.schema().fields().iter().cloned().chain([Arc::new(field)]).collect::<Vec<_>>();
            let columns = batch.columns().iter().cloned().chain([column]).collect();
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
        };
        let numbers: Int64Array = (0..rows.len() as i64).map(Some).collect();
        let deleted: BooleanArray = versions.iter().map(|id| Some(records[*id].deleted)).collect();
        let (all, of) = (batch_of(records, &rows, &schema), batch_of(records, &versions, &schema));
        vec![
            ("rows", with(all, number("m"), Arc::new(numbers))),
            ("versions", with(of, Field::new("deleted", DataType::Boolean, false), Arc::new(deleted))),
        ]
    }
}

fn run(case: &Case) -> Result<(), String> {
    let query = &case.query;
    let mut reading = Reading::new(&query.script(), ["l", "r"], &case.records)?;
    let mut accepted = Accepted::default();
    // At the end all is read; then what waits for the watermark of that comes, and nothing more.
    let last = [Take::All, Take::Nothing, Take::Nothing].map(Step::taking);
    for step in case.steps.iter().chain(&last) {
        let commit = reading.commit(step)?;
        let cluster = &reading.cluster;
        accepted.take(query, &case.records, &commit);
        let tables = accepted.tables(query, &case.records, cluster.closed_ms());
        reading.same(tables, &query.meaning())?;
        let most = accepted.most_kept(&case.records, cluster.closed_ms());
        if !query.keyed_rows && !query.at_once && cluster.counts.state_rows > most as u64 {
            return Err(format!("{} rows of state, and {most} are enough", cluster.counts.state_rows));
        }
        if !query.keyed_rows && cluster.late_rows != accepted.late {
            return Err(format!("{} rows counted as late instead of {}", cluster.late_rows, accepted.late));
        }
    }
    Ok(())
}

#[test]
fn temporal_joins_hold_the_batch_answer() {
    cases::for_all("keyed::temporal::temporal_joins_hold_the_batch_answer", (1_000, 1), &case(), |case| {
        run(&case).map_err(|error| format!("{error}\n{}", case.query.script()))
    });
}

#[test]
fn of_the_records_of_one_time_the_last_one_counts() {
    let rates = [(9, false), (-9, false), (3, true), (5, false), (4, false)]
        .map(|(x, deleted)| Record::of(1, 1_000, x, deleted));
    let records: Vec<Record> = [Record::of(0, 1_001, 0, false)].into_iter().chain(rates).collect();
    for (left, at_once) in [(true, true), (false, true), (true, false), (false, false)] {
        let query = Query { keyed_rows: false, keyed_versions: true, left, condition: false, filtered: false, at_once };
        // One record of each partition in a batch.
        let case = Case {
            query,
            records: records.clone(),
            steps: vec![Step::taking(Take::Each(vec![1; PARTITIONS_OF_BOTH])); 5],
        };
        run(&case).unwrap();
    }
}
