#!/usr/bin/env bash
# The systemd units are what systemd understands, start this zerocpd as it can be started, and let it do little.
# Usage: units_test.sh
set -euo pipefail
cd "$ZEROCP_SOURCE_DIR/deploy/systemd"
work=$(mktemp -d /tmp/zerocp-units.XXXXXX)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "units_test: $*"
  exit 1
}

# The programs of this tree, as if they were installed.
mkdir -p "$work/root/usr/bin" "$work/root/etc/zerocp" "$work/units"
for unit in *.service *.socket; do
  sed "s#^ExecStart=zerocpd #ExecStart=$ZEROCP_BIN_DIR/zerocpd #" "$unit" >"$work/units/$unit"
done
cd "$work/units"
units=(zerocpd.service zerocpd.socket zerocpd-admin.socket zerocpd@desk.service zerocpd@desk.socket zerocpd-admin@desk.socket)
# Misspellings are warnings: whatever it says is a failure.
verify() { SYSTEMD_UNIT_PATH=$work/units: systemd-analyze verify --man=no "$@" 2>&1; }
said=$(verify "${units[@]}") || fail "systemd-analyze verify: $said"
[[ -z $said ]] || fail "systemd-analyze verify: $said"
# Tenths of a point; 10.0 is a service without any limits.
for unit in zerocpd.service zerocpd@desk.service; do
  systemd-analyze security --no-pager --offline=true --threshold=20 "$PWD/${unit/desk/}" >"$work/security" ||
    fail "$unit is exposed more than it needs to be: $(cat "$work/security")"
done
# Both checks see what is wrong.
sed 's/^WatchdogSec=/WatchdogSecs=/; s/^ProtectSystem=.*//; s/^CapabilityBoundingSet=.*//; s/^SystemCallFilter=.*//' \
  zerocpd.service >wrong.service
grep -q WatchdogSecs <<<"$(verify wrong.service)" || fail "a misspelling in a unit is not seen"
if systemd-analyze security --no-pager --offline=true --threshold=20 "$PWD/wrong.service" >/dev/null 2>&1; then
  fail "a unit without limits is not seen"
fi
rm wrong.service

# Users, groups and directory: in a root of the test's own.
mkdir -p "$work/root/etc" "$work/root/run"
systemd-sysusers --root="$work/root" "$ZEROCP_SOURCE_DIR/deploy/systemd/zerocp.sysusers" 2>/dev/null
grep -q '^zerocp:' "$work/root/etc/passwd" || fail "there is no user zerocp"
grep -q '^zerocp-admin:.*:zerocp$' "$work/root/etc/group" || fail "zerocp is no member of zerocp-admin"
systemd-tmpfiles --root="$work/root" --create "$ZEROCP_SOURCE_DIR/deploy/systemd/zerocp.tmpfiles"
owner=$(stat -c %u "$work/root/run/zerocp")
[[ $owner == $(sed -n 's/^zerocp:x:\([0-9]*\):.*/\1/p' "$work/root/etc/passwd") ]] ||
  fail "/run/zerocp belongs to uid $owner, not to zerocp"

# The daemon makes no system call that the unit forbids.
# allowed SET: the calls of the set and of those in it.
allowed() {
  systemd-analyze syscall-filter --no-pager "$1" </dev/null 2>/dev/null | sed -n '2,$s/^ *\([@a-z0-9_-]\+\)$/\1/p' |
    while read -r name; do
      if [[ $name == @* ]]; then allowed "$name"; else echo "$name"; fi
    done
}
set=$(sed -n 's/^SystemCallFilter=//p' zerocpd.service)
allowed "$set" | sort -u >"$work/allowed"
"$ZEROCP_BIN_DIR/zerocpd" --print-default-config >"$work/zerocpd.yaml"
: >"$work/log"
# --system: as the unit has it, but for the groups, which are not there.
strace -f -qq -o "$work/trace" "$ZEROCP_BIN_DIR/zerocpd" --config "$work/zerocpd.yaml" --system --socket-group root \
  --admin-group root --runtime-dir "$work/run" --on-stop unlink --metrics-listen 0 2>"$work/log" &
tracer=$!
trap 'kill "$(head -n 1 "$work/run/lock")" 2>/dev/null || true; wait "$tracer" || true; rm -rf "$work"' EXIT
until grep -q ready: "$work/log"; do
  kill -0 "$tracer" || fail "zerocpd does not start: $(cat "$work/log")"
  sleep 0.01
done
export ZEROCP_RUNTIME_DIR=$work/run
"$ZEROCP_BIN_DIR/zerocp" recv default -o "$work/copy" &
receiver=$!
"$ZEROCP_BIN_DIR/zerocp" send default zerocpd.service
wait "$receiver"
"$ZEROCP_BIN_DIR/zerocp" pools create more 4KiB 16 >/dev/null
"$ZEROCP_BIN_DIR/zerocp" pools delete more >/dev/null
"$ZEROCP_BIN_DIR/zerocp" config reload >/dev/null
"$ZEROCP_BIN_DIR/zerocp" audit >/dev/null
kill "$(head -n 1 "$work/run/lock")"
wait "$tracer" || fail "zerocpd failed: $(cat "$work/log")"
trap 'rm -rf "$work"' EXIT
sed -nE 's/^[0-9]+ +([a-z0-9_]+)\(.*/\1/p' "$work/trace" | sort -u >"$work/called"
grep -qx accept4 "$work/called" || fail "strace saw nothing"
forbidden=$(comm -23 "$work/called" "$work/allowed")
[[ -z $forbidden ]] || fail "SystemCallFilter=$set forbids what zerocpd calls: ${forbidden//$'\n'/ }"
echo "units_test: ${#units[@]} units verified; $(wc -l <"$work/called") system calls, all of them allowed"
