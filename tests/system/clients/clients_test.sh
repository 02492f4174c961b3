#!/usr/bin/env bash
# One operator's story, lived by a real client over one transport, with a daemon of its own and a local program
# that leaks chunks and is behind. Who called what, and as whom, is read in the daemon's audit log.
#
#   clients_test.sh grpcurl|grpcurl-newest|python|node|go socket|tls
set -euo pipefail
client=$1 transport=$2
tools=${ZEROCP_TOOLS:-/usr/local/lib/zerocp-tools}
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
work=$(mktemp -d /tmp/zerocp-clients.XXXXXX)
daemon='' telling='' leaky='' sender=''
clean_up() {
  local pids=(${telling:+"$telling"} ${leaky:+"$leaky"} ${sender:+"$sender"} ${daemon:+"$daemon"})
  [[ ${#pids[@]} -eq 0 ]] || kill "${pids[@]}" 2>/dev/null || true
  wait || true
  rm -rf "$work"
}
trap clean_up EXIT
die() {
  cat "$work/log" "$work/out" 2>/dev/null || true
  echo "clients_test: $client over $transport: $*" >&2
  exit 1
}

# prepare: generates code where that is the language's way, and sets `story`, the command. Fails with what fails.
prepare() {
  local protos=$ZEROCP_SOURCE_DIR/proto
  case $client in
    grpcurl*) story=(env GRPCURL="$tools/$client" "$here/story.sh") ;;
    python)
      "$tools/python/bin/python" -m grpc_tools.protoc -I"$protos" --python_out="$work" --grpc_python_out="$work" \
        "$protos"/zerocp/v1/*.proto || return
      story=(env PYTHONPATH="$work" "$tools/python/bin/python" "$here/story.py")
      ;;
    node) story=(env NODE_PATH="$tools/node/node_modules" node "$here/story.js" "$protos") ;;
    go)
      mkdir "$work/story" && cd "$work/story" && cp "$here"/{story.go,go.mod,go.sum} . || return
      # What setup has installed, and nothing from the network.
      export GOPATH=$tools/go GOCACHE=$tools/go/cache GOMODCACHE=$tools/go/mod GOFLAGS='' GOPROXY=off GOTOOLCHAIN=local CGO_ENABLED=0
      PATH=$tools/go/bin:$PATH PROTOS=$protos "$tools/go/bin/go" generate || return
      "$tools/go/bin/go" build || return
      story=("$work/story/story")
      ;;
  esac
}

cd "$work"
: >log
listen=()
if [[ $transport == tls ]]; then
  "$ZEROCP_SOURCE_DIR/deploy/tls/make_certificates.sh" --days 1 --server IP:127.0.0.1 \
    --client operator=URI:spiffe://example.org/operator --client observer=DNS:monitoring.example.org . >out 2>&1 ||
    die "no certificates"
  listen=(--tls-listen 127.0.0.1:0 --tls-cert server.pem --tls-key server.key --tls-ca ca.pem
    --tls-admin spiffe://example.org/operator --tls-observer monitoring.example.org)
fi
"$ZEROCP_BIN_DIR/zerocpd" --runtime-dir "$work/run" --on-stop=unlink --pool none=64x1 --channel none=none \
  --audit-log audit "${listen[@]}" >log 2>&1 &
daemon=$!
until grep -q ready: log; do
  kill -0 "$daemon" || die "no daemon"
  sleep 0.01
done
prepare >out 2>&1 || die "cannot prepare the client"
cd "$work"
zerocp() { "$ZEROCP_BIN_DIR/zerocp" "$@" --runtime-dir "$work/run"; }

how=("unix:$work/run/admin.sock") who=admin
if [[ $transport == tls ]]; then
  address=$(sed -nE 's/.* TLS on ([0-9.]+:[0-9]+): .*/\1/p' log)
  how=("$address" ca.pem operator.pem operator.key) who=spiffe://example.org/operator
  # Who has no certificate is not heard; an observer's is good for reading only.
  if "${story[@]}" "$address" ca.pem >out 2>&1; then die "served without a certificate"; fi
  if "${story[@]}" "$address" ca.pem observer.pem observer.key >out 2>&1; then die "an observer may change the daemon"; fi
  grep -q ROLE_REQUIRED out || die "an observer is not told why it is refused"
fi

"${story[@]}" "${how[@]}" >out 2>&1 &
telling=$!
until zerocp channels | grep story >/dev/null; do
  kill -0 "$telling" 2>/dev/null || die "it ended before there was a channel"
  sleep 0.05
done
"$ZEROCP_BIN_DIR/leaky" "$work/run" story story &
leaky=$!
until zerocp stats | grep leaky >/dev/null; do
  kill -0 "$leaky" || die "leaky ended"
  sleep 0.05
done
head -c $((64 * 4096)) /dev/zero | "$ZEROCP_BIN_DIR/zerocp" send story --no-wait --runtime-dir run 2>/dev/null &
sender=$!
wait "$telling" || die "it failed with $?"
telling=''
wait "$sender" || die "the sender that was waited for failed with $?"
sender='' status=0
wait "$leaky" || status=$?
leaky=''
[[ $status == 137 ]] || die "the program that leaks ended with $status, not by SIGKILL"
kill "$daemon"
wait "$daemon" || die "the daemon ended with $?"
daemon=''
[[ $transport == socket ]] || grep -q 'peer did not return a certificate' log || die "a client without a certificate got past the handshake"

# The whole story was told, by those who may.
jq -r '[.identity // .listener, .role, .method, .code, .reason // empty] | join(" ")' audit | sed 's/zerocp.v1.AdminService.//' >told
{
  [[ $transport == socket ]] || echo "monitoring.example.org observer CreatePool PERMISSION_DENIED ROLE_REQUIRED"
  sed "s|^|$who admin |" <<'TOLD'
CreatePool OK
CreatePool OK
UpdatePool OK
ApplyConfig OK
ApplyConfig OK
ApplyConfig ABORTED ETAG_MISMATCH
DetachSubscriber OK
TerminateSession OK
Cleanup OK
DeletePool FAILED_PRECONDITION POOL_IN_USE
DeleteChannel OK
DeletePool OK
Audit OK
TOLD
} | diff - told || die "the audit log (>) has another story"
cat out
