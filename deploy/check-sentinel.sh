#!/bin/sh
# Healthcheck of a sentinel: succeeds only if enough of them see each other to agree on a failover of
# every group that it watches.
set -eu
cli=$(command -v valkey-cli || command -v redis-cli)
REDISCLI_AUTH=$(cat "${SENTINELS_PASSWORD_FILE:-/run/secrets/sentinels-password}")
export REDISCLI_AUTH
for group in ${GROUPS_WATCHED:-trading-redis trading-state}; do
  answer=$("$cli" -e -h "${HEALTH_HOST:-127.0.0.1}" -p "${HEALTH_PORT:-26379}" \
    sentinel ckquorum "$group")
  case $answer in
  OK*) ;;
  *) exit 1 ;;
  esac
done
