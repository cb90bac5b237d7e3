//! The first row of each key in order of arrival, compared with a loop over the rows of each batch.
//!
//! Owns: the model, with and without `state_ttl`. Which rows are first depends on where batches end, so there is no batch
//! answer to compare with.

use crate::data::{self, COLUMNS, PARTITIONS, Row, record_batch};
use crate::fixed::step;
use crate::harness::{Cluster, Fault, Records, Step, Take};
use proptest::prelude::*;
use std::collections::btree_map::{BTreeMap, Entry};

const TTL_MS: i64 = 3_000;

fn script(ttl: bool) -> String {
    let ttl = if ttl { "SET state_ttl = '3 seconds';" } else { "" };
    let with = |topic: &str| {
        format!("WITH ('connector' = 'kafka', 'topic' = '{topic}', 'bootstrap.servers' = 'x:1', 'format' = 'json')")
    };
    format!(
        "{ttl} CREATE TABLE t ({COLUMNS}, pt AS proctime()) {}; CREATE TABLE o (k STRING, id BIGINT) {};
         INSERT INTO o SELECT k, id FROM
           (SELECT *, row_number() OVER (PARTITION BY k ORDER BY pt, id DESC) AS n FROM t) a WHERE n = 1;",
        with("t"),
        with("o")
    )
}

fn run(rows: &[Row], steps: &[Step], ttl: bool) -> Result<(), String> {
    let mut records = Records::default();
    records.partitions("t", PARTITIONS);
    let mut ids: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    rows.iter().enumerate().for_each(|(id, row)| ids.entry(row.partition).or_default().push(id));
    ids.iter().for_each(|(partition, ids)| records.append("t", *partition, record_batch(rows, ids)));
    let mut cluster = Cluster::new(&script(ttl), &records, Fault::None)?;
    let mut seen: BTreeMap<Option<u8>, i64> = BTreeMap::new();
    let mut expected: Vec<Vec<String>> = Vec::new();
    let rest = [Step::taking(Take::All), Step::taking(Take::Nothing)];
    for (number, step) in steps.iter().chain(&rest).enumerate() {
        let now_ms = 1_000_000 + number as i64 * 1_000;
        let commit = cluster.commit(&Step { now_ms: Some(now_ms), resumed: number % 3 == 2, ..step.clone() })?;
        seen.retain(|_, first_ms| !ttl || *first_ms + TTL_MS > now_ms);
        let mut firsts: BTreeMap<Option<u8>, usize> = BTreeMap::new();
        for (partition, range) in &commit.ranges {
            for id in &ids[&partition.tp.partition][range.start as usize..range.end as usize] {
                let first = firsts.entry(rows[*id].k).or_insert(*id);
                *first = (*first).max(*id);
            }
        }
        for (k, id) in firsts {
            if let Entry::Vacant(unseen) = seen.entry(k) {
                unseen.insert(now_ms);
                expected.push(vec![k.map_or("NULL".into(), |k| format!("K{k}")), id.to_string()]);
            }
        }
        expected.sort();
        let mut found = cluster.sink().rows();
        found.sort();
        if found != expected || cluster.counts.state_rows != seen.len() as u64 {
            return Err(format!("batch {number}: found {found:?}\n  expected {expected:?}, {} keys", seen.len()));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_first_row_of_a_key_to_come_is_appended_once(
        rows in prop::collection::vec(data::row(), 0..60),
        steps in prop::collection::vec(step(PARTITIONS as usize), 1..9),
        ttl in any::<bool>(),
    ) {
        run(&rows, &steps, ttl).map_err(TestCaseError::fail)?;
    }
}
