#!/usr/bin/env bash
# Random queries against the batch answer first, then kills and hangs of processes at random under load on a real
# Kafka, whose output must stay exact. Arguments go to the second program: --minutes N, --seed S.
# PROPTEST_CASES: random cases of each kind (20000). A failure prints the seed that makes its case again.
set -euo pipefail
cd "$(dirname "$0")/.."
# As the tests are built, so that nothing is built twice.
cargo build --locked --workspace --all-targets --features crash-points
PROPTEST_CASES="${PROPTEST_CASES:-20000}" \
  cargo test --locked --workspace --features crash-points --test oracle -- --nocapture hold
exec "${CARGO_TARGET_DIR:-target}"/debug/examples/chaos "$@"
