//! The oracle: whatever the cuts, tasks, kills and replays, after every commit the sinks hold the batch answer.
//!
//! Owns: random cases and what is asserted about them. Any query and records go through [`cluster::Cluster`], which
//! runs the real dataflow, state and exchange as a driver and executors would; [`batch`] asks DataFusion for the
//! answer over the same prefix. The planted faults show that it would notice.
//! More cases: `PROPTEST_CASES=10000 cargo test -p highwater-engine --test oracle`.

#![allow(clippy::unwrap_used)]

mod batch;
mod cluster;
mod compose;
mod data;
mod fold;
mod gaps;
mod queries;
mod windows;

use cluster::{Cluster, Fault, Step};
use data::Row;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use queries::Query;

/// Everything a case is.
#[derive(Clone, Debug)]
struct Case {
    query: Query,
    rows: Vec<Row>,
    steps: Vec<Step>,
}

fn case() -> impl Strategy<Value = Case> {
    let rows = prop::collection::vec(data::row(), 0..60);
    let steps = prop::collection::vec(cluster::step(), 1..7);
    (queries::query(), rows, steps).prop_map(|(query, rows, steps)| Case { query, rows, steps })
}

/// Runs a case; the first difference from the batch answer is the error.
fn run(case: &Case, fault: Fault) -> Result<(), String> {
    let mut cluster = Cluster::new(&case.query, &case.rows, fault)?;
    for step in &case.steps {
        cluster.commit(step)?;
        batch::check(&case.query, &cluster)?;
    }
    // What is left, then a batch without records: only windows close.
    for step in [Step::everything(), Step::nothing()] {
        cluster.commit(&step)?;
        batch::check(&case.query, &cluster)?;
    }
    Ok(())
}

fn config() -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000);
    Config { cases, max_shrink_iters: 2_000, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_commit_holds_the_batch_answer(case in case()) {
        run(&case, Fault::None).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn every_operator_by_itself_holds_the_batch_answer() {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut wrong = Vec::new();
    for relation in compose::each() {
        for _ in 0..15 {
            let case =
                Case { query: Query::composed(relation.clone()), ..case().new_tree(&mut runner).unwrap().current() };
            if let Err(error) = run(&case, Fault::None) {
                wrong.push(format!("{relation}\n  {error}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} relations:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_form_holds_the_batch_answer() {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut wrong = Vec::new();
    for (relation, meaning) in gaps::FORMS {
        let query = Query::composed(relation.to_string()).meaning_in(*meaning);
        for _ in 0..15 {
            let case = Case { query: query.clone(), ..case().new_tree(&mut runner).unwrap().current() };
            let done = std::panic::catch_unwind(|| run(&case, Fault::None)).unwrap_or(Err("panic".into()));
            if let Err(error) = done {
                wrong.push(format!("{relation}\n  {error}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} forms:\n{}", wrong.len(), wrong.join("\n"));
}

/// Some of a thousand cases, always the same ones, must show the fault.
fn assert_caught(fault: Fault) {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    for _ in 0..1_000 {
        let case = case().new_tree(&mut runner).unwrap().current();
        if run(&case, fault).is_err() {
            return;
        }
    }
    panic!("a planted fault went unnoticed: {fault:?}");
}

#[test]
fn a_dropped_retraction_is_caught() {
    assert_caught(Fault::DroppedRetraction);
}

#[test]
fn a_watermark_off_by_one_is_caught() {
    assert_caught(Fault::WatermarkOffByOne);
}

#[test]
fn a_lost_state_delta_is_caught() {
    assert_caught(Fault::LostDelta);
}

#[test]
fn an_overlay_of_the_wrong_attempt_is_caught() {
    assert_caught(Fault::WrongOverlay);
}

#[test]
fn rows_lost_in_the_exchange_are_caught() {
    assert_caught(Fault::LostExchange);
}
