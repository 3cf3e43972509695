#!/bin/sh
# Joins nodes to a cluster: primaries and one replica for each. A cluster that is there stays.
#
#   make-cluster.sh HOST:PORT...      six or more nodes that run with redis-cluster.conf
#
#   ADMIN_PASSWORD_FILE    the password of the user `admin` (/run/secrets/admin-password)
set -eu
cli=$(command -v valkey-cli || command -v redis-cli)
REDISCLI_AUTH=$(cat "${ADMIN_PASSWORD_FILE:-/run/secrets/admin-password}")
export REDISCLI_AUTH

nodes=
for node; do
  host=${node%:*} port=${node##*:}
  # Nodes meet by address; the names they announce are for clients.
  address=$(getent hosts "$host" | awk '{print $1; exit}')
  until [ "$("$cli" -e --no-auth-warning --user admin -h "$address" -p "$port" ping)" = PONG ]; do
    sleep 0.2
  done
  nodes="$nodes $address:$port"
done

first=${nodes# }
first=${first%% *}
if "$cli" -e --no-auth-warning --user admin -h "${first%:*}" -p "${first##*:}" cluster info |
  grep -q '^cluster_slots_assigned:16384'; then
  echo "the cluster is there"
  exit 0
fi
# shellcheck disable=SC2086 # one word for each node
"$cli" --no-auth-warning --user admin --cluster create $nodes --cluster-replicas 1 --cluster-yes
