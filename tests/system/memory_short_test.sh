#!/usr/bin/env bash
# Memory is short, as in a container: a /dev/shm of 64 MiB that another program fills, one too small to start
# in, and a memory cgroup where one can be made. What does not fit is refused with needed and available bytes;
# what was promised is there; nobody gets SIGBUS or is killed.
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
mount -t tmpfs -o size=64m,mode=1777 none "$work/shm"
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
  : >"$work/log"
  "$@" "$bin/zerocpd" --runtime-dir "$work/run" --on-stop=unlink "${extra[@]}" >"$work/log" 2>&1 &
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
call() { # METHOD REQUEST
  "$grpcurl" -plaintext -unix -d "$2" "$work/run/admin.sock" "zerocp.v1.AdminService/$1" 2>&1
}
create() { # NAME SIZE COUNT
  call CreatePool "{\"pool_id\":\"$1\",\"pool\":{\"chunk_size_bytes\":$2,\"chunk_count\":$3}}"
}
grow() { # NAME COUNT
  call UpdatePool "{\"pool\":{\"name\":\"pools/$1\",\"chunk_count\":$2}}"
}
# fill: makes pools of all that is left.
fill() {
  local size count
  for size in 1048576 65536 4096; do
    for count in 64 32 16 8 4 2 1; do create "more-$size-$count" "$size" "$count" >/dev/null || true; done
  done
}
# expect_refused REASON COMMAND...
expect_refused() {
  local reason=$1 answer
  shift
  answer=$("$@") && fail "done, not refused: $*: $answer"
  for part in ResourceExhausted "$reason" requestedBytes availableBytes; do
    [[ $answer == *"$part"* ]] || fail "no $part in: $answer"
  done
}

# A /dev/shm as Docker makes it. Without --pool a quarter of it becomes pools.
extra=(--segment-dir "$work/shm")
start env
grep -q 'default pools of together [1-9][0-9]* of [0-9]* available bytes' "$work/log" || fail "no default pools"
expect_refused SHM_FILESYSTEM_FULL create huge 1048576 1024
create fits 65536 64 >"$work/log.fits" || fail "a pool that fits was refused: $(<"$work/log.fits")"
# Both ends join while there is room for it; then pools and another program fill the rest to the brim, and
# the stream still flows.
mkfifo "$work/fifo"
"$bin/zerocp" recv default -o "$work/out" --runtime-dir "$work/run" &
receiver=$!
"$bin/zerocp" send default --runtime-dir "$work/run" <"$work/fifo" &
sender=$!
exec 9>"$work/fifo"
until "$bin/zerocp" stats -o json --runtime-dir "$work/run" | grep '"publisher_*[cC]ount": *1' >/dev/null; do
  kill -0 "$sender" || fail "the sender ended"
  sleep 0.01
done
head -c 1048576 /dev/zero >"$work/shm/another"
fill
expect_refused SHM_FILESYSTEM_FULL create one-more 65536 64
dd if=/dev/zero of="$work/shm/another" bs=4096 seek=256 2>/dev/null && fail "the file system is not full"
expect_refused SHM_FILESYSTEM_FULL grow fits 65
expect_refused SHM_FILESYSTEM_FULL call CreateChannel \
  '{"channel_id":"late","channel":{"pool":"pools/fits","when_full":"WHEN_FULL_WAIT"}}'
answer=$("$bin/zerocp" send default --runtime-dir "$work/run" 2>&1 </dev/null) && fail "a publisher joined without memory"
[[ $answer =~ cannot\ reserve\ [1-9][0-9]*\ bytes.*\ 0\ are\ available ]] || fail "no numbers in: $answer"
head -c 33554432 /dev/urandom >"$work/in"
cat "$work/in" >&9
exec 9>&-
wait "$sender" || fail "the sender ended with status $?"
wait "$receiver" || fail "the receiver ended with status $?"
cmp "$work/in" "$work/out"
"$bin/zerocp" audit --runtime-dir "$work/run"
rm "$work/shm/another"
grow fits 65 >"$work/log.grow" || fail "there is room again, and a pool does not grow: $(<"$work/log.grow")"
stop
echo "memory_short_test: a tmpfs of 64 MiB: refused with the numbers; a stream through it when it is full"

