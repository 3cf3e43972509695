#!/bin/sh
# Makes the passwords and the files that carry them, in secrets/ beside this script (or in $1).
#
#   NAME-password   one for each user of users.acl but `default`, one for the sentinels themselves,
#                   and one for Grafana
#   users.acl       the users, switched on, with the hashes of their passwords
#   exporter.json   the exporter's passwords
#   replication.conf, sentinel.conf
#                   what servers that fail over, and their sentinels, log in to each other with;
#                   sentinels know the user `exporter` besides, who may look and nothing else
#
# A password that is there stays: delete its file and run this again to change it. Containers read
# these files as users of their own, so the files are readable and the directory is closed.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
out=${1:-$here/secrets}
mkdir -p "$out"
chmod 700 "$out"
umask 022

password() {
  if [ ! -s "$out/$1-password" ]; then
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$out/$1-password"
  fi
  cat "$out/$1-password"
}

: >"$out/users.acl.new"
while read -r word user state rest; do
  if [ "$user" = default ]; then
    echo "$word $user $state $rest"
  else
    hash=$(password "$user" | sha256sum | cut -d' ' -f1)
    # After `resetpass`, which would take it away again.
    echo "$word $user on $rest #$hash"
  fi >>"$out/users.acl.new"
done <"$here/users.acl"
mv "$out/users.acl.new" "$out/users.acl"

exporter=$(password exporter)
{
  echo '{'
  # Newer exporters look for the name of the user as well, Debian's 1.45 for the address alone.
  for place in cache:6379 cache-1:6379 cache-2:6379 cache-3:6379 state-1:6379 state-2:6379 \
    state-3:6379 node-1:6379 node-2:6379 node-3:6379 node-4:6379 node-5:6379 node-6:6379 \
    sentinel-1:26379 sentinel-2:26379 sentinel-3:26379; do
    echo "  \"redis://exporter@$place\": \"$exporter\","
    echo "  \"redis://$place\": \"$exporter\","
  done
  echo "  \"redis://exporter@state:6379\": \"$exporter\","
  echo "  \"redis://state:6379\": \"$exporter\""
  echo '}'
} >"$out/exporter.json"

cat >"$out/replication.conf" <<CONF
masteruser replica
masterauth $(password replica)
CONF

sentinels=$(password sentinels)
{
  echo "requirepass $sentinels"
  echo "sentinel sentinel-pass $sentinels"
  echo "user exporter on resetchannels -@all +ping +hello +auth +client|setname +info" \
    "+sentinel|master +sentinel|masters +sentinel|replicas +sentinel|slaves" \
    "+sentinel|sentinels +sentinel|ckquorum" \
    "#$(printf %s "$exporter" | sha256sum | cut -d' ' -f1)"
  for group in trading-redis trading-state; do
    echo "sentinel auth-user $group sentinel"
    echo "sentinel auth-pass $group $(password sentinel)"
  done
} >"$out/sentinel.conf"

password grafana >/dev/null
echo "made $out"
