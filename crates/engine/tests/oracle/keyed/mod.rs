//! Tables with PRIMARY KEY, read folded, under every operator; and temporal joins with what has versions.
//!
//! Owns: random cases of both, and what is asserted after every commit. The answer is DataFusion's, over the tables that
//! the records read so far add up to.

mod cluster;
mod records;
mod temporal;

use crate::compose;
use crate::harness::cases;
use crate::harness::fold::{Text, texts};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use cluster::{Cluster, Step, step};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use records::{Record, batch_of};
use std::collections::BTreeMap;
use std::sync::Arc;

const WITH: &str = "WITH ('connector'='kafka','topic'='x','bootstrap.servers'='localhost:1','format'='json')";

/// Any relation over two keyed tables.
#[derive(Clone, Debug)]
struct Case {
    relation: String,
    records: Vec<Record>,
    steps: Vec<Step>,
}

fn case() -> impl Strategy<Value = Case> {
    let steps = prop::collection::vec(step(), 1..7);
    (compose::relation(), records::records(), steps).prop_map(|(relation, records, steps)| Case {
        relation,
        records,
        steps,
    })
}

/// Distinct rows and how often each is there.
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
    let mut cluster = Cluster::new(&script, ["t", "u"], &case.records)?;
    let mut current: [BTreeMap<i64, usize>; 2] = Default::default();
    for step in case.steps.iter().chain(&[Step::of(usize::MAX), Step::of(0)]) {
        for id in cluster.commit(step)?.records {
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
        if current.iter().any(|table| !table.is_empty()) || !cluster.sink.rows().is_empty() {
            same(&cluster, answer(tables, &counted(&case.relation)))?;
        }
    }
    Ok(())
}

fn row_schema() -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![number("id"), Field::new("k", DataType::Utf8, true), number("b"), number("x")]))
}

fn answer(tables: Vec<(&str, RecordBatch)>, sql: &str) -> Vec<Text> {
    let context = SessionContext::new();
    for (name, batch) in tables {
        let memory = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
        context.register_table(name, Arc::new(memory)).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let batches = runtime.block_on(async { context.sql(sql).await?.collect().await }).unwrap();
    let mut rows: Vec<Text> = batches.iter().flat_map(texts).collect();
    rows.sort();
    rows
}

fn same(cluster: &Cluster<'_>, expected: Vec<Text>) -> Result<(), String> {
    let found = cluster.sink.rows();
    if found == expected {
        return Ok(());
    }
    let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
    let wrong: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
    Err(format!(
        "the sink is not the batch answer: missing {missing:?}, wrong {wrong:?}, {} rows instead of {}",
        found.len(),
        expected.len()
    ))
}

#[test]
fn anything_over_keyed_tables_holds_the_batch_answer() {
    cases::for_all("keyed::anything_over_keyed_tables_holds_the_batch_answer", (300, 1), &case(), |case| {
        run(&case).map_err(|error| format!("{error}\n{}", case.relation))
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
