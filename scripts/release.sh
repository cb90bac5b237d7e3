#!/usr/bin/env bash
# Builds the release binary with symbols and line tables, and moves those into a file beside it: target/release/highwater
# and target/release/highwater.debug. Debuggers, profilers and backtraces find the file by the link in the binary.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${CARGO_TARGET_DIR:-target}/release"
# The same dependencies as of `cargo build --release`; only the binary is linked once more, unstripped.
cargo rustc --locked --release -p highwater --bin highwater -- -C strip=none
objcopy --only-keep-debug "$out/highwater" "$out/highwater.debug"
objcopy --strip-all "$out/highwater"
(cd "$out" && objcopy --add-gnu-debuglink=highwater.debug highwater)
ls -l "$out/highwater" "$out/highwater.debug" | awk '{ printf "%s: %.0f MiB\n", $NF, $5 / 1048576 }'
