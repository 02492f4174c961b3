#!/usr/bin/env bash
# A client as a container has it: another user in user, pid, mount and IPC namespaces of its own, with a /dev/shm of
# 64 MiB. It gets more than that through shared memory, and what it held is free when it is killed, however the
# daemon sees deaths. (Not as root there is no other user to be, and it is this one's.)
set -euo pipefail
export PATH=$ZEROCP_BIN_DIR:$PATH
work=$(mktemp -d /tmp/zerocp-container.XXXXXX)
chmod 0755 "$work"
export ZEROCP_RUNTIME_DIR=$work/run
daemon='' client=''
clean_up() {
  local pids=(${client:+"$client"} ${daemon:+"$daemon"})
  [[ ${#pids[@]} -eq 0 ]] || kill "${pids[@]}" 2>/dev/null || true
  wait || true
  rm -rf "$work"
}
trap clean_up EXIT
die() {
  echo "container_test: $*" >&2
  cat "$work/log" "$work/error" >&2 || true
  exit 1
}

another_user=() group=$(id -gn)
if ((EUID == 0)); then
  another_user=(setpriv --reuid nobody --regid nogroup --clear-groups)
  group=nogroup
fi
# Nothing but its user, its root directory's programs and the sockets is the daemon's, too.
contained() {
  "${another_user[@]}" unshare --user --map-root-user --pid --fork --kill-child --mount --mount-proc --ipc sh -euc '
    mount -t tmpfs -o size=64m none /dev/shm
    exec "$@"' sh "$@"
}
# state COLUMN: of the pool.
state() { zerocp stats -o json | jq -r ".stats.pools[0].$1_chunk_count"; }
session_of() { zerocp sessions -o json | jq -r ".sessions[] | select(.client_name == \"$1\") | .$2"; }
until_true() { # WHAT COMMAND...
  local what=$1
  shift
  until "$@"; do
    kill -0 "$daemon" 2>/dev/null || die "the daemon has ended, before $what"
    [[ -z $client ]] || kill -0 "$client" 2>/dev/null || die "the client has ended, before $what"
    sleep 0.05
  done
}
has_session() { [[ -n $(session_of "$1" name) ]]; }
holds() { [[ $(state writing) == "$1" ]]; }

start_daemon() { # OPTION...
  : >"$work/log"
  zerocpd --runtime-dir "$work/run" --system --socket-group "$group" --admin-group "$(id -gn)" --on-stop=unlink \
    --pool video=1MiBx96 --channel frames=video,queue=8 --channel idle=video "$@" >"$work/log" 2>&1 &
  daemon=$!
  until_true "it was ready" grep -q ready: "$work/log"
}
stop_daemon() {
  kill "$daemon"
  wait "$daemon" || die "the daemon ended with $?"
  daemon=''
}

start_daemon
echo "== messages to and from a container"
[[ $(contained sh -c 'df --output=size -m /dev/shm' | tail -n 1 | tr -d ' ') == 64 ]] || die "its /dev/shm is not of 64 MiB"
[[ $(readlink /proc/self/ns/ipc) != "$(contained readlink /proc/self/ns/ipc)" ]] || die "it has no IPC namespace of its own"
head -c $((160 << 20)) /dev/urandom >"$work/file"
for receiver in contained direct; do
  [[ $receiver == contained ]] && sender=direct || sender=contained
  direct() { "$@"; }
  "$receiver" zerocp recv frames --sha256 -o - >"$work/sum" 2>"$work/error" &
  client=$!
  until_true "the receiver came" has_session "zerocp recv"
  user=$(session_of "zerocp recv" peer_user_id)
  [[ $receiver == direct || ${#another_user[@]} -eq 0 || $user == "$(id -u nobody)" ]] || die "the daemon takes it for user $user"
  "$sender" zerocp send frames <"$work/file" 2>"$work/error" || die "the sender failed"
  wait "$client" || die "the receiver failed"
  client=''
  cmp <(head -c $((160 << 20)) "$work/sum") "$work/file" || die "other bytes have come"
done
stop_daemon

for how in auto pidfd-open hangup; do
  echo "== kill -9, deaths seen by: $how"
  start_daemon --death-watch "$how"
  contained leaky "$work/run" idle video 2>"$work/error" &
  client=$!
  until_true "it held three chunks" holds 3
  pid=$(session_of leaky peer_pid)
  [[ $(readlink "/proc/$pid/ns/pid") != "$(readlink /proc/self/ns/pid)" ]] || die "process $pid is not in a container"
  kill -9 "$pid"
  wait "$client" 2>/dev/null || true
  client=''
  until_true "its chunks were free" holds 0
  [[ $(state free) == 96 ]] || die "$(state free) chunks of 96 are free"
  until_true "its death was told" eval 'zerocp events | grep -q session-died'
  zerocp audit >"$work/error" || die "the audit fails"
  stop_daemon
done
echo "container_test: OK"
