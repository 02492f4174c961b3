#!/usr/bin/env bash
# deploy/tls/make_certificates.sh: what it writes is what it says, what is there is never overwritten, and a daemon
# takes a pair that was renewed without a restart.
set -euo pipefail
work=$(mktemp -d /tmp/zerocp-certificates.XXXXXX)
daemon=''
clean_up() {
  [[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true
  wait || true
  rm -rf "$work"
}
trap clean_up EXIT
cd "$work"
die() {
  echo "certificates_test: $*" >&2
  cat log error 2>/dev/null || true
  exit 1
}
make() { "$ZEROCP_SOURCE_DIR/deploy/tls/make_certificates.sh" "$@"; }
# refuses TEXT ARGUMENT...: says so, and changes no file.
refuses() {
  local text=$1 before
  shift
  before=$(find . -type f ! -name error -exec sha256sum {} + | sort)
  if make "$@" >/dev/null 2>error; then die "it does not refuse: $*"; fi
  grep -qF -- "$text" error || die "$* is refused without: $text"
  [[ $before == "$(find . -type f ! -name error -exec sha256sum {} + | sort)" ]] || die "$*: refused, and files have changed"
}
valid() { openssl verify -CAfile tls/ca.pem -purpose "$1" "tls/$2.pem" >/dev/null 2>&1; } # PURPOSE FILE
# lasts FILE DAYS: valid until then, and not a day longer.
lasts() {
  openssl x509 -noout -checkend $(($2 * 86400 - 3600)) -in "tls/$1.pem" >/dev/null || die "$1 is valid for less than $2 days"
  if openssl x509 -noout -checkend $(($2 * 86400 + 60)) -in "tls/$1.pem" >/dev/null; then die "$1 is valid for more than $2 days"; fi
}

admin=spiffe://example.org/operator
(umask 0 && make --server IP:127.0.0.1,DNS:localhost --client "operator=URI:$admin" tls >made)
[[ $(cd tls && stat -c '%a %n' ./*) == $'600 ./ca.key\n644 ./ca.pem\n600 ./operator.key\n644 ./operator.pem\n600 ./server.key\n644 ./server.pem' ]] ||
  die "files or modes: $(stat -c '%a %n' tls/*)"
[[ -z $(find tls -name '.*') ]] || die "it leaves files behind"
lasts server 90
lasts ca 3650
valid sslserver server || die "the server's certificate is not a server's"
valid sslclient operator || die "the client's certificate is not a client's"
! valid sslclient server || die "the server can pretend to be a client"
! valid sslserver operator || die "a client can pretend to be the server"
! valid sslclient ca || die "the authority can pretend to be a client"
[[ $(cut -d, -f1 made | sort) == "tls/operator.pem: URI:$admin"$'\n'"tls/server.pem: IP:127.0.0.1" ]] || die "it says: $(cat made)"

refuses 'remove both' --client "operator=URI:$admin" tls
refuses 'remove both' --client new=DNS:new.example.org --server IP:127.0.0.1 tls
refuses 'fewer --days' --days 3700 --client new=DNS:new.example.org tls
refuses 'nothing to make' tls
refuses 'Name a DIRECTORY' --server IP:127.0.0.1
refuses 'not FILE=NAME' --client ../new=DNS:new.example.org tls
refuses 'not FILE=NAME' --client new tls
refuses 'choose another FILE' --client ca=DNS:new.example.org tls
refuses 'each URI:' --client new=new.example.org tls
refuses 'number of days' --days 0 --client new=DNS:new.example.org tls
refuses "unknown option '--force'" --force --client new=DNS:new.example.org tls
mv tls/ca.key key
refuses 'both are needed' --client new=DNS:new.example.org tls
mv key tls/ca.key

# The same authority, days later: another client, and a new pair for the server.
make --days 7 --client monitoring=DNS:monitoring.example.org tls >/dev/null
lasts monitoring 7
valid sslclient monitoring || die "a second run does not use the authority that is there"
"$ZEROCP_BIN_DIR/zerocpd" --runtime-dir run --on-stop=unlink --pool video=4KiBx4 --tls-listen 127.0.0.1:0 --tls-cert tls/server.pem \
  --tls-key tls/server.key --tls-ca tls/ca.pem --tls-admin "$admin" --tls-observer monitoring.example.org --metrics-listen 0 >log 2>&1 &
daemon=$!
until grep -q ready: log; do
  kill -0 "$daemon" || die "no daemon"
  sleep 0.01
done
tls=$(sed -nE 's/.* TLS on ([0-9.]+:[0-9]+): .*/\1/p' log)
zerocp() { # NAME WORD...: as that client
  local name=$1
  shift
  "$ZEROCP_BIN_DIR/zerocp" "$@" --address "$tls" --tls-ca tls/ca.pem --tls-cert "tls/$name.pem" --tls-key "tls/$name.key"
}
zerocp operator pools create audio 4KiB 4 >/dev/null 2>error || die "the operator may not administer"
zerocp monitoring pools >/dev/null 2>error || die "the observer may not read"
if zerocp monitoring pools delete audio >/dev/null 2>error; then die "the observer may administer"; fi
rm tls/server.pem tls/server.key
make --days 30 --server IP:127.0.0.1 tls >/dev/null
wanted=$(date -d "$(openssl x509 -noout -enddate -in tls/server.pem | cut -d= -f2)" +%s)
metrics=$(sed -nE 's|.*metrics: (http://[^ ]*/metrics).*|\1|p' log)
until python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())' "$metrics" |
  awk '$1 == "zerocp_tls_certificate_expiry_seconds" { printf "%d\n", $2 }' | grep -qx "$wanted"; do
  kill -0 "$daemon" || die "the daemon has ended"
  sleep 0.1
done
zerocp operator info >/dev/null 2>error || die "no connection with the new pair"
kill "$daemon"
wait "$daemon" || die "the daemon ended with $?"
daemon=''
echo "certificates_test: OK"
