//! `state_ttl` shorter than the run: exactly the state that is due expires, and the results are right.
//!
//! Owns: models of a few operators with TTL, in plain loops over rows, and random cases compared with them after
//! every commit. Does not own: TTLs that are longer than the run (`main`), which must change nothing.

use crate::data::{self, PARTITIONS, Row};
use crate::harness::{Fault, Step, Take};
use crate::queries::Query;
use crate::watch::Watch;
use highwater_protocol::ids::SinkId;
use highwater_protocol::report::OperatorMetrics;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::collections::BTreeMap;

const TTL_MS: i64 = 3_000;

/// Values with the time they were written at.
type StoredRow<K, V> = BTreeMap<K, (i64, V)>;

fn forget<K: Ord + Clone, V>(kept: &mut StoredRow<K, V>, now_ms: i64) {
    kept.retain(|_, (written, _)| *written + TTL_MS > now_ms);
}

fn query(relation: &str) -> Query {
    Query::composed(relation.to_string()).with_ttl(Some("3 seconds"))
}

/// A query whose batches are a second apart, so that state that is not written for three of them is due.
struct Run<'a> {
    watch: Watch<'a>,
    batches: i64,
}

impl<'a> Run<'a> {
    fn new(query: &Query, rows: &'a [Row]) -> Result<Self, String> {
        let mut watch = Watch::new(query, rows, Fault::None)?;
        watch.cluster.sinks.get_mut(&SinkId(0)).unwrap().forgets = true;
        Ok(Self { watch, batches: 0 })
    }

    /// Runs a batch; returns its time, and the ids of its records.
    fn commit(&mut self, step: &Step) -> Result<(i64, Vec<usize>), String> {
        let before = self.watch.accepted.len();
        let now_ms = 1_000_000 + self.batches * 1_000;
        self.batches += 1;
        self.watch.commit(&Step { now_ms: Some(now_ms), ..step.clone() })?;
        Ok((now_ms, self.watch.accepted[before..].to_vec()))
    }

    fn counts(&self) -> &OperatorMetrics {
        &self.watch.cluster.counts
    }
}

fn some(records: usize) -> Step {
    Step::taking(Take::Each(vec![records; 2 * PARTITIONS as usize]))
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}

fn key(row: &Row) -> Option<String> {
    row.k.map(|k| format!("K{k}"))
}

/// Compares the sink with a model after every batch. `fold` applies the rows of a batch to the model, and returns the
/// expected content of the sink.
fn compare(
    relation: &str,
    rows: &[Row],
    steps: &[Step],
    mut fold: impl FnMut(i64, &[usize]) -> Vec<Vec<String>>,
) -> Result<(), String> {
    let query = query(relation);
    let mut run = Run::new(&query, rows)?;
    for step in steps {
        let (now_ms, ids) = run.commit(step)?;
        let mut expected = fold(now_ms, &ids);
        expected.sort();
        let found = run.watch.cluster.sink().rows();
        if found != expected {
            return Err(format!(
                "after batch {} of {relation}\n  found {found:?}\n  expected {expected:?}",
                run.batches
            ));
        }
    }
    Ok(())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(crate::fixed::step(2 * PARTITIONS as usize), 4..14)
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec(data::row(), 0..80)
}

/// Model of a sink that counts equal rows: a count stays until it changes, and starts again after its state has expired.
#[derive(Default)]
struct Counted {
    counts: StoredRow<Vec<String>, i64>,
    sink: BTreeMap<Vec<String>, i64>,
}

