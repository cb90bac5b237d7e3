#!/usr/bin/env bash
# Kills and hangs processes at random under load on a real Kafka, and checks that the output stays exact.
# Arguments go to the program: --minutes N, --seed S.
set -euo pipefail
cd "$(dirname "$0")/.."
# As the tests are built, so that nothing is built twice.
cargo build --locked --workspace --all-targets --features crash-points
exec "${CARGO_TARGET_DIR:-target}"/debug/examples/chaos "$@"
