//! A seeded simulation of the exactly-once protocol: the real query machine and participants among simulated drivers,
//! executors, brokers and a head store, any of which may fail at any step.
//!
//! Owns: the tests. A schedule is determined by its seed. To replay one that failed, with its trace:
//! `HIGHWATER_SIM_SEED=n cargo test -p highwater-protocol --test sim one_seed -- --nocapture`.

#![allow(clippy::unwrap_used)]

mod broker;
mod chaos;
mod check;
mod driver;
mod executor;
mod publish;
mod store;
mod tasks;
mod types;
mod world;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use types::{Coverage, Fault};
use world::run;

const SCHEDULES: u64 = 10_000;

/// Number of schedules to run; `HIGHWATER_SIM_SCHEDULES` overrides it.
fn schedules() -> u64 {
    std::env::var("HIGHWATER_SIM_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(SCHEDULES)
}

/// Runs seeds `0..count` on two threads. Returns the lowest seed that ended in a violation, with its message, if any.
fn explore(count: u64, fault: Option<Fault>) -> (Option<(u64, String)>, Coverage) {
    let next = AtomicU64::new(0);
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let total = Mutex::new(Coverage::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut mine = Coverage::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || found.lock().unwrap().is_some() {
                        break;
                    }
                    let outcome = run(seed, fault, false);
                    mine.add(&outcome.coverage);
                    if let Some(message) = outcome.violation {
                        let mut found = found.lock().unwrap();
                        if found.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                            *found = Some((seed, message));
                        }
                    }
                }
                total.lock().unwrap().add(&mine);
            });
        }
    });
    (found.into_inner().unwrap(), total.into_inner().unwrap())
}

fn trace_hash(seed: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    run(seed, None, true).trace.hash(&mut hasher);
    hasher.finish()
}

/// The outcome of all schedules, computed once for all tests that need it.
fn all_schedules() -> &'static (Option<(u64, String)>, Coverage) {
    static ALL: OnceLock<(Option<(u64, String)>, Coverage)> = OnceLock::new();
    ALL.get_or_init(|| explore(schedules(), None))
}

#[test]
fn ten_thousand_schedules_are_exact() {
    if let (Some((seed, message)), _) = all_schedules() {
        let outcome = run(*seed, None, true);
        let last = outcome.trace.len().saturating_sub(80);
        panic!(
            "seed {seed}: {message}\n...\n{}\nreplay: HIGHWATER_SIM_SEED={seed} cargo test -p highwater-protocol --test \
             sim one_seed -- --nocapture",
            outcome.trace[last..].join("\n")
        );
    }
}

/// A simulation with few faults proves little: every kind of fault must have happened often.
#[test]
fn the_schedules_contain_every_kind_of_trouble() {
    let (_, coverage) = all_schedules();
    for (what, count) in &coverage.0 {
        println!("{count:>9} {what}");
    }
    for (what, least) in AT_LEAST {
        let count = coverage.0.get(what).copied().unwrap_or_default();
        assert!(count >= *least, "{what}: only {count} times in {SCHEDULES} schedules");
    }
}

const AT_LEAST: &[(&str, u64)] = &[
    ("attempt aborted", 5_000),
    ("batches prepared", 20_000),
    ("brokers away", 500),
    ("commit arrived after its sender was gone", 300),
    ("commit lost", 1_000),
    ("commit note lost", 300),
    ("commit refused: fenced", 300),
    ("commit's answer lost", 1_000),
    ("driver crashed", 1_000),
    ("driver replaced while alive", 500),
    ("exchange broke", 1_000),
    ("executor could not be reached", 2_000),
    ("executor came back before it was missed", 100),
    ("executor crashed", 1_000),
    ("executor hung beyond its lease", 1_000),
    ("executor joined a replaced driver", 20),
    ("link broken", 5_000),
    ("message held up", 1_000),
    ("publish answered with unknown", 5),
    ("query stopped and started", 500),
    ("windows closed without records", 1_000),
    ("recovered from a prepared batch", 2_000),
    ("restore came too late", 100),
    ("restore failed", 300),
    ("stale driver held back from publishing", 50),
    ("stale driver refused", 200),
    ("task failed", 500),
    ("task lost", 500),
    ("wall clock set", 1_000),
    ("writer fenced while writing", 500),
    ("writers could not be reserved at first", 500),
    ("writer found published", 3_000),
    ("writer found unpublished", 3_000),
];