# A pool that grows by itself takes what there is. When that is not enough, who waits for a chunk goes on waiting.
extra=(--segment-dir "$work/shm" --pool "big=4MiBx2,max=64,auto-grow" --channel "wide=big,queue=64")
start env
"$bin/zerocp" recv wide -o "$work/out" --runtime-dir "$work/run" &
receiver=$!
until "$bin/zerocp" stats --runtime-dir "$work/run" | grep 'channels/wide/subscribers/' >/dev/null; do
  kill -0 "$receiver" || fail "the receiver ended"
  sleep 0.01
done
kill -STOP "$receiver"
for _ in 1 2 3; do cat "$work/in"; done >"$work/in3"
"$bin/zerocp" send wide "$work/in3" --runtime-dir "$work/run" &
sender=$!
until grep -q 'pool big has no free chunk and cannot grow by itself: .*needs [0-9]* bytes' "$work/log"; do
  kill -0 "$sender" || fail "the sender ended"
  sleep 0.01
done
grep -q 'pool big grown by itself: 3 chunks, 2 before' "$work/log" || fail "it did not grow"
kill -CONT "$receiver"
wait "$sender" || fail "the sender ended with status $?"
wait "$receiver" || fail "the receiver ended with status $?"
cmp "$work/in3" "$work/out"
"$bin/zerocp" audit --runtime-dir "$work/run"
stop
echo "memory_short_test: a pool that grows until memory is short, and a stream through it"

# Too small even for the tables.
mount -o remount,size=512k "$work/shm"
"$bin/zerocpd" --runtime-dir "$work/run" --segment-dir "$work/shm" >"$work/log" 2>&1 && fail "started in 512 KiB"
grep -qE 'cannot start: cannot reserve [0-9]+ bytes .* 524288 are available \(limited by: file system of ' "$work/log" ||
  fail "no numbers"
[[ -z $(ls -A "$work/shm") ]] || fail "left behind: $(ls -A "$work/shm")"
echo "memory_short_test: a tmpfs of 512 KiB: refused with the numbers"

# A memory cgroup with a limit, where one can be made.
extra=(--pool small=4KiBx16)
for root in /sys/fs/cgroup /sys/fs/cgroup/memory; do
  group=$root/zerocp-test-$$
  limit=$([[ -e $root/cgroup.controllers ]] && echo memory.max || echo memory.limit_in_bytes)
  if mkdir "$group" 2>/dev/null && [[ -e $group/cgroup.procs ]] && echo $((128 << 20)) 2>/dev/null >"$group/$limit"; then
    # shellcheck disable=SC2016 # expanded by the inner shell
    start sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group"
    expect_refused MEMORY_LIMIT create huge 1048576 1024
    # The daemon still has memory to work in: it is not killed for want of it. (One with a sanitizer
    # needs a multiple.)
    if ! ldd "$bin/zerocpd" | grep libasan >/dev/null; then
      fill
      expect_refused MEMORY_LIMIT create one-more 1048576 1
      for _ in {1..20}; do "$bin/zerocp" stats -o json --runtime-dir "$work/run" >"$work/log.stats"; done
      "$bin/zerocp" audit --runtime-dir "$work/run" >"$work/log.audit"
    fi
    stop
    echo "memory_short_test: a memory cgroup of 128 MiB: refused with the numbers, and works when it is full"
    exit 0
  fi
  rmdir "$group" 2>/dev/null || true
  group=''
done
echo "memory_short_test: no memory cgroup can be made here; the tmpfs part passed"
