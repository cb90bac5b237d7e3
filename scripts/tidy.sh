#!/usr/bin/env bash
# What neither the compiler nor clippy looks at: file lengths, module headers, leftovers.
set -euo pipefail
cd "$(dirname "$0")/.."

longest=600
bad=0
complain() {
  echo "tidy: $*" >&2
  bad=1
}

while IFS= read -r file; do
  lines=$(wc -l < "$file")
  [ "$lines" -le "$longest" ] || complain "$file has $lines lines; split it (at most $longest)"
  head -n 1 "$file" | grep -q '^//!' || complain "$file does not begin with a //! header: what it owns, what it does not"
  if grep -nE '\b(todo|unimplemented|dbg)!\(|//.*\b(TODO|FIXME|XXX)\b' "$file" >&2; then
    complain "$file has leftovers"
  fi
done < <(git ls-files 'crates/*.rs')

# `unwrap` is for tests: modules under `#[cfg(test)]`, and everything below a `tests` folder or in testkit.
while IFS= read -r file; do
  case "$file" in */tests/* | */tests.rs | *_tests.rs | */examples/* | crates/testkit/*) continue ;; esac
  found=$(awk '/#\[cfg\(test\)\]/ { exit } /\.unwrap\(\)/ && !/^ *\/\// { print FILENAME ":" FNR ": " $0 }' "$file")
  if [ -n "$found" ]; then
    echo "$found" >&2
    complain "$file unwraps outside its tests"
  fi
done < <(git ls-files 'crates/*.rs')

while IFS= read -r script; do
  bash -n "$script" || complain "$script does not parse"
done < <(git ls-files 'scripts/*.sh' '.ci/run')

[ "$bad" -eq 0 ] && echo "tidy: nothing to complain about"
exit "$bad"
