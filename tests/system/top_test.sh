#!/usr/bin/env bash
# `zerocp top` on a terminal (tmux is one): what is where at 80x24 and wide, a resize, the keys, a
# stalled subscriber, a daemon that goes and comes back, and a terminal that is as before when a signal
# ends it.
set -euo pipefail
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0} # ncurses keeps what it has for a terminal
export PATH=$ZEROCP_BIN_DIR:$PATH
work=$(mktemp -d /tmp/zerocp-top.XXXXXX)
export ZEROCP_RUNTIME_DIR=$work/run
daemon='' receiver='' sender=''
tmux=(tmux -S "$work/tmux" -f /dev/null)
clean_up() {
  "${tmux[@]}" kill-server 2>/dev/null || true
  [[ -z $receiver ]] || kill -9 "$receiver" 2>/dev/null || true
  [[ -z $sender ]] || kill -9 "$sender" 2>/dev/null || true
  [[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true
  wait || true
  zerocpd --cleanup --runtime-dir "$ZEROCP_RUNTIME_DIR" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap clean_up EXIT

screen() { "${tmux[@]}" capture-pane -p -t top; }
# Waits until a line of the screen matches. Ctest ends a wait that is in vain.
await() {
  for ((looks = 0; ; ++looks)); do
    screen >"$work/screen"
    if grep -qE -- "$1" "$work/screen"; then break; fi
    if ((looks % 100 == 99)); then echo "waiting for: $1"; cat "$work/screen"; fi
    if [[ -e $work/ended ]]; then echo "top_test: ended while waiting for: $1"; cat "$work/error"; exit 1; fi
    sleep 0.05
  done
  echo "seen: $1"
}
die() { echo "top_test: $*"; screen; exit 1; }

start_daemon() {
  zerocpd --runtime-dir "$ZEROCP_RUNTIME_DIR" --pool video=64KiBx64 --channel frames=video,queue=8 \
    >"$work/log" 2>&1 &
  daemon=$!
  until grep -q ready: "$work/log"; do
    kill -0 "$daemon" || { cat "$work/log"; exit 1; }
    sleep 0.01
  done
}

if zerocp top </dev/null >/dev/null 2>"$work/error"; then die "it works without a terminal"; fi
grep -q 'needs a terminal' "$work/error"

start_daemon
"${tmux[@]}" new-session -d -s top -x 80 -y 24 "exec sh -c 'zerocp top --interval 0.2 2>$work/error; echo \$? >$work/ended'"
await "^zerocpd [0-9.]+ +process $daemon +up "
await '^video +\[ +\] +0% +64 +64 +64 '
await '^frames +0/0 '
await '^q quit +space pause '
[[ $(screen | wc -l) -eq 24 ]] || die "it does not fill 24 lines"
[[ $(screen | tail -n 1) == q\ quit* ]] || die "the keys are not the last line"

# A subscriber that does not take: it stands first, with what it holds.
zerocp channels create quiet --pool video --when-full wait >/dev/null
zerocp recv frames >/dev/null 2>&1 & receiver=$!
await '^frames +0/1 +[0-9-]+ +[0-9-]+ +-$' # nobody is behind
kill -STOP "$receiver"
zerocp send frames >/dev/null 2>&1 < <(yes) & sender=$!
await '^frames +1/1 .* 0-[0-9]+ zerocp recv +8/8 +0 +0 +[1-9][0-9]*s$'
await "zerocp recv +$receiver +video +frames +queued +8 +[1-9][0-9]*s$"
await '^video +\[#+=?~*  +\] +1[0-9]% '
[[ $(screen | awk '{ if (length > most) most = length } END { print most }') -le 80 ]] || die "wider than 80"

"${tmux[@]}" resize-window -t top -x 160 -y 40
await '^video +\[#{5,}=?~* {40,}\] '
[[ $(screen | wc -l) -eq 40 && $(screen | tail -n 1) == q\ quit* ]] || die "it does not fill 40 lines"
"${tmux[@]}" resize-window -t top -x 80 -y 12
await '^and [0-9]+ more'
"${tmux[@]}" resize-window -t top -x 30 -y 5
await '^too small'
"${tmux[@]}" resize-window -t top -x 80 -y 24

"${tmux[@]}" send-keys -t top + +
await 'interval 1 s'
"${tmux[@]}" send-keys -t top - - -
await 'interval 0.2 s'
"${tmux[@]}" send-keys -t top Space
await ' PAUSED$'
"${tmux[@]}" send-keys -t top Space
until ! screen | grep -q PAUSED; do sleep 0.05; done

kill -9 "$daemon"
wait "$daemon" || true
await '^no answer, trying again: '
start_daemon
await "^zerocpd [0-9.]+ +process $daemon "
until ! screen | grep -q 'no answer'; do sleep 0.05; done

"${tmux[@]}" send-keys -t top q
until [[ -s $work/ended ]]; do sleep 0.05; done
[[ $(<"$work/ended") == 0 ]] || die "q ends it with $(<"$work/ended")"
[[ ! -s $work/error ]] || { cat "$work/error"; exit 1; }

begin() { # ENVIRONMENT...
  rm -f "$work"/{modes,pid,ended,after}
  # The shell outlives what the terminal sends to both.
  "${tmux[@]}" new-session -d -s top -x 80 -y 24 "exec sh -c 'trap : INT QUIT HUP; stty -g >$work/modes
    sh -c \"echo \\\$\\\$ >$work/pid; exec env $* zerocp top 2>$work/error\"; status=\$?
    stty -g >$work/after; echo \$status >$work/ended; until [ -e $work/end ]; do sleep 0.05; done'"
}
terminal_is_restored() { # WHAT-ENDED-IT
  local looks state
  until [[ -s $work/ended ]]; do sleep 0.05; done
  cmp "$work/modes" "$work/after" || die "$1: it leaves the modes of the terminal"
  for ((looks = 0; ; ++looks)); do # tmux reads what it wrote when it has its turn
    state=$("${tmux[@]}" display-message -p -t top '#{alternate_on} #{cursor_flag} #{keypad_cursor_flag}')
    if [[ $state == '0 1 0' ]]; then break; fi
    if ((looks % 100 == 99)); then echo "$1: it leaves the screen, the cursor or the keypad: $state"; fi
    sleep 0.05
  done
}
end() {
  touch "$work/end"
  while "${tmux[@]}" has-session -t top 2>/dev/null; do sleep 0.05; done
  rm "$work/end"
}
ended_by() { # STATUS SIGNAL...
  local status=$1 top
  shift
  begin
  await '^q quit +space pause '
  top=$(<"$work/pid")
  kill -STOP "$top" # so that it takes all of them at once
  for signal; do kill -"$signal" "$top"; done
  kill -CONT "$top"
  terminal_is_restored "$*"
  [[ " $status " == *" $(<"$work/ended") "* ]] || die "$*: ended with $(<"$work/ended"), not $status"
  end
  echo "ended by: $*"
}
ended_by 0 TERM
ended_by '130 143' INT TERM
ended_by 129 HUP
ended_by 131 QUIT

begin
await '^q quit +space pause '
kill -STOP "$daemon"
"${tmux[@]}" send-keys -t top C-c C-c
terminal_is_restored '^C ^C'
kill -CONT "$daemon"
end

begin TERM=unheard-of
terminal_is_restored 'an unknown terminal'
[[ $(<"$work/ended") == 1 ]] || die "an unknown terminal: ended with $(<"$work/ended")"
grep -q 'does not know the terminal TERM=unheard-of: set TERM to' "$work/error" || { cat "$work/error"; exit 1; }
end
echo "top_test: OK"
