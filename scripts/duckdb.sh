#!/bin/sh
# DuckDB from its Python package, to compare the answers of Nexmark with. Prints the Python that has it.
#
# It is kept in $HIGHWATER_DUCKDB_HOME (default: target/duckdb), a virtual environment of its own. Needs Python 3 with
# venv, and pip's package index once.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
version=2.0.1
home=${HIGHWATER_DUCKDB_HOME:-$here/../target/duckdb}
python="$home/duckdb-$version/bin/python"

fail() {
  echo "duckdb.sh: $*" >&2
  exit 1
}

if ! "$python" -c 'import duckdb' 2>/dev/null; then
  command -v python3 >/dev/null 2>&1 || fail "python3 is not installed (Debian: apt-get install python3 python3-venv)"
  mkdir -p "$home"
  echo "fetching DuckDB $version into $home (once)" >&2
  # Beside it and then renamed would not do: an environment knows its own path.
  rm -rf "$home/duckdb-$version"
  python3 -m venv "$home/duckdb-$version" >"$home/venv.log" 2>&1 ||
    { cat "$home/venv.log" >&2; fail "cannot make a virtual environment (Debian: apt-get install python3-venv)"; }
  "$python" -m pip install -q --disable-pip-version-check "duckdb==$version" >"$home/pip.log" 2>&1 ||
    { cat "$home/pip.log" >&2; fail "pip could not fetch DuckDB $version (its output is above)"; }
fi
echo "$python"
