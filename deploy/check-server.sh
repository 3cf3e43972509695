#!/bin/sh
# Healthcheck of a server: succeeds only if it answers PONG to the user `health`.
#
# `redis-cli ping` alone exits 0 when it is refused for want of a password.
set -eu
cli=$(command -v valkey-cli || command -v redis-cli)
REDISCLI_AUTH=$(cat "${HEALTH_PASSWORD_FILE:-/run/secrets/health-password}")
export REDISCLI_AUTH
answer=$("$cli" -e -h "${HEALTH_HOST:-127.0.0.1}" -p "${HEALTH_PORT:-6379}" --user health ping)
[ "$answer" = PONG ]
