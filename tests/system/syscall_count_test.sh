#!/usr/bin/env bash
# How many system calls a stream makes: fewer than 100 on each side over 100,000 messages that are filled
# and summed in place, and no wake-up; one read and one write per chunk in `zerocp send` and `zerocp recv`.
set -euo pipefail
bin=$ZEROCP_BIN_DIR
work=$(mktemp -d /tmp/zerocp-syscalls.XXXXXX)
run=$work/run
"$bin/zerocpd" --runtime-dir "$run" --on-stop=unlink --pool p=1KiBx8192 --channel c=p,queue=256 \
  --pool big=64KiBx64 --channel file=big >"$work/log" 2>&1 &
daemon=$!
pids=("$daemon")
trap 'kill "${pids[@]}" 2>/dev/null || true; wait || true; rm -rf "$work"' EXIT
until grep -q ready: "$work/log"; do
  kill -0 "$daemon" || { cat "$work/log"; exit 1; }
  sleep 0.01
done

# calls FILE NAME: what strace -c counted of one system call, or of all ("total").
calls() { awk -v name="$2" '$NF == name { print $4 }' "$1"; }

# The counts of start and end (loading, connecting) are those of a run with one message.
count() {
  local messages=$1
  strace -f -c -o "$work/consume" "$bin/poll_stream" consume "$run" c "$messages" &
  pids+=("$!")
  local consumer=$!
  strace -f -c -o "$work/produce" "$bin/poll_stream" produce "$run" c "$messages"
  wait "$consumer"
  echo "$(calls "$work/produce" total) $(calls "$work/consume" total)"
}
read -r base_produce base_consume < <(count 1)
read -r produce consume < <(count 100000)
echo "100,000 messages: producer $((produce - base_produce)), consumer $((consume - base_consume)) system calls" \
  "beside $base_produce and $base_consume of start and end"
((produce - base_produce < 100)) || { cat "$work/produce"; exit 1; }
((consume - base_consume < 100)) || { cat "$work/consume"; exit 1; }

# Who publishes to subscribers that only poll wakes nobody. (Locks of the process itself are FUTEX_WAKE_PRIVATE.)
"$bin/poll_stream" consume "$run" c 10000 &
pids+=("$!")
consumer=$!
strace -f -e trace=futex -o "$work/futex" "$bin/poll_stream" produce "$run" c 10000
wait "$consumer"
if grep 'FUTEX_WAKE,' "$work/futex"; then
  echo "syscall_count_test: the publisher rang for a subscriber that polls"
  exit 1
fi

# Nothing is lost to who sleeps in poll(2) meanwhile, and none waits for a wake-up that does not come.
"$bin/poll_stream" follow "$run" c 10000 &
pids+=("$!")
consumer=$!
strace -f -e trace=futex -o "$work/futex" "$bin/poll_stream" produce "$run" c 10000
wait "$consumer"
echo "10,000 messages: $(grep -c "FUTEX_WAKE," "$work/futex" || true) wake-ups for a subscriber that sleeps, none for one that polls"

# stream CHUNKS: reads of send and writes of recv for a file of so many chunks.
stream() {
  head -c $(($1 * 65536)) /dev/zero >"$work/in"
  strace -f -c -o "$work/recv" "$bin/zerocp" recv file -o "$work/out" --runtime-dir "$run" 2>"$work/recv.log" &
  pids+=("$!")
  local receiver=$!
  strace -f -c -o "$work/send" "$bin/zerocp" send file "$work/in" --runtime-dir "$run" 2>"$work/send.log"
  wait "$receiver"
  cmp "$work/in" "$work/out" >&2
  echo "$(calls "$work/send" read) $(calls "$work/recv" write)"
}
chunks=500
read -r base_reads base_writes < <(stream 1)
read -r reads writes < <(stream $((chunks + 1)))
echo "$chunks chunks: send $((reads - base_reads)) reads, recv $((writes - base_writes)) writes"
((reads - base_reads == chunks)) || { cat "$work/send"; exit 1; }
((writes - base_writes == chunks)) || { cat "$work/recv"; exit 1; }
