#!/bin/bash
# Makes what docker-compose.yml's cluster is secured with: a CA, a certificate for the driver and for each executor,
# and a token for each role of clients. Once: what is there stays. The argument is the folder of the folders.
set -eu
root=${1:-}
[ -e "$root/clients/ca.pem" ] && exit 0
umask 077

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=highwater-ca \
  -keyout "$root/ca/ca.key" -out "$root/ca/ca.pem"

issue() {
  local folder=$root/$1 name=$2
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" \
    -keyout "$folder/$name.key" -out "$root/ca/$name.csr"
  openssl x509 -req -in "$root/ca/$name.csr" -CA "$root/ca/ca.pem" -CAkey "$root/ca/ca.key" -CAcreateserial -days 825 \
    -extfile <(printf 'subjectAltName=DNS:%s,DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' "$name") \
    -out "$folder/$name.pem"
}
issue driver driver
for number in 1 2 3; do issue executors "executor-$number"; done

: > "$root/driver/tokens.toml"
for role in viewer operator admin; do
  token=$(openssl rand -hex 32)
  printf '%s' "$token" > "$root/clients/$role.token"
  printf '[[token]]\nname = "%s"\nrole = "%s"\nsha256 = "%s"\n\n' \
    "$role" "$role" "$(printf '%s' "$token" | sha256sum | cut -d ' ' -f 1)" >> "$root/driver/tokens.toml"
done

for folder in driver executors clients; do cp "$root/ca/ca.pem" "$root/$folder/ca.pem"; done
# The user of the image. Not root where somebody tries this script by hand.
[ "$(id -u)" -ne 0 ] || chown -R 10001 "$root/driver" "$root/executors" "$root/clients"
