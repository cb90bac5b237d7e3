//! Random cases, each with a seed that reproduces it.
//!
//! Owns: the number of cases (`PROPTEST_CASES`), their first seed (`HIGHWATER_SEED`), shrinking, the text of a failure.
//! Does not own: the cases. Invariants: the seed printed with a failure, set as `HIGHWATER_SEED`, runs the same
//! case first; without `PROPTEST_CASES` every run has the same cases, with it new ones.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use std::hash::{BuildHasher, RandomState};

/// Runs a test on its share of random cases: `PROPTEST_CASES`, or `default`, divided by `parts`.
pub fn for_all<S: Strategy>(
    name: &str,
    (default, parts): (u32, u32),
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), String>,
) {
    let wanted = number("PROPTEST_CASES");
    let cases = wanted.map_or(default, |cases| cases as u32).div_ceil(parts);
    let first = number("HIGHWATER_SEED").unwrap_or_else(|| match wanted {
        Some(_) => RandomState::new().hash_one(name) >> 16,
        // Far enough from each other for names that differ.
        None => xxhash_rust::xxh3::xxh3_64(name.as_bytes()) >> 16,
    });
    for seed in first..first + u64::from(cases) {
        let mut runner = runner(seed);
        let outcome = runner.run(strategy, |case| test(case).map_err(TestCaseError::fail));
        let Err(error) = outcome else { continue };
        let again = format!(
            "again: HIGHWATER_SEED={seed} PROPTEST_CASES=1 cargo test --workspace --test oracle -- {name} --exact"
        );
        match error {
            TestError::Fail(reason, case) => panic!("{reason}\n{again}\nsmallest case found: {case:#?}"),
            TestError::Abort(reason) => panic!("{reason}\n{again}"),
        }
    }
}

/// Returns cases that are the same in every run, independent of the environment.
pub fn fixed<S: Strategy>(count: u32, strategy: &S) -> impl Iterator<Item = S::Value> {
    (0..u64::from(count)).map(|seed| strategy.new_tree(&mut runner(seed)).unwrap().current())
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: 1, max_shrink_iters: 3_000, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}
