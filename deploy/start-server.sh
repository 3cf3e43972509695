#!/bin/sh
# Starts a server of a group that fails over: a primary and its replicas.
#
#   start-server.sh CONF...     such as /etc/valkey/redis-state.conf /etc/valkey/redis-state-ha.conf
#
# A sentinel changes a server's role and has it write that down, so the server runs from a file of
# its own in DATA. It is made at the first start and never again: started anew, a primary that was
# replaced comes back as the replica it has become, not as a second primary with old data. To begin
# anew, delete the file.
#
#   DATA       its data and its file (/data)
#   NAME       the name it tells the others: theirs must resolve it
#   PRIMARY    host and port of the group's first primary, such as "state-1 6379"; empty for itself
#   SECRETS    where users.acl and replication.conf are, as make-secrets.sh makes them (/run/secrets)
#   PORT       6379
#   MEMORY     maxmemory, such as 4gb; that of CONF if it is not set
#   SERVER     the program (valkey-server, or redis-server where there is none)
set -eu
data=${DATA:-/data}
secrets=${SECRETS:-/run/secrets}
server=${SERVER:-$(command -v valkey-server || command -v redis-server)}
own=$data/server.conf

if [ ! -s "$own" ]; then
  umask 077
  {
    for conf; do echo "include $conf"; done
    echo "include $secrets/replication.conf"
    echo "aclfile $secrets/users.acl"
    echo "dir $data"
    echo "port ${PORT:-6379}"
    [ -z "${NAME:-}" ] || printf '%s\n' "replica-announce-ip $NAME" "cluster-announce-hostname $NAME"
    [ -z "${MEMORY:-}" ] || echo "maxmemory $MEMORY"
    [ -z "${PRIMARY:-}" ] || echo "replicaof $PRIMARY"
  } >"$own.new"
  mv "$own.new" "$own"
fi
exec "$server" "$own"