#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("HIGHWATER_SIM_SEED") else { return };
    let outcome = run(seed.parse().unwrap(), None, true);
    println!("{}", outcome.trace.join("\n"));
    assert_eq!(outcome.violation, None);
}

#[test]
fn a_seed_replays_identically() {
    let hashes: Vec<u64> = (0..20).map(trace_hash).collect();
    assert_eq!(hashes, (0..20).map(trace_hash).collect::<Vec<_>>());
    let different: BTreeSet<&u64> = hashes.iter().collect();
    assert_eq!(different.len(), hashes.len());
}

/// The simulation must notice a planted fault by its effect on the data.
fn caught(fault: Fault, because: &[&str]) {
    let (found, _) = explore(SCHEDULES, Some(fault));
    let Some((seed, message)) = found else { panic!("{fault:?} went unnoticed in {SCHEDULES} schedules") };
    eprintln!("{fault:?}: seed {seed}: {message}");
    assert!(because.iter().any(|part| message.contains(part)), "{fault:?} was noticed for another reason: {message}");
    assert_eq!(run(seed, None, false).violation, None, "seed {seed} fails without the fault");
}

#[test]
fn a_commit_before_its_prepare_is_caught() {
    caught(Fault::CommitBeforePrepare, &["before its record was durable"]);
}

#[test]
fn writers_without_fencing_are_caught() {
    caught(Fault::NoWriterFencing, &["twice", "after a later one was prepared", "different rows"]);
}

#[test]
fn progress_read_before_fencing_is_caught() {
    caught(Fault::ProgressBeforeFencing, &["twice", "after a later one was prepared"]);
}

#[test]
fn a_store_without_fencing_is_caught() {
    caught(Fault::NoStoreFencing, &["belongs", "ahead", "twice", "different rows", "failed"]);
}

#[test]
fn publishing_without_an_epoch_check_is_caught() {
    caught(Fault::NoEpochCheck, &["twice", "after a later one was prepared"]);
}

/// Here the machine itself must notice, and stop before anything is published.
#[test]
fn different_rows_of_a_repeated_batch_stop_the_query() {
    caught(Fault::OtherRowsWhenRepeated, &["the query failed: batch"]);
}

#[test]
fn a_lost_state_delta_is_caught() {
    caught(Fault::LostStateDelta, &["state of shard", "the keyed sink holds", "different state", "different rows"]);
}

#[test]
fn an_offset_regress_is_caught() {
    caught(Fault::OffsetRegress, &["does not go from", "went back", "other positions"]);
}

#[test]
fn a_skipped_replay_is_caught() {
    caught(Fault::SkippedReplay, &["while some writers do not hold it"]);
}

#[test]
fn a_tombstone_after_its_upsert_is_caught() {
    caught(Fault::TombstoneAfterUpsert, &["the keyed sink holds"]);
}

#[test]
fn forgotten_writers_are_caught() {
    caught(Fault::ForgottenWriters, &["while a transaction of an earlier one was open"]);
}

/// Whatever records the head store has lost, and whichever writers they had, the query stops before it writes.
#[test]
fn a_head_that_went_back_stops_the_query_in_every_schedule() {
    let mut stopped = 0;
    for seed in 0..SCHEDULES / 5 {
        if let Some(message) = run(seed, Some(Fault::HeadGoesBack), false).violation {
            assert!(message.contains("the query failed: the sink is ahead"), "seed {seed}: {message}");
            stopped += 1;
        }
    }
    assert!(stopped > 200, "only {stopped} heads went back");
}

#[test]
fn the_overlay_of_another_attempt_is_caught() {
    caught(Fault::WrongOverlay, &["state of shard"]);
}
