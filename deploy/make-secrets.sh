#!/bin/sh
# Makes the passwords and the files that carry them, in secrets/ beside this script (or in $1).
#
#   NAME-password   one for each user of users.acl but `default`, and one for Grafana
#   users.acl       the users, switched on, with the hashes of their passwords
#   exporter.json   the exporter's passwords
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
cat >"$out/exporter.json" <<JSON
{
  "redis://exporter@cache:6379": "$exporter",
  "redis://exporter@state:6379": "$exporter"
}
JSON

password grafana >/dev/null
echo "made $out"
