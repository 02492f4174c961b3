#!/usr/bin/env bash
# Runs in a Debian where only the packages are: the daemon as its unit starts it, but by hand, and a user's job, which
# is that of the quickstart, or the program that is given.
set -euo pipefail
fail() {
  echo "packages_test: $*"
  exit 1
}
[[ $(stat -c '%U:%G %a' /run/zerocp) == 'zerocp:zerocp 755' ]] || fail "/run/zerocp: $(stat -c '%U:%G %a' /run/zerocp)"
[[ -L /etc/systemd/system/multi-user.target.wants/zerocpd.service ]] || fail "zerocpd.service is not enabled"

# start UNIT INSTANCE LOG: the process is $! then.
start() {
  local command
  : >"$3"
  read -ra command <<<"$(sed -n "s/%i/$2/g; s/^ExecStart=//p" "/lib/systemd/system/$1")"
  setpriv --reuid=zerocp --regid=zerocp --init-groups --bounding-set=-all --no-new-privs "${command[@]}" 2>"$3" &
  until grep -q ready: "$3"; do
    kill -0 $! || fail "zerocpd does not start: $(cat "$3")"
    sleep 0.01
  done
}
daemon='' desk='' receiver=''
clean_up() {
  for process in $daemon $desk $receiver; do kill "$process" 2>/dev/null || true; done
}
trap clean_up EXIT
start zerocpd.service '' /tmp/daemon.log
daemon=$!
# as GROUP COMMAND...: a user who is in that group alone.
as() { setpriv --reuid=65534 --regid=65534 --groups="$(getent group "$1" | cut -d: -f3)" "${@:2}"; }

if [[ $# -gt 0 ]]; then
  as zerocp "$@"
else
  # The largest file, from one process to another.
  input=$(find /usr/lib -xdev -type f -printf '%s %p\n' | sort -n | tail -n 1 | cut -d' ' -f2)
  mkdir -m 0777 /tmp/job
  as zerocp zerocp recv default -o /tmp/job/copy &
  receiver=$!
  as zerocp zerocp send default "$input"
  wait "$receiver"
  cmp "$input" /tmp/job/copy
  rm -r /tmp/job
  # Who administers.
  if as zerocp zerocp pools create more 4KiB 16 2>/dev/null; then fail "a client could administer"; fi
  as zerocp-admin zerocp pools create more 4KiB 16 >/dev/null
  as zerocp-admin zerocp audit
  as zerocp-admin zerocp pools delete more >/dev/null
  if as nogroup zerocp pools 2>/dev/null; then fail "a stranger was let in"; fi
  # A second instance beside it.
  zerocpd --print-default-config >/etc/zerocp/desk.yaml
  install -d -o zerocp -g zerocp /run/zerocp-desk
  start zerocpd@.service desk /tmp/desk.log
  desk=$!
  [[ $(find /dev/shm -name 'zerocp_*memory_chunk' | wc -l) == 2 ]] || fail "two instances have $(ls /dev/shm)"
  kill "$desk"
  wait "$desk" || fail "zerocpd@desk failed: $(cat /tmp/desk.log)"
  rm -r /etc/zerocp/desk.yaml /run/zerocp-desk /tmp/desk.log
fi
kill "$daemon"
wait "$daemon" || fail "zerocpd failed: $(cat /tmp/daemon.log)"
rm /tmp/daemon.log
