#!/usr/bin/env bash
# Random queries against the batch answer first, then kills and hangs of processes at random under load on a real
# Kafka, whose output must stay exact. Arguments go to the second program: --minutes N, --seed S.
# PROPTEST_CASES: random cases of each kind (20000). FUZZ_SECONDS: time of each fuzz target (300). A failure prints the seed
# that makes its case again.
set -euo pipefail
cd "$(dirname "$0")/.."
# As the tests are built, so that nothing is built twice.
cargo build --locked --workspace --all-targets
PROPTEST_CASES="${PROPTEST_CASES:-20000}" \
  cargo test --locked --workspace --test oracle -- --nocapture hold
# Fuzz targets: each for FUZZ_SECONDS (300), from a seed of its own that a failure prints.
BOLERO_RANDOM_SEED="$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')" BOLERO_RANDOM_TEST_TIME_MS="$((${FUZZ_SECONDS:-300} * 1000))" \
  cargo test --locked --workspace --lib --test oracle -- --nocapture fuzz_
exec "${CARGO_TARGET_DIR:-target}"/debug/examples/chaos "$@"
