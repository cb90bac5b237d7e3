#!/bin/bash
# Makes the topic of docker-compose.yml's example and writes a card payment to it about every 20 ms.
set -eu
broker=kafka:19092
bin=/opt/kafka/bin
"$bin"/kafka-topics.sh --bootstrap-server "$broker" --create --if-not-exists --topic card_payments --partitions 6

categories=(fuel groceries restaurants travel electronics)
countries=(DE FR GB JP US BR)
generate() {
  local id=0
  while true; do
    local card=$((RANDOM % 2000)) category=${categories[RANDOM % 5]} country=${countries[RANDOM % 6]}
    printf 'card-%04d\t{"id":%d,"card":"card-%04d","merchant":"shop-%d","category":"%s","country":"%s","home":"%s","amount":%d.%02d,"ts":"%(%Y-%m-%dT%H:%M:%S)T"}\n' \
      "$card" "$id" "$card" "$((RANDOM % 20))" "$category" "$country" "${countries[card % 6]}" \
      "$((RANDOM % 300 + 1))" "$((RANDOM % 100))" -1
    id=$((id + 1))
    sleep 0.02
  done
}
export TZ=UTC
generate | "$bin"/kafka-console-producer.sh --bootstrap-server "$broker" --topic card_payments \
  --property parse.key=true --property key.separator=$'\t'
