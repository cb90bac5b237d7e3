#!/usr/bin/env bash
# Installs what the build or the tests need and this machine lacks. Does nothing where nothing is missing.
#   scripts/setup.sh build|java|duckdb
set -euo pipefail

need=()
command_or() { command -v "$1" >/dev/null 2>&1 || need+=("$2"); }

# Kafka 4 wants Java 17 or newer.
java_is_new_enough() {
  local version
  version=$(java -version 2>&1 | sed -nE '1s/.*version "([0-9]+).*/\1/p') || return 1
  [ -n "$version" ] && [ "$version" -ge 17 ]
}

case "${1:-}" in
  build)
    command_or gcc gcc
    command_or g++ g++
    command_or make make
    # OpenSSL's build asks for more of Perl than the part every Debian has.
    perl -MIPC::Cmd -MFindBin -MFile::Compare -e 1 2>/dev/null || need+=(perl)
    ;;
  java)
    java_is_new_enough || need+=(openjdk-17-jre-headless)
    command_or mvn maven
    # The tests have it read docker-compose.yml; nothing is run by it.
    command_or docker-compose docker-compose
    ;;
  duckdb)
    # Python of Debian comes without the part that makes environments.
    command_or python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || need+=(python3-venv)
    ;;
  *)
    echo "usage: $0 build|java|duckdb" >&2
    exit 2
    ;;
esac

if ! command -v cargo >/dev/null 2>&1; then
  echo "cargo is missing: install Rust 1.94 or newer (https://rustup.rs), then try again" >&2
  exit 1
fi
[ ${#need[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
  echo "missing: ${need[*]}; install them with this system's package manager, then try again" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
echo "installing ${need[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# Another Java may be the only one this release of Debian has.
if [[ " ${need[*]} " == *" openjdk-17-jre-headless "* ]]; then
  "${as_root[@]}" apt-get update -q >&2
  if ! apt-cache show openjdk-17-jre-headless >/dev/null 2>&1; then
    need=("${need[@]/openjdk-17-jre-headless/default-jre-headless}")
  fi
else
  "${as_root[@]}" apt-get update -q >&2
fi
"${as_root[@]}" apt-get install -q -y --no-install-recommends "${need[@]}" >&2
