//! Tables with PRIMARY KEY, read as their current rows, under every operator; and temporal joins.
//!
//! Owns: random cases of both, and the assertions after every commit. The answer is DataFusion's, over the tables that
//! result from the records read so far.

mod records;
mod temporal;

use crate::compose;
use crate::fixed::step;
use crate::harness::answer::{answer, difference, one_of_each_key, second_answer};
use crate::harness::fold::{Text, texts};
use crate::harness::{self, Cluster, Fault, Records, Step, Take, cases};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use records::{PARTITIONS, Record, batch_of, record_schema};
use std::collections::BTreeMap;
use std::sync::Arc;

const WITH: &str = "WITH ('connector'='kafka','topic'='x','bootstrap.servers'='localhost:1','format'='json')";

const PARTITIONS_OF_BOTH: usize = 2 * PARTITIONS as usize;

/// A cluster on the records of two tables, which knows the records of every batch.
struct Reading {
    cluster: Cluster,
    names: [&'static str; 2],
    /// Ids in each partition, in order, by table.
    ids: BTreeMap<(&'static str, i32), Vec<usize>>,
}

/// The records of a batch, in order, and the watermark at which they were read.
struct Commit {
    records: Vec<usize>,
    late_before: Option<i64>,
}

impl Reading {
    /// Returns a cluster on the records of the tables with these names.
    fn new(script: &str, names: [&'static str; 2], records: &[Record]) -> Result<Self, String> {
        let mut ids: BTreeMap<(&'static str, i32), Vec<usize>> = BTreeMap::new();
        for (id, record) in records.iter().enumerate() {
            ids.entry((names[record.table], record.partition())).or_default().push(id);
        }
        let mut topics = Records::default();
        names.iter().for_each(|table| topics.partitions(table, PARTITIONS));
        for ((table, partition), ids) in &ids {
            topics.append(table, *partition, batch_of(records, ids, &record_schema()));
        }
        Ok(Self { cluster: Cluster::new(script, &topics, Fault::None)?, names, ids })
    }

    fn commit(&mut self, step: &Step) -> Result<Commit, String> {
        let harness::Commit { ranges, late_before } = self.cluster.commit(step)?;
        let read = ranges.iter().flat_map(|(partition, range)| {
            let name = self.names.iter().find(|name| ***name == *partition.tp.topic).unwrap();
            self.ids[&(*name, partition.tp.partition)][range.start as usize..range.end as usize].iter().copied()
        });
        Ok(Commit { records: read.collect(), late_before: self.cluster.least(&late_before) })
    }

    /// Checks that the sink holds the result of a query over these tables.
    fn same(&self, tables: Vec<(&str, RecordBatch)>, sql: &str) -> Result<(), String> {
        let tables: Vec<_> = tables.into_iter().map(|(name, batch)| (name.to_string(), batch)).collect();
        let found = self.cluster.sink().rows();
        let rows = |batches: Vec<RecordBatch>| -> Vec<Text> { batches.iter().flat_map(texts).collect() };
        let Some(first) = difference(&rows(answer(tables.clone(), sql)?), &found) else { return Ok(()) };
        // DataFusion is not always right: what its other operators say counts as well.
        match second_answer(tables, sql).map(|batches| difference(&rows(batches), &found)) {
            Ok(None) => Ok(()),
            _ => Err(format!("the sink is not the batch answer: {first}")),
        }
    }
}

/// Any relation over two keyed tables.
#[derive(Clone, Debug)]
struct Case {
    relation: String,
    records: Vec<Record>,
    steps: Vec<Step>,
}

fn case() -> impl Strategy<Value = Case> {
    let steps = prop::collection::vec(step(PARTITIONS_OF_BOTH), 1..7);
    (compose::relation(), records::records(), steps).prop_map(|(relation, records, steps)| Case {
        relation,
        records,
        steps,
    })
}

/// Returns a query of distinct rows and their counts.
fn counted(relation: &str) -> String {
    let text = |column: &str| format!("coalesce(CAST({column} AS VARCHAR), '-')");
    let texts = ["k", "b", "x"].map(text).join(", ");
    format!("SELECT {texts}, count(*) AS n FROM ({relation}) q GROUP BY {texts}")
}

fn run(case: &Case) -> Result<(), String> {
    let columns = "id BIGINT, k STRING, b BIGINT, x BIGINT";
    let table = |name: &str| format!("CREATE TABLE {name} ({columns}, PRIMARY KEY (id) NOT ENFORCED) {WITH};\n");
    let script = format!(
        "SET shards = 8; {}{}CREATE TABLE o (k STRING, b STRING, x STRING, n BIGINT, PRIMARY KEY (k, b, x) NOT ENFORCED) {WITH};\n\
         INSERT INTO o {};",
        table("t"),
        table("u"),
        counted(&case.relation)
    );
    let mut reading = Reading::new(&script, ["t", "u"], &case.records)?;
    let mut current: [BTreeMap<i64, usize>; 2] = Default::default();
    for step in case.steps.iter().chain(&[Step::taking(Take::All), Step::taking(Take::Nothing)]) {
        for id in reading.commit(step)?.records {
            let record = &case.records[id];
            match record.deleted {
                true => current[record.table].remove(&record.id),
                false => current[record.table].insert(record.id, id),
            };
        }
        let table = |rows: &BTreeMap<i64, usize>| {
            batch_of(&case.records, &rows.values().copied().collect::<Vec<_>>(), &row_schema())
        };
        let tables = vec![("t", table(&current[0])), ("u", table(&current[1]))];
        // Before its first record a global aggregate has written nothing.
        if current.iter().any(|table| !table.is_empty()) || !reading.cluster.sink().rows().is_empty() {
            reading.same(tables, &counted(&case.relation))?;
        }
    }
    Ok(())
}

/// Rows move between the keys of a sink whose key is not theirs.
fn run_shared(case: &Case, select: &str) -> Result<(), String> {
    let script = format!(
        "SET shards = 8; CREATE TABLE t (id BIGINT, k STRING, b BIGINT, x BIGINT, PRIMARY KEY (id) NOT ENFORCED) {WITH};
         CREATE TABLE o (b BIGINT, k STRING, x BIGINT, PRIMARY KEY (k) NOT ENFORCED) {WITH};
         INSERT INTO o {select};"
    );
    let mut reading = Reading::new(&script, ["t", "u"], &case.records)?;
    let mut current: BTreeMap<i64, usize> = BTreeMap::new();
    for step in case.steps.iter().chain(&[Step::taking(Take::All), Step::taking(Take::Nothing)]) {
        for id in reading.commit(step)?.records {
            match case.records[id].deleted {
                true => current.remove(&case.records[id].id),
                false => current.insert(case.records[id].id, id),
            };
        }
        let table = batch_of(&case.records, &current.values().copied().collect::<Vec<_>>(), &row_schema());
        reading.same(vec![("t", table.clone())], &one_of_each_key(select, &["b", "k", "x"], &["k"]))?;
        let conflicts =
            format!("SELECT count(*) FROM (SELECT k FROM ({select}) q GROUP BY k HAVING count(*) > 1) keys");
        let expected = texts(&answer(vec![("t".into(), table)], &conflicts)?[0])[0][0].clone();
        let found = reading.cluster.key_conflicts.keys.to_string();
        if found != expected {
            return Err(format!("{found} keys with several rows instead of {expected}"));
        }
    }
    Ok(())
}

fn row_schema() -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![number("id"), Field::new("k", DataType::Utf8, true), number("b"), number("x")]))
}

#[test]
fn anything_over_keyed_tables_holds_the_batch_answer() {
    cases::for_all("keyed::anything_over_keyed_tables_holds_the_batch_answer", (300, 1), &case(), |case| {
        run(&case).map_err(|error| format!("{error}\n{}", case.relation))
    });
}

#[test]
fn a_key_with_several_rows_shows_the_greatest_whatever_the_batches() {
    let name = "keyed::a_key_with_several_rows_shows_the_greatest_whatever_the_batches";
    let of_one_table = case().prop_map(|mut case| {
        case.records.retain(|record| record.table == 0);
        case
    });
    cases::for_all(name, (300, 1), &of_one_table, |case| {
        run_shared(&case, "SELECT b, k, x FROM t WHERE k IS NOT NULL")
    });
}

#[test]
fn every_operator_over_keyed_tables_holds_the_batch_answer() {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut wrong = Vec::new();
    for relation in compose::each() {
        for _ in 0..4 {
            let case = Case { relation: relation.clone(), ..case().new_tree(&mut runner).unwrap().current() };
            if let Err(error) = run(&case) {
                wrong.push(format!("{relation}\n  {error}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} relations:\n{}", wrong.len(), wrong.join("\n"));
}
