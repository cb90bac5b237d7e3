#!/bin/sh
# Runs a command of highwater with the token of a role: as.sh viewer|operator|admin COMMAND…
set -eu
role=$1
shift
HIGHWATER_TOKEN=$(cat "${HIGHWATER_CLIENTS:-/clients}/$role.token")
export HIGHWATER_TOKEN
exec highwater "$@"
