#!/usr/bin/env bash
# shellcheck disable=SC2016 # backticks are the document's
# The runbook, deploy/README.md: every alert and every error reason has its entry, its commands are the command's, and
# who is woken by "pool exhausted" gets from the alert to the culprit to the fix with what stands there.
set -euo pipefail
cd "$ZEROCP_SOURCE_DIR"
book=$ZEROCP_SOURCE_DIR/deploy/README.md
alerts=deploy/prometheus/alerts.yml
export PATH=$ZEROCP_BIN_DIR:$PATH
work=$(mktemp -d /tmp/zerocp-runbook.XXXXXX)
export ZEROCP_RUNTIME_DIR=$work/run
pids=()
declare -A known=() # what stands for a word in capitals, as far as the operator knows it
clean_up() {
  [[ ${#pids[@]} -eq 0 ]] || kill "${pids[@]}" 2>/dev/null || true
  wait || true
  rm -rf "$work"
}
trap clean_up EXIT
die() {
  echo "runbook_test: $*" >&2
  tail -n 20 "$work"/{log,output,send} 2>/dev/null >&2 || true
  exit 1
}

# same WHAT: what the sources have (sources) is what has an entry (entries), no more and no less.
same() {
  [[ $(wc -l <"$work/sources") -ge 5 ]] || die "found no $1 in the sources"
  diff "$work/sources" "$work/entries" >"$work/output" || die "$1 without entries (<), and entries without $1 (>):"
}
sed -nE 's/^ *- alert: (\w+)$/\1/p' "$alerts" | sort >"$work/sources"
sed -nE 's/^### (Zerocp\w+)$/\1/p' "$book" | sort >"$work/entries"
same alerts
tr '[:upper:]' '[:lower:]' <"$work/entries" >"$work/sources"
sed -nE 's/^ *runbook: deploy.README.md#(\w+)$/\1/p' "$alerts" | sort >"$work/entries"
same "links to alerts"
tr '\n' ' ' <server/error.cc | grep -oP 'Row\{Reason::k\w+, *StatusCode::k\w+, *"\K\w+' | sort >"$work/sources"
sed -nE 's/^\| `([A-Z_]+)` \|.*[^ ] \| .*[^ ] \|$/\1/p' "$book" | sort >"$work/entries"
same reasons

# Each command has its words, and those words the options.
grep -oE '`zerocp[^`]*`' "$book" | tr -d '`' | sort -u >"$work/commands"
[[ $(wc -l <"$work/commands") -ge 15 ]] || die "found no commands"
zerocp --help >"$work/global"
while read -r program rest; do
  words=() options=()
  for word in $rest; do
    if [[ $word == --* ]]; then options+=("$word"); elif [[ $word =~ ^[a-z-]+$ && ${#options[@]} -eq 0 ]]; then words+=("$word"); fi
  done
  command -v "$program" >/dev/null || continue # a metric
  "$program" "${words[@]}" --help >"$work/help" 2>&1 || die "'$program $rest' is no command"
  for option in "${options[@]}"; do
    grep -qE -- "(^| |,)$option\b" "$work/help" "$work/global" || die "'$program $rest': there is no $option"
  done
done <"$work/commands"

# What the entry of the alert says to type: of its step $1, or of the row of its table for a phase.
entry() { sed -n '/^### ZerocpPoolExhausted$/,/^### ZerocpPoolNearly/p' "$book"; }
commands() { grep -oE '`zerocp [^`]*`' | tr -d '`'; }
of_step() { entry | grep -E "^$1\. " | commands; }
of_phase() { entry | grep -E "^ *\| \`$1\` \|" | awk -F'|' '{ print $(NF - 1) }' | commands; }

# type COMMAND: with what the operator knows by then in place of the words in capitals; to $work/output.
type_in() {
  local command=$1
  for word in "${!known[@]}"; do command=${command//$word/${known[$word]}}; done
  typed=$((typed + 1))
  echo "   $command"
  bash -c "$command" >"$work/output" 2>&1 || die "'$command' failed"
}
# read_row COLUMN [FIRST]: of the first row of the table that was printed, or of that which begins with FIRST.
read_row() {
  awk -v name="$1" -v first="${2:-.}" '
    NR == 1 { at = index($0, name) }
    NR > 1 && $1 ~ first { print substr($0, at); exit }' "$work/output" | awk '{ print $1 }'
}

start() { # COMMAND...: in the background
  "$@" &
  pids+=($!)
}
until_true() { # WHAT COMMAND...
  local what=$1
  shift
  until "$@"; do
    for pid in "${pids[@]}"; do kill -0 "$pid" || die "one of the programs has ended, before $what"; done
    sleep 0.05
  done
}
refused() { [[ $(zerocp stats -o json | jq -r '.stats.pools[] | select(.pool == "pools/video").exhausted_count') -gt 0 ]]; }
leaky_is_there() { zerocp sessions | grep leaky >/dev/null; }

# woken PHASE CHANNEL_OPTIONS [LEAKY_ARGUMENT...]: a daemon whose pool of three chunks runs out, with a sender that cannot go on and
# a receiver that has done nothing wrong; the operator; and both have gone through.
woken() {
  local phase=$1 channel=$2
  shift 2
  echo "== the pool is exhausted: $phase"
  pids=()
  : >"$work/log"
  zerocpd --runtime-dir "$work/run" --on-stop=unlink --pool video=4KiBx3 --pool spare=4KiBx3 --channel "frames=video,$channel" \
    --channel idle=spare >"$work/log" 2>&1 &
  pids+=($!)
  until_true "it was ready" grep -q ready: "$work/log"
  if [[ $# -gt 0 ]]; then
    start leaky "$work/run" "$@"
    until_true "leaky came" leaky_is_there
  fi
  start zerocp recv frames -o "$work/copy"
  local receiver=${pids[-1]}
  until_true "the receiver came" eval 'zerocp subscribers | grep -q "zerocp recv"'
  head -c 200000 /dev/urandom >"$work/file"
  start zerocp send frames "$work/file" 2>"$work/send"
  local sender=${pids[-1]}
  until_true "the pool ran out" refused

  known=([POOL]=video [COUNT]=12) typed=0
  type_in "$(of_step 1)"
  [[ $(read_row PHASE) == "$phase" ]] || die "the first row is $(read_row PHASE), not $phase"
  known[SESSION]=$(read_row HOLDER)
  while read -r command; do
    if [[ $command == *SUBSCRIBER* ]]; then
      known[SUBSCRIBER]=$(awk 'NR == 1 { at = index($0, "QUEUED") } NR > 1 { print substr($0, at) + 0, $1 }' "$work/output" | sort -rn | awk 'NR == 1 { print $2 }')
    fi
    type_in "$command"
  done < <(of_phase "$phase")
  [[ $typed -ge 2 ]] || die "there is nothing to type for $phase"
  wait "$sender" || die "the sender that waited failed with $?"
  wait "$receiver" || die "the receiver failed with $?"
  cmp "$work/file" "$work/copy" || die "the receiver has got something else"
  type_in "$(of_step 3)"
  [[ $(read_row FREE video) -gt 0 ]] || die "the pool is still exhausted"
  type_in "$(of_step 4)"
  grep -q pool-exhausted "$work/output" || die "the events do not tell of it"
  [[ $typed -lt 10 ]] || die "that took $typed commands"
  kill "${pids[@]}" 2>/dev/null || true
  wait "${pids[0]}" || die "the daemon ended with $?"
  wait || true
}
woken writing queue=8 idle video
woken queued queue=8 frames spare
woken history queue=8,history=3
echo "runbook_test: OK"
