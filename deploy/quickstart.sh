#!/usr/bin/env bash
# From a clean checkout to a file that travels from one process to another through shared memory.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: deploy/quickstart.sh [--help] [FILE]

Installs what is missing, builds zerocp, starts zerocpd in a private directory, streams FILE from
one process to another over a channel, compares the SHA-256 at the far end, shows what the daemon
says about it over gRPC, and stops everything again.

  FILE   what to send; default: the largest library under /usr/lib, repeated to 256 MiB

Last line: quickstart: OK, <bytes> bytes in <n> chunks, <GiB/s>
Anything else is a failure: the exit status is 1, and the reason is the last line.
USAGE
}

die() {
  echo "quickstart: FAILED: $*" >&2
  exit 1
}
say() { echo "quickstart: $*"; }

case ${1:-} in
  --help | -h)
    usage
    exit 0
    ;;
  -*)
    usage >&2
    die "unknown option '$1'"
    ;;
esac
[[ $# -le 1 ]] || die "one FILE at a time"
file=${1:-}
if [[ -n $file ]]; then
  [[ -f $file && -r $file ]] || die "'$file' is not a file that can be read"
  file=$(realpath -- "$file")
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tree=$PWD/build/minimal
export PATH=${ZEROCP_TOOLS:-/usr/local/lib/zerocp-tools}:$PATH
work='' daemon='' producer='' consumer=''

# Ends what this script started, by process id, and removes its files.
clean_up() {
  local pids=(${producer:+"$producer"} ${consumer:+"$consumer"} ${daemon:+"$daemon"})
  if [[ ${#pids[@]} -gt 0 ]]; then
    kill -TERM "${pids[@]}" 2>/dev/null || true
    for _ in {1..50}; do
      kill -0 "${pids[@]}" 2>/dev/null || break # none of them is left
      sleep 0.1
    done
    kill -KILL "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
    [[ ! -d $work/run ]] || "$tree/bin/zerocpd" --cleanup --runtime-dir "$work/run" >/dev/null 2>&1 || true
  fi
  [[ -z $work ]] || rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

build() {
  deploy/setup.sh --minimal
  say "building in ${tree#"$PWD/"} (the first time takes some minutes)"
  work=$(mktemp -d /tmp/zerocp-quickstart.XXXXXX)
  if ! { cmake --preset minimal && cmake --build "$tree"; } >"$work/log" 2>&1; then
    cat "$work/log" >&2
    die "the build failed"
  fi
  mkdir -m 0700 "$work/run"
}

# The largest library, repeated to 256 MiB.
make_input() {
  local largest size wanted=$((256 << 20))
  read -r size largest < <(find -L /usr/lib -name '*.so*' -type f -printf '%s %p\n' 2>/dev/null | sort -rn | sed -n 1p)
  [[ ${size:-0} -gt 0 ]] || die "no library under /usr/lib to send: name a FILE"
  file=$work/input
  for ((at = 0; at < wanted; at += size)); do
    cat "$largest"
  done | head -c "$wanted" >"$file" || true
  [[ $(stat -c %s "$file") -eq $wanted ]] || die "could not write 256 MiB to $file; name a FILE"
  say "input: $largest, repeated to 256 MiB"
}

start_daemon() {
  : >"$work/daemon.log"
  "$tree/bin/zerocpd" --runtime-dir "$work/run" --pool stream=1MiBx64 \
    --channel quickstart=stream,queue=16 >"$work/daemon.log" 2>&1 &
  daemon=$!
  for _ in {1..300}; do
    if grep -q ' ready: ' "$work/daemon.log" || ! kill -0 "$daemon" 2>/dev/null; then break; fi
    sleep 0.1
  done
  if ! kill -0 "$daemon" 2>/dev/null || ! grep -q ' ready: ' "$work/daemon.log"; then
    cat "$work/daemon.log" >&2
    die "zerocpd did not start"
  fi
  say "zerocpd runs as process $daemon in $work/run"
}

# Bytes that the daemon has read and written by system calls.
daemon_io() { awk '/^[rw]char/ { sum += $2 } END { print sum }' "/proc/$daemon/io"; }

stream() {
  "$tree/bin/zerocp" recv quickstart --sha256 --verify-in-place --timeout 120 --runtime-dir "$work/run" \
    >"$work/digest" 2>"$work/recv.log" &
  consumer=$!
  "$tree/bin/zerocp" send quickstart "$file" --timeout 120 --runtime-dir "$work/run" 2>"$work/send.log" &
  producer=$!
  say "producer is process $producer, consumer is process $consumer"
  [[ $producer != "$consumer" ]] || die "producer and consumer are one process"
  wait "$producer" || die "the producer failed: $(cat "$work/send.log" "$work/recv.log")"
  producer=''
  wait "$consumer" || die "the consumer failed: $(cat "$work/recv.log")"
  consumer=''
  sed 's/^/quickstart: /' "$work/send.log" "$work/recv.log"
}

# Runs and prints a grpcurl command; the answer is also in $work/answer.
ask() {
  local command=(grpcurl -plaintext -emit-defaults -unix "$work/run/client.sock" "zerocp.v1.ObserverService/$1")
  echo "\$ ${command[*]}"
  "${command[@]}" >"$work/answer" 2>"$work/answer.err" || die "grpcurl $1: $(cat "$work/answer.err")"
  cat "$work/answer"
}

stop_daemon() {
  local code=0
  kill -TERM "$daemon"
  wait "$daemon" || code=$?
  daemon=''
  [[ $code -eq 0 ]] || die "zerocpd ended with status $code: $(tail -n 5 "$work/daemon.log")"
}

build
[[ -n $file ]] || make_input
bytes=$(stat -c %s "$file")
start_daemon
io_before=$(daemon_io)
stream
io_growth=$(($(daemon_io) - io_before))
[[ $io_growth -lt $((1 << 20)) ]] ||
  die "the daemon read and wrote $io_growth bytes while $bytes went by: they must not pass through it"
say "meanwhile the daemon read and wrote $io_growth bytes"

expected=$(sha256sum <"$file" | cut -d ' ' -f 1)
received=$(cut -d ' ' -f 1 "$work/digest")
[[ $expected == "$received" ]] || die "SHA-256 of the file is $expected, of what arrived $received"
say "SHA-256 $received on both sides"
read -r arrived chunks rate < <(
  sed -nE 's/^recv: ([0-9]+) bytes in ([0-9]+) chunks, .* ([0-9.]+ GiB\/s)$/\1 \2 \3/p' "$work/recv.log")
[[ $arrived -eq $bytes ]] || die "$bytes bytes were sent, $arrived arrived"

say "what the daemon says, over gRPC:"
ask ListPools
ask GetStats
[[ $(jq -r '.stats.channels[0].published_count' "$work/answer") == "$chunks" ]] ||
  die "the daemon counted another number of messages than the $chunks that arrived"
mapfile -t segments < <(jq -r '.stats.segments[].shm_name' "$work/answer")
[[ ${#segments[@]} -eq 2 ]] || die "the daemon named ${#segments[@]} segments instead of 2"

stop_daemon
for segment in "${segments[@]}"; do
  [[ ! -e /dev/shm/$segment ]] || die "/dev/shm/$segment was left behind"
done
say "zerocpd stopped in order; nothing is left in /dev/shm"
say "OK, $bytes bytes in $chunks chunks, $rate"
