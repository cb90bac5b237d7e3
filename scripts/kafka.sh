#!/bin/sh
# A real Apache Kafka broker (KRaft, no ZooKeeper) from its Maven Central jars, for tests and for trying Highwater.
#
#   scripts/kafka.sh run [--port 9092] [--data-dir DIR]   one broker in the foreground, ended by ^C
#   scripts/kafka.sh jars                                 fetches the jars, prints their folder
#   scripts/kafka.sh broker server.properties             formats if needed, then becomes the broker
#
# The jars are kept in $HIGHWATER_KAFKA_HOME (default: target/kafka). Needs Java 17 or newer, and Maven once.
# KAFKA_HEAP_OPTS and KAFKA_JVM_OPTS replace the defaults below.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
pom="$here/kafka/pom.xml"
version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$pom")
home=${HIGHWATER_KAFKA_HOME:-$here/../target/kafka}
jars="$home/kafka-$version"

fail() {
  echo "kafka.sh: $*" >&2
  exit 1
}

check_java() {
  command -v java >/dev/null 2>&1 || fail "java is not installed; install Java 17 or newer (Debian: apt-get install openjdk-17-jre-headless)"
  major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
  [ "${major:-0}" -ge 17 ] || fail "Kafka $version needs Java 17 or newer, this is Java ${major:-unknown}"
}

fetch() {
  [ -d "$jars" ] && return
  command -v mvn >/dev/null 2>&1 || fail "mvn is not installed and the jars of Kafka $version are not in $jars; install Maven (Debian: apt-get install maven), or set HIGHWATER_KAFKA_HOME to a folder that has kafka-$version"
  echo "fetching Apache Kafka $version into $jars (once)" >&2
  # Into a folder of its own, then renamed: an interrupted download is never mistaken for a whole one.
  partial="$jars.partial.$$"
  rm -rf "$partial"
  mvn -q -B -C -f "$pom" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$partial" >"$home/mvn.log" 2>&1 ||
    { cat "$home/mvn.log" >&2; fail "Maven could not fetch Kafka $version (its output is above)"; }
  mv "$partial" "$jars"
}

ensure_jars() {
  check_java
  [ -d "$jars" ] && return
  mkdir -p "$home"
  if command -v flock >/dev/null 2>&1; then
    # Several test binaries may start at once: one fetches, the others wait.
    exec 9>"$home/lock"
    flock 9
    fetch
    exec 9>&-
  else
    fetch
  fi
}

java_kafka() {
  # Fast to start rather than fast at its peak, and small. The class path is a wildcard: the JVM expands it.
  exec java ${KAFKA_HEAP_OPTS:--Xms128m -Xmx512m} ${KAFKA_JVM_OPTS:--XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto} \
    -Djava.awt.headless=true -Dlog4j2.configurationFile="$here/kafka/log4j2.xml" -cp "$jars/*" "$@"
}

property() {
  sed -n "s/^$1=//p" "$2" | tail -n 1
}

format() {
  data=$(property log.dirs "$1")
  [ -n "$data" ] || fail "$1 has no log.dirs"
  [ -f "$data/meta.properties" ] && return
  cluster=$(property highwater.cluster.id "$1")
  config=$1
  # Users of SCRAM are there from the first start, or never: MECHANISM=[name=…,password=…], separated by spaces.
  set --
  for user in $(property highwater.scram "$config"); do set -- "$@" --add-scram "$user"; done
  (java_kafka kafka.tools.StorageTool format --ignore-formatted -t "${cluster:-highwater-kafka-0000A}" -c "$config" "$@") >/dev/null ||
    fail "could not format $data"
}

broker() {
  ensure_jars
  format "$1"
  # Word by word: options of the JVM.
  # shellcheck disable=SC2046
  java_kafka $(property highwater.jvm.options "$1") kafka.Kafka "$1"
}

run() {
  port=9092
  data="$home/data"
  while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1 needs a value"
    case $1 in
      --port) port=$2 ;;
      --data-dir) data=$2 ;;
      *) fail "unknown option $1; see the head of this file" ;;
    esac
    shift 2
  done
  mkdir -p "$data"
  config="$data/server.properties"
  controller=$((port + 1))
  {
    cat "$here/kafka/server.properties"
    cat <<PROPERTIES
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://localhost:$port
log.dirs=$data/logs
PROPERTIES
  } >"$config"
  echo "Apache Kafka $version at localhost:$port, data in $data; ^C ends it" >&2
  broker "$config"
}

command=${1:-}
[ $# -gt 0 ] && shift
case $command in
  jars) ensure_jars && (cd "$jars" && pwd) ;;
  broker) [ $# -eq 1 ] || fail "usage: kafka.sh broker server.properties"; broker "$1" ;;
  run) run "$@" ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
