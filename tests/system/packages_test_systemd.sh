#!/usr/bin/env bash
# Runs in a machine that was booted with the packages: what systemd and the daemon say to each other.
#   packages_test_systemd.sh GUIDE     GUIDE: the commands of deploy/README.md
set -euo pipefail
fail() {
  echo "packages_test: $*"
  systemctl status --no-pager --full 'zerocpd*'
  exit 1
}
# await WHAT COMMAND...: until it succeeds.
await() {
  for _ in {1..600}; do
    if "${@:2}"; then return; fi
    sleep 0.1
  done
  fail "$1"
}
property() { systemctl show "$1" --property "$2" --value; }
until [[ -S /run/systemd/private ]]; do sleep 0.1; done
[[ $(systemctl is-system-running --wait) == running ]] || fail "the machine did not start: $(systemctl --failed --no-pager)"
[[ $(property zerocpd StatusText) == 'ready in /run/zerocp' ]] || fail "zerocpd is not ready after the boot"

# Memory that was promised is in the unit; the daemon says why a file was not taken over.
sed -i 's/chunk_count: 1024/chunk_count: 2048/' /etc/zerocp/zerocpd.yaml
grown() { zerocp pools | grep -qE '^small .* 2048 '; }
systemctl reload zerocpd
await "a reload changed nothing" grown
cp /etc/zerocp/zerocpd.yaml /root
echo 'pools: [{' >/etc/zerocp/zerocpd.yaml
refused() { [[ $(property zerocpd StatusText) == *'was not taken over: '* ]]; }
systemctl reload zerocpd
await "a broken file is not told of" refused
cp /root/zerocpd.yaml /etc/zerocp

# A daemon that stands still is killed and started again, under its clients.
mkdir -p /run/systemd/system/zerocpd.service.d
printf '[Service]\nWatchdogSec=1s\n' >/run/systemd/system/zerocpd.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart zerocpd
zerocp recv default -o /root/copy &
receiver=$!
until zerocp sessions | grep -q ' attached '; do sleep 0.1; done
kill -STOP "$(property zerocpd MainPID)"
until [[ $(property zerocpd NRestarts) == 1 && $(property zerocpd SubState) == running ]]; do sleep 0.1; done
zerocp send default /usr/bin/zerocp
wait "$receiver"
cmp /usr/bin/zerocp /root/copy
rm -r /run/systemd/system/zerocpd.service.d /root/copy /root/zerocpd.yaml

bash -euxo pipefail "$1" >/root/log 2>&1 || fail "a command of deploy/README.md failed: $(cat /root/log)"
rm /root/log
[[ $(property zerocpd@desk StatusText) == 'ready in /run/zerocp-desk' ]] || fail "zerocpd@desk is not ready"
[[ $(property zerocpd MemoryMax) == $((4 << 30)) ]] || fail "the limit of the memory is $(property zerocpd MemoryMax)"
# Its sockets are systemd's: who connects starts it, and they stay when it stops.
[[ $(property zerocpd SubState) == dead ]] || fail "zerocpd runs before anybody asked for it"
before=$(stat -c '%i %G' /run/zerocp/{admin,client,attach}.sock)
zerocp audit >/dev/null
[[ $(property zerocpd SubState) == running ]] || fail "zerocpd does not run"
systemctl stop zerocpd 2>/dev/null
[[ $(stat -c '%i %G' /run/zerocp/{admin,client,attach}.sock) == "$before" ]] || fail "other sockets than $before"
systemctl stop 'zerocpd*'
