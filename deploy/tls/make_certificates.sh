#!/usr/bin/env bash
# A certificate authority for one's own machines, and the certificates that it signs.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: deploy/tls/make_certificates.sh [--days N] [--server NAME[,NAME...]] [--client FILE=NAME]... DIRECTORY

Writes certificates for zerocpd's TLS listener and its clients into DIRECTORY, signed by the authority there (ca.pem
and ca.key), which is made if it is missing. For tests and small installations: ca.key signs whatever its holder likes.

  --server NAME,...    server.pem and server.key of the daemon: what its clients call it (DNS:desk.example.org,
                       IP:192.0.2.7)
  --client FILE=NAME   FILE.pem and FILE.key of a client: the name to which --tls-admin or --tls-observer of zerocpd
                       gives a role (URI:spiffe://example.org/operator, DNS:monitoring.example.org)
  --days N             how long they are valid (default 90). The authority is for ten years, and signs nothing that
                       would outlive it
  --help               this text

Keys have mode 0600. A file that exists is an error, and nothing is written: to renew, remove the pair first. A daemon
that runs goes on with the old one, and takes the new one within seconds.

Examples:
  deploy/tls/make_certificates.sh --server DNS:desk.example.org --client operator=URI:spiffe://example.org/operator tls
  deploy/tls/make_certificates.sh --days 7 --client monitoring=DNS:monitoring.example.org tls
USAGE
}

die() {
  echo "make_certificates: $*" >&2
  exit 1
}

authority_days=3650
days=90 directory='' server=''
declare -A names=() # what a file's certificate is for
while [[ $# -gt 0 ]]; do
  case $1 in
    --help | -h)
      usage
      exit 0
      ;;
    --days | --server | --client)
      [[ $# -ge 2 ]] || die "$1 needs a value; --help shows examples"
      case $1 in
        --days) days=$2 ;;
        --server) server=$2 ;;
        --client)
          file=${2%%=*}
          [[ $2 == *=* && $file =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || die "'$2' is not FILE=NAME, like operator=URI:spiffe://example.org/operator"
          [[ $file != ca && $file != server ]] || die "$file.pem is not a client's: choose another FILE than '$file'"
          [[ -z ${names[$file]:-} ]] || die "--client $file is there twice"
          names[$file]=${2#*=}
          ;;
      esac
      shift
      ;;
    -*) die "unknown option '$1'; --help shows examples" ;;
    *)
      [[ -z $directory ]] || die "one DIRECTORY, not '$directory' and '$1'"
      directory=$1
      ;;
  esac
  shift
done
[[ -n $directory ]] || die "where to? Name a DIRECTORY; --help shows examples"
[[ $days =~ ^[1-9][0-9]{0,3}$ ]] || die "--days $days is not a number of days, 1 to 9999"
[[ -z $server ]] || names[server]=$server
[[ ${#names[@]} -gt 0 ]] || die "nothing to make: name a --server or a --client; --help shows examples"
for name in "${names[@]}"; do
  [[ $name =~ ^(URI|DNS|IP):[^,\ ]+(,(URI|DNS|IP):[^,\ ]+)*$ ]] || die "'$name' is not a list of names, each URI:..., DNS:... or IP:..."
done
command -v openssl >/dev/null || die "there is no openssl: apt-get install openssl"

mkdir -p "$directory"
cd "$directory"
for file in "${!names[@]}"; do
  [[ ! -e $file.pem && ! -e $file.key ]] || die "$directory/$file.pem or $file.key exists; remove both to make new ones"
done
if [[ -e ca.pem || -e ca.key ]] && [[ ! -r ca.pem || ! -r ca.key ]]; then
  die "$directory has one of ca.pem and ca.key, or they cannot be read: both are needed to sign"
fi

work=$(mktemp -d ./.new.XXXXXX)
trap 'rm -rf "$work"' EXIT
cat >"$work/config" <<'CONFIG'
[req]
distinguished_name = none
[none]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = serverAuth
[client]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = clientAuth
CONFIG

# certificate FILE SECTION DAYS OPTION...: of a new key.
certificate() {
  local file=$1 section=$2 valid=$3
  shift 3
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/$file.key"
  openssl req -x509 -new -config "$work/config" -extensions "$section" -sha256 -days "$valid" -key "$work/$file.key" \
    -subj "/CN=zerocp $file" -out "$work/$file.pem" "$@" 2>"$work/error" || die "openssl: $(cat "$work/error")"
  chmod 0644 "$work/$file.pem"
}

authority=.
if [[ ! -e ca.pem ]]; then
  certificate ca authority "$authority_days"
  authority=$work
fi
openssl x509 -noout -checkend $((days * 24 * 3600)) -in "$authority/ca.pem" >/dev/null ||
  die "$directory/ca.pem is valid until $(openssl x509 -noout -enddate -in "$authority/ca.pem" | cut -d= -f2), which is less than $days days: choose fewer --days, or another DIRECTORY for another authority"
for file in "${!names[@]}"; do
  section=client
  [[ $file != server ]] || section=server
  certificate "$file" "$section" "$days" -CA "$authority/ca.pem" -CAkey "$authority/ca.key" -addext "subjectAltName=${names[$file]}"
done
mv -n "$work"/*.key "$work"/*.pem .
for file in "${!names[@]}"; do
  echo "$directory/$file.pem: ${names[$file]}, until $(openssl x509 -noout -enddate -in "$file.pem" | cut -d= -f2)"
done
