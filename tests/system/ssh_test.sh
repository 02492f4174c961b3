#!/usr/bin/env bash
# `zerocp --host ssh://...` with a real ssh and sshd, which talk over a pipe: no port, no network. What
# is forwarded ends with the command, however that ends.
set -euo pipefail
work=$(mktemp -d /tmp/zerocp-ssh-test.XXXXXX)
mkdir "$work/bin" "$work/tmp"
export PATH=$work/bin:$ZEROCP_BIN_DIR:$PATH TMPDIR=$work/tmp
ssh=$(PATH=${PATH#*:} command -v ssh)
sshd=$(PATH=$PATH:/usr/sbin command -v sshd)
daemon=''
clean_up() {
  [[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true
  wait || true
  rm -rf "$work"
}
trap clean_up EXIT
die() { echo "ssh_test: $*"; exit 1; }

[[ $EUID -ne 0 ]] || mkdir -p /run/sshd # where it gives up its rights
ssh-keygen -q -t ed25519 -N '' -f "$work/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$work/key"
cat >"$work/sshd_config" <<END
HostKey $work/host_key
AuthorizedKeysFile $work/key.pub
StrictModes no
UsePAM no
PermitRootLogin yes
END
cat >"$work/ssh_config" <<END
Host desk ::1
  ProxyCommand $sshd -i -f $work/sshd_config -E $work/sshd_log
  IdentityFile $work/key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile $work/known_hosts
  ControlMaster auto
  ControlPath $work/master
  ControlPersist yes
Host away
  ProxyCommand false
Host slow
  ProxyCommand sh -c 'touch $work/connecting; while read -r line; do :; done'
END
printf '#!/bin/sh\nexec %s -F %s "$@"\n' "$ssh" "$work/ssh_config" >"$work/bin/ssh"
chmod +x "$work/bin/ssh"

zerocpd --runtime-dir "$work/run" --on-stop=unlink --pool video=4KiBx8 >"$work/log" 2>&1 &
daemon=$!
until grep -q ready: "$work/log"; do
  kill -0 "$daemon" || { cat "$work/log"; exit 1; }
  sleep 0.01
done
user=$(id -un)

# fails STATUS TEXT ARGUMENT...
fails() {
  local status=0 wanted=$1 text=$2
  shift 2
  zerocp "$@" >/dev/null 2>"$work/error" || status=$?
  [[ $status == "$wanted" ]] || { cat "$work/error"; die "zerocp $*: status $status, not $wanted"; }
  grep -qF -- "$text" "$work/error" || { cat "$work/error"; die "zerocp $* does not say: $text"; }
}
nothing_is_left() {
  while pgrep -f "$work/tmp/zerocp-ssh" >/dev/null; do sleep 0.05; done
}

zerocp info -o json --host "ssh://$user@desk" --runtime-dir "$work/run" >"$work/info" 2>"$work/error" || { cat "$work/error" "$work/sshd_log"; exit 1; }
grep -q "\"pid\": $daemon," "$work/info" || die "another daemon answers"
[[ ! -s $work/error ]] || { cat "$work/error"; die "ssh talks"; }
[[ ! -e $work/master ]] || die "a master of other connections is left"
zerocp info --host "ssh://$user@[::1]:22/" --runtime-dir "$work/run" >/dev/null
zerocp pools create audio 4KiB 8 --host ssh://desk:22 --runtime-dir "$work/run" >/dev/null
zerocp pools --runtime-dir "$work/run" | grep -q '^audio '
fails 3 'does not answer' info --host ssh://desk --runtime-dir "$work/none"
fails 3 'ssh to away does not forward /run/zerocp/admin.sock' info --host ssh://away
echo 'pools: []' >"$work/zerocp.yaml"
fails 1 'ssh to away does not forward' config diff "$work/zerocp.yaml" --host ssh://away
fails 2 'is not ssh://[USER@]HOST[:PORT]' info --host ssh://-oProxyCommand=false
for wrong in ssh:// ssh://desk:x ssh://me@-oProxyCommand=false ssh://@desk ssh://::1 'ssh://[-o]' desk; do
  fails 2 'is not ssh://[USER@]HOST[:PORT]' info --host "$wrong"
done
fails 2 'log in there' doctor --host ssh://desk
[[ -z $(ls -A "$work/tmp") ]] || die "left behind: $(ls "$work/tmp")"
nothing_is_left

# A signal while ssh connects, and one during a call.
for signal in INT TERM; do
  rm -f "$work/connecting"
  # Of a shell's job in the background, SIGINT would be ignored.
  env --default-signal=INT zerocp info --host ssh://slow 2>"$work/error" &
  caller=$!
  until [[ -e $work/connecting ]]; do sleep 0.05; done
  kill -"$signal" "$caller"
  status=0
  wait "$caller" || status=$?
  [[ $status == $((128 + $(kill -l "$signal"))) && ! -s $work/error ]] || die "SIG$signal: status $status"
  [[ -z $(ls -A "$work/tmp") ]] || die "SIG$signal leaves $(ls "$work/tmp")"
done
kill -STOP "$daemon"
zerocp info --timeout 3600 --host ssh://desk --runtime-dir "$work/run" &
caller=$!
until [[ -S $(echo "$work"/tmp/*/socket) ]]; do sleep 0.05; done
kill -TERM "$caller"
status=0
wait "$caller" || status=$?
kill -CONT "$daemon"
[[ $status == 143 && -z $(ls -A "$work/tmp") ]] || die "SIGTERM in a call: status $status"
nothing_is_left

zerocp events --follow --host ssh://desk --runtime-dir "$work/run" >"$work/events" &
follower=$!
until grep -q audio "$work/events"; do
  kill -0 "$follower" || die "events --follow has ended"
  sleep 0.05
done
kill -9 "$follower"
wait "$follower" 2>/dev/null || true
nothing_is_left
echo "ssh_test: OK"
