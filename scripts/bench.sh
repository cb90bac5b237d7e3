#!/usr/bin/env bash
# Measures the release build on a real Kafka: throughput, latency, recovery, Nexmark. Arguments go to the benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked --release -p highwater --bin highwater --example bench
exec "${CARGO_TARGET_DIR:-target}"/release/examples/bench "$@"
