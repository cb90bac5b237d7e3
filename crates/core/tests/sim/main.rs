//! A seeded simulation of the exactly-once protocol: the real query machine and participants in a simulated world
//! of drivers, executors, brokers and a head store, any of which may fail at any step.
//!
//! Owns: the tests. A schedule follows from one number; to replay one that failed, with its trace:
//! `HIGHWATER_SIM_SEED=n cargo test -p highwater-core --test sim one_seed -- --nocapture`.

#![allow(clippy::unwrap_used)]

mod broker;
mod chaos;
mod check;
mod driver;
mod executor;
mod store;
mod tasks;
mod types;
mod world;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use types::{Coverage, Fault};
use world::run;

const SCHEDULES: u64 = 10_000;

/// Runs seeds `0..count` on two threads; the lowest seed that ended in a violation, if any, and what happened.
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

#[test]
fn ten_thousand_schedules_are_exact() {
    let (found, coverage) = explore(SCHEDULES, None);
    if let Some((seed, message)) = found {
        let outcome = run(seed, None, true);
        let last = outcome.trace.len().saturating_sub(80);
        panic!(
            "seed {seed}: {message}\n...\n{}\nreplay: HIGHWATER_SIM_SEED={seed} cargo test -p highwater-core --test \
             sim one_seed -- --nocapture",
            outcome.trace[last..].join("\n")
        );
    }
    for (what, count) in &coverage.0 {
        println!("{count:>9} {what}");
    }
}

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
    let different: std::collections::BTreeSet<&u64> = hashes.iter().collect();
    assert_eq!(different.len(), hashes.len());
}
