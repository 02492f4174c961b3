#!/usr/bin/env bash
# What is made from the tree of words: bash and zsh complete them, the manual pages are good roff and
# have every word and option, and the help of each has two examples or more.
# Usage: shell_test.sh GENERATED_DIRECTORY
set -euo pipefail
export PATH=$ZEROCP_BIN_DIR:$PATH
generated=$1
work=$(mktemp -d /tmp/zerocp-shell.XXXXXX)
export ZEROCP_RUNTIME_DIR=$work/run
daemon=''
clean_up() {
  [[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true
  wait || true
  rm -rf "$work"
}
trap clean_up EXIT
die() { echo "shell_test: $*"; exit 1; }

zerocpd --runtime-dir "$ZEROCP_RUNTIME_DIR" --on-stop=unlink --pool video=4KiBx8 --pool audio=4KiBx8 \
  --channel frames=video >"$work/log" 2>&1 &
daemon=$!
until grep -q ready: "$work/log"; do
  kill -0 "$daemon" || { cat "$work/log"; exit 1; }
  sleep 0.01
done

# complete_in_bash WORD...: what completes the last word, sorted, on one line.
complete_in_bash() {
  bash -euo pipefail -c '
    source "$1/zerocp"; shift
    COMP_WORDS=(zerocp "$@") COMP_CWORD=$# COMPREPLY=()
    _zerocp
    ((${#COMPREPLY[@]} == 0)) || printf "%s\n" "${COMPREPLY[@]}" | sort -u | paste -sd " "' _ "$generated" "$@"
}
# The same in zsh, whose own functions are replaced by ones that print.
complete_in_zsh() {
  zsh -f -c '
    compdef() { :; }
    _files() { _matching *(N); }
    _describe() { _matching "${(@)${(P)2}%%:*}"; }
    _matching() { local one; for one; do if [[ $one == $prefix* ]]; then print -r -- $one; fi; done; }
    source "$1/_zerocp"; shift
    words=(zerocp "$@") CURRENT=$(($# + 1)) prefix=$words[-1]
    _zerocp' _ "$generated" "$@" | sort -u | sed '/^$/d' | paste -sd ' '
}
expect() { # WANTED WORD...
  local wanted=$1 shell got
  shift
  for shell in bash zsh; do
    got=$(complete_in_$shell "$@")
    [[ $got == "$wanted" ]] || die "$shell completes 'zerocp $*' to '$got', not '$wanted'"
  done
  echo "zerocp $* -> $wanted"
}
expect 'pools' po
expect 'create delete grow' pools ''
expect 'stats' st
expect '--when-full' channels create x --when
expect 'drop-oldest wait' channels create x --when-full ''
expect 'json' -o j
expect 'json table yaml' pools -o ''
expect 'apply diff reload show' config ''
expect 'debug error info trace warn' log-level ''
expect 'bash zsh' completion ''
expect 'frames' recv ''
expect 'audio video' channels create x --pool ''
expect 'audio' pools grow a
expect 'terminate' --runtime-dir pools sessions t # the value of an option is no word
expect 'pools' -o json po
expect '--timeout' send frames --ti
cd "$work"
touch zerocp.yaml
expect 'zerocp.yaml' config apply z
expect 'zerocp.yaml' recv frames -o z
bash -c 'source "$1/zerocp"; complete -p zerocp' _ "$generated" | grep -q -- '-F _zerocp zerocp'

# What a daemon sends is no command: the words of its rows are completed as they are.
mkdir "$work/stub"
cat >"$work/stub/zerocp" <<'STUB'
#!/bin/sh
printf '%s\n' NAME '$(touch${IFS}ran) 1' '`touch${IFS}ran` 2' '${x-$(touch${IFS}ran)} 3' '* 4' "'one 5" 'two 6'
STUB
chmod +x "$work/stub/zerocp"
PATH=$work/stub:$PATH
# shellcheck disable=SC2016
expect "$(printf '%s\n' '$(touch${IFS}ran)' '`touch${IFS}ran`' '${x-$(touch${IFS}ran)}' '*' "'one" two | sort | paste -sd ' ')" recv ''
# shellcheck disable=SC2016
expect '$(touch${IFS}ran)' channels create x --pool '$(t'
expect 'two' pools grow t
[[ ! -e ran ]] || die "a completion ran what a daemon sent"
PATH=${PATH#*:}

# Every page: no warning of groff, its word's options, and two examples of its help.
pages=("$generated"/man/*.1)
((${#pages[@]} > 25)) || die "only ${#pages[@]} pages"
for page in "${pages[@]}"; do
  groff -man -Tutf8 -ww -z "$page" 2>"$work/warnings"
  [[ ! -s $work/warnings ]] || { cat "$work/warnings"; exit 1; }
  groff -man -Tascii -P-c -P-b -P-u -rLL=200n "$page" >"$work/text"
  read -r -a word <<<"$(sed -nE 's/^ +zerocp ([a-z -]*)\[options\].*/\1/p' "$work/text" | head -n 1)"
  zerocp "${word[@]}" --help >"$work/help"
  examples=$(sed -n '/^Examples:/,/^$/p' "$work/help" | grep -c "^  zerocp ${word[*]}")
  ((examples >= 2)) || die "zerocp ${word[*]} --help has $examples examples"
  grep -oE '^  (-.,)?--[a-z0-9-]+' "$work/help" | grep -oE -- '--[a-z0-9-]+' >"$work/options"
  while read -r option; do
    grep -qE -- "^ +(-., )?$option( |$)" "$work/text" || die "$page has no $option"
  done <"$work/options"
  grep -q '^EXAMPLES' "$work/text" || die "$page has no examples"
done
echo "shell_test: OK, ${#pages[@]} pages"
