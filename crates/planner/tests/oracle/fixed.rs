//! Random queries over two tables: every operator, late rows and closing windows, every output mode.
//!
//! Owns: random cases and what is asserted about them. Does not own: the queries (`queries`, `compose`), running them
//! (`harness`).

use crate::data::{self, PARTITIONS, Row};
use crate::harness::{Fault, Step, Take, cases};
use crate::queries::{self, Query};
use crate::watch::Watch;
use crate::{batch, compose, gaps};
use proptest::prelude::*;

/// A random case.
#[derive(Clone, Debug)]
struct Case {
    query: Query,
    rows: Vec<Row>,
    steps: Vec<Step>,
}

fn case() -> impl Strategy<Value = Case> {
    let rows = prop::collection::vec(data::row(), 0..60);
    let steps = prop::collection::vec(step(2 * PARTITIONS as usize), 1..7);
    // A TTL that nothing outlives must change nothing.
    let ttl = prop::bool::weighted(0.3).prop_map(|ttl| ttl.then_some("1 hour"));
    (queries::query(), rows, steps, ttl).prop_map(|(query, rows, steps, ttl)| Case {
        query: query.with_ttl(ttl),
        rows,
        steps,
    })
}

/// Returns random steps over so many partitions.
pub fn step(partitions: usize) -> impl Strategy<Value = Step> {
    let takes = prop::collection::vec(0usize..6, partitions);
    let (killed, replayed) = (prop::bool::weighted(0.25), prop::bool::weighted(0.25));
    (takes, 1u16..4, 1usize..5, killed, replayed).prop_map(|(takes, executors, chunk, killed, replayed)| Step {
        executors,
        chunk,
        killed,
        replayed,
        ..Step::taking(Take::Each(takes))
    })
}

/// Runs a case. Returns the number of late rows; the error is the first difference from the batch answer.
fn run(case: &Case, fault: Fault) -> Result<u64, String> {
    let mut watch = Watch::new(&case.query, &case.rows, fault)?;
    // What is left comes last, then a batch without records: only windows close.
    let rest = [Step::taking(Take::All), Step::taking(Take::Nothing)];
    for step in case.steps.iter().chain(&rest) {
        watch.commit(step)?;
        batch::check(&case.query, &watch)?;
    }
    Ok(watch.cluster.late_rows)
}

/// Number of cases, and of tests that share them.
const CASES: (u32, u32) = (1_000, 2);

#[test]
fn every_commit_holds_the_batch_answer_1() {
    cases::for_all("fixed::every_commit_holds_the_batch_answer_1", CASES, &case(), |case| {
        run(&case, Fault::None).map(drop)
    });
}

#[test]
fn every_commit_holds_the_batch_answer_2() {
    cases::for_all("fixed::every_commit_holds_the_batch_answer_2", CASES, &case(), |case| {
        run(&case, Fault::None).map(drop)
    });
}

#[test]
fn every_operator_by_itself_holds_the_batch_answer() {
    let mut wrong = Vec::new();
    for relation in compose::each() {
        for case in cases::fixed(15, &case()) {
            let case = Case { query: Query::composed(relation.clone()), ..case };
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
    let mut wrong = Vec::new();
    for (relation, meaning) in gaps::FORMS {
        let query = Query::composed(relation.to_string()).meaning_in(*meaning);
        for case in cases::fixed(15, &case()) {
            let case = Case { query: query.clone(), ..case };
            if let Err(error) = run(&case, Fault::None) {
                wrong.push(format!("{relation}\n  {error}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} forms:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_cases_have_late_rows() {
    let late = cases::fixed(300, &case()).filter(|case| run(case, Fault::None).unwrap() > 0).count();
    assert!(late > 5, "{late} of 300");
}

/// Asserts that one of a thousand fixed cases shows the fault.
fn assert_caught(fault: Fault) {
    let is_caught = cases::fixed(1_000, &case()).any(|case| run(&case, fault).is_err());
    assert!(is_caught, "a planted fault went unnoticed: {fault:?}");
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

#[test]
fn a_delta_applied_twice_is_caught() {
    assert_caught(Fault::DeltaTwice);
}

#[test]
fn late_rows_admitted_are_caught() {
    assert_caught(Fault::LateAdmitted);
}