impl Counted {
    /// Applies the net changes of the counted rows in one batch; returns the content of the sink.
    fn apply(&mut self, now_ms: i64, changes: BTreeMap<Vec<String>, i64>) -> Vec<Vec<String>> {
        forget(&mut self.counts, now_ms);
        for (row, weight) in changes.into_iter().filter(|(_, weight)| *weight != 0) {
            let known = self.counts.contains_key(&row);
            let count = self.counts.get(&row).map_or(0, |(_, count)| *count) + weight;
            if count > 0 {
                self.counts.insert(row.clone(), (now_ms, count));
                self.sink.insert(row, count);
            } else {
                self.counts.remove(&row);
                // Of what it does not know, nothing is said.
                if known {
                    self.sink.remove(&row);
                }
            }
        }
        self.sink.iter().map(|(row, n)| row.iter().cloned().chain([n.to_string()]).collect()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_are_counted_anew_after_a_pause(rows in rows(), steps in steps()) {
        let mut counted = Counted::default();
        let outcome = compare("SELECT k, b, x FROM t", &rows, &steps, |now_ms, ids| {
            let mut changes: BTreeMap<Vec<String>, i64> = BTreeMap::new();
            for id in ids {
                let row = &rows[*id];
                *changes.entry(vec![text(key(row)), text(row.b), text(row.x)]).or_default() += 1;
            }
            counted.apply(now_ms, changes)
        });
        outcome.map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_group_begins_anew_and_takes_back_only_what_it_knows(rows in rows(), steps in steps()) {
        let mut groups: StoredRow<Option<String>, (i64, Option<i64>)> = StoredRow::new();
        let mut counted = Counted::default();
        let relation = "SELECT k, count(*) AS b, max(x) AS x FROM t GROUP BY k";
        let outcome = compare(relation, &rows, &steps, |now_ms, ids| {
            forget(&mut groups, now_ms);
            let mut changes: BTreeMap<Vec<String>, i64> = BTreeMap::new();
            let shown = |k: &Option<String>, (count, max): (i64, Option<i64>)| {
                vec![text(k.clone()), count.to_string(), text(max)]
            };
            let mut touched: BTreeMap<Option<String>, (i64, Option<i64>)> = BTreeMap::new();
            for id in ids {
                let row = &rows[*id];
                let (count, max) = touched.entry(key(row)).or_default();
                *count += 1;
                *max = (*max).max(row.x.map(i64::from));
            }
            for (k, (more, high)) in touched {
                let old = groups.get(&k).map(|(_, group)| *group);
                let (count, max) = old.unwrap_or_default();
                let new = (count + more, max.max(high));
                old.into_iter().for_each(|old| *changes.entry(shown(&k, old)).or_default() -= 1);
                *changes.entry(shown(&k, new)).or_default() += 1;
                groups.insert(k, (now_ms, new));
            }
            counted.apply(now_ms, changes)
        });
        outcome.map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_join_finds_what_is_not_yet_forgotten(rows in rows(), steps in steps()) {
        // Ids of both sides, each with when it came: rows are distinct by their id.
        let mut sides: [StoredRow<usize, ()>; 2] = [StoredRow::new(), StoredRow::new()];
        let mut counted = Counted::default();
        let relation = "SELECT l.k, l.id AS b, r.id AS x FROM t l JOIN u r ON l.k = r.k";
        let outcome = compare(relation, &rows, &steps, |now_ms, ids| {
            sides.iter_mut().for_each(|side| forget(side, now_ms));
            ids.iter().for_each(|id| {
                sides[rows[*id].table as usize].insert(*id, (now_ms, ()));
            });
            let mut changes: BTreeMap<Vec<String>, i64> = BTreeMap::new();
            for (l, (came_l, ())) in &sides[0] {
                for (r, (came_r, ())) in &sides[1] {
                    let matches = rows[*l].k.is_some() && rows[*l].k == rows[*r].k;
                    if matches && (*came_l == now_ms || *came_r == now_ms) {
                        changes.insert(vec![text(key(&rows[*l])), l.to_string(), r.to_string()], 1);
                    }
                }
            }
            counted.apply(now_ms, changes)
        });
        outcome.map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_partition_is_ranked_anew_after_a_pause(rows in rows(), steps in steps()) {
        // The greatest x of each key, the least id of those.
        let mut best: StoredRow<Option<String>, Vec<(i64, usize)>> = StoredRow::new();
        let mut counted = Counted::default();
        let relation = "SELECT k, id AS b, x FROM (SELECT k, id, x, row_number() OVER (PARTITION BY k ORDER BY x DESC, id) AS n \
                        FROM t WHERE x IS NOT NULL) a WHERE n <= 2";
        let outcome = compare(relation, &rows, &steps, |now_ms, ids| {
            forget(&mut best, now_ms);
            let before = best.clone();
            for id in ids {
                let Some(x) = rows[*id].x else { continue };
                let (written, ranked) = best.entry(key(&rows[*id])).or_default();
                *written = now_ms;
                ranked.push((-i64::from(x), *id));
                ranked.sort_unstable();
                ranked.truncate(2);
            }
            let mut changes: BTreeMap<Vec<String>, i64> = BTreeMap::new();
            for (partitions, sign) in [(&before, -1), (&best, 1)] {
                for (k, (_, ranked)) in partitions {
                    for (x, id) in ranked {
                        *changes.entry(vec![text(k.clone()), id.to_string(), (-x).to_string()]).or_default() += sign;
                    }
                }
            }
            counted.apply(now_ms, changes)
        });
        outcome.map_err(TestCaseError::fail)?;
    }

    /// For any query there is no error, and no state is left once no more records come.
    #[test]
    fn any_query_forgets_all_and_never_fails(relation in crate::compose::relation(), rows in rows(), steps in steps()) {
        let query = query(&relation);
        let mut run = Run::new(&query, &rows).map_err(TestCaseError::fail)?;
        for step in steps.iter().chain(&vec![Step::taking(Take::Nothing); 4]) {
            run.commit(step).map_err(TestCaseError::fail)?;
        }
        // Groups of all rows stay, and the first rows of all.
        let bounded = ["count(*) AS x FROM", "() AS", "max(k)", "max(x) AS x FROM", "avg(x) FROM", "ROLLUP", "CUBE", "LIMIT",
            "GROUPING", "ORDER BY x NULLS FIRST", "NOT IN"];
        if !bounded.iter().any(|part| relation.contains(part)) {
            prop_assert_eq!(run.counts().state_rows, 0, "{}", relation);
        }
    }
}

/// Of many keys that appear once, state has only those that came within the TTL.
#[test]
fn state_stays_bounded() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let one = data::row().prop_map(|row| Row { table: 0, x: None, ..row });
    let rows = prop::collection::vec(one, 600).new_tree(&mut runner).unwrap().current();
    let query = query("SELECT CAST(id AS VARCHAR) AS k, b, x FROM t");
    let mut run = Run::new(&query, &rows).unwrap();
    let mut expired = 0;
    for _ in 0..60 {
        run.commit(&some(4)).unwrap();
        // Three batches of twelve rows, in the GROUP BY above; the sink needs none.
        assert!(run.counts().state_rows <= 36, "{:?}", run.counts());
        expired += run.counts().expired_rows;
    }
    assert_eq!(expired + run.counts().state_rows, 600);
}

/// A retraction of a row whose state has expired is counted, and is no error.
#[test]
fn a_deletion_of_what_was_forgotten_is_ignored() {
    let row = |x: i16| Row { table: 0, partition: 0, k: Some(1), b: Some(0), x: Some(x), f: None, jitter_ms: Some(0) };
    let rows: Vec<Row> = [5, 1, 1, 1, 9].map(row).into();
    // The greatest value is looked at in every batch; that it is 5 was written in the first one only.
    let query = query("SELECT k, 0 AS b, max(x) AS x FROM t GROUP BY k");
    let mut run = Run::new(&query, &rows).unwrap();
    let mut counts = Vec::new();
    for _ in 0..5 {
        run.commit(&some(1)).unwrap();
        counts.push((run.counts().expired_rows, run.counts().ignored_rows));
    }
    assert_eq!(counts, [(0, 0), (0, 0), (0, 0), (1, 0), (0, 1)]);
    let shown = |x: &str| vec!["K1".to_string(), "0".into(), x.into(), "1".into()];
    assert_eq!(run.watch.cluster.sink().rows(), [shown("5"), shown("9")], "what was forgotten is not taken back");
}
