#!/usr/bin/env bash
# Memory is short: a small tmpfs as --segment-dir, and a memory cgroup where one can be made. CreatePool
# answers RESOURCE_EXHAUSTED with needed and available bytes; nobody gets SIGBUS or is killed.
set -euo pipefail
if [[ ${1:-} != inside ]]; then
  # A mount namespace of our own; as another user than root, in a user namespace of our own.
  flags=(--mount)
  ((EUID == 0)) || flags+=(--user --map-root-user)
  exec unshare "${flags[@]}" "$0" inside
fi
bin=$ZEROCP_BIN_DIR
grpcurl=$(PATH=${ZEROCP_TOOLS:-/usr/local/lib/zerocp-tools}:$PATH command -v grpcurl)
work=$(mktemp -d /tmp/zerocp-memory.XXXXXX)
mkdir "$work/shm"
mount -t tmpfs -o size=16m,mode=700 none "$work/shm"
daemon='' group=''
clean_up() {
  [[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true
  wait || true
  [[ -z $group ]] || rmdir "$group" 2>/dev/null || true
  umount "$work/shm"
  rm -rf "$work"
}
trap clean_up EXIT

fail() {
  echo "memory_short_test: $*" >&2
  cat "$work"/log* >&2
  exit 1
}
# start COMMAND...: the daemon, by way of a command.
start() {
  rm -f "$work/log"
  "$@" "$bin/zerocpd" --runtime-dir "$work/run" --on-stop=unlink --pool small=4KiBx16 "${extra[@]}" >"$work/log" 2>&1 &
  daemon=$!
  until grep -q ready: "$work/log"; do
    kill -0 "$daemon" || fail "the daemon ended"
    sleep 0.01
  done
}
stop() {
  kill "$daemon"
  wait "$daemon" || fail "the daemon ended with status $?"
  daemon=''
}
create() { # NAME SIZE COUNT
  "$grpcurl" -plaintext -unix -d "{\"pool_id\":\"$1\",\"pool\":{\"chunk_size_bytes\":$2,\"chunk_count\":$3}}" \
    "$work/run/admin.sock" zerocp.v1.AdminService/CreatePool 2>&1
}
expect_refused() { # REASON: a pool of 1 GiB
  local answer
  answer=$(create huge 1048576 1024) && fail "a pool of 1 GiB was made: $answer"
  for part in ResourceExhausted "$1" requestedBytes availableBytes; do
    [[ $answer == *"$part"* ]] || fail "no $part in: $answer"
  done
}

# A tmpfs of 16 MiB.
extra=(--segment-dir "$work/shm")
start env
expect_refused SHM_FILESYSTEM_FULL
create fits 65536 64 >"$work/log.fits" || fail "a pool that fits was refused: $(<"$work/log.fits")"
"$grpcurl" -plaintext -unix -d '{"channel_id":"file","channel":{"pool":"pools/fits","when_full":"WHEN_FULL_WAIT"}}' \
  "$work/run/admin.sock" zerocp.v1.AdminService/CreateChannel >/dev/null
# Both ends join while there is room for it; then the rest is filled to the brim, and the stream still
# flows: what was promised is there.
mkfifo "$work/fifo"
"$bin/zerocp" recv file -o "$work/out" --runtime-dir "$work/run" &
receiver=$!
"$bin/zerocp" send file --runtime-dir "$work/run" <"$work/fifo" &
sender=$!
exec 9>"$work/fifo"
until "$bin/zerocp" stats -o json --runtime-dir "$work/run" | grep -q '"publisher_*[cC]ount": *1'; do
  kill -0 "$sender" || fail "the sender ended"
  sleep 0.01
done
number=0
for size in 1048576 65536 4096; do
  for count in 8 4 2 1; do create "more$((number++))" "$size" "$count" >/dev/null || true; done
done
answer=$(create one-more 65536 64) && fail "more was given than there is: $answer"
head -c 33554432 /dev/urandom >"$work/in"
cat "$work/in" >&9
exec 9>&-
wait "$sender" || fail "the sender ended with status $?"
wait "$receiver" || fail "the receiver ended with status $?"
cmp "$work/in" "$work/out"
"$bin/zerocp" pools --runtime-dir "$work/run"
stop
echo "memory_short_test: a tmpfs of 16 MiB: refused with the numbers; a stream through it when it is full"

# A memory cgroup with a limit, where one can be made.
extra=()
for root in /sys/fs/cgroup /sys/fs/cgroup/memory; do
  group=$root/zerocp-test-$$
  limit=$([[ -e $root/cgroup.controllers ]] && echo memory.max || echo memory.limit_in_bytes)
  if mkdir "$group" 2>/dev/null && [[ -e $group/cgroup.procs ]] && echo $((128 << 20)) 2>/dev/null >"$group/$limit"; then
    # shellcheck disable=SC2016 # expanded by the inner shell
    start sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group"
    expect_refused MEMORY_LIMIT
    stop
    echo "memory_short_test: a memory cgroup of 128 MiB: refused with the numbers"
    exit 0
  fi
  rmdir "$group" 2>/dev/null || true
  group=''
done
echo "memory_short_test: no memory cgroup can be made here; the tmpfs part passed"
