#!/bin/sh
# Starts a sentinel from a copy of its file, which it writes what it learns into.
#
#   start-sentinel.sh CONF      such as /etc/valkey/sentinel.conf
#
#   DATA       the copy and its directory (/data)
#   NAME       the name it tells the others and the clients: theirs must resolve it
#   PORT       26379
#   SECRETS    where sentinel.conf is, as make-secrets.sh makes it (/run/secrets)
#   SERVER     the program (valkey-server, or redis-server where there is none)
set -eu
conf=$1
data=${DATA:-/data}
secrets=${SECRETS:-/run/secrets}
server=${SERVER:-$(command -v valkey-server || command -v redis-server)}
own=$data/sentinel.conf

if [ ! -s "$own" ]; then
  umask 077
  {
    # Names are only understood after the line that allows them.
    cat "$conf" "$secrets/sentinel.conf"
    echo "dir $data"
    [ -z "${PORT:-}" ] || echo "port $PORT"
    [ -z "${NAME:-}" ] || echo "sentinel announce-ip $NAME"
  } >"$own.new"
  mv "$own.new" "$own"
fi
exec "$server" "$own" --sentinel
