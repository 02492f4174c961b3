#!/usr/bin/env bash
# Every command in the documents works: the ```sh blocks of each are run in order, in one shell, and the
# C++ of the README compiles.
set -euo pipefail
cd "$ZEROCP_SOURCE_DIR"
export PATH=$ZEROCP_BIN_DIR:${ZEROCP_TOOLS:-/usr/local/lib/zerocp-tools}:$PATH
work=$(mktemp -d /tmp/zerocp-documents.XXXXXX)
daemon=''
clean_up() {
  [[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true
  wait || true
  rm -rf "$work"
}
trap clean_up EXIT

# blocks LANGUAGE FILE: the contents of its fenced blocks.
blocks() { sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/{/^\`\`\`/d;p}" "$2"; }

run() { # FILE
  # The programs of the tree under test, where the README says the quickstart's.
  blocks sh "$1" | sed "s|\\\$PWD/build/minimal/bin|$ZEROCP_BIN_DIR|" >"$work/commands"
  [[ -s $work/commands ]] || { echo "$1 has no sh blocks"; exit 1; }
  echo "== $1: $(grep -c . "$work/commands") lines"
  TMPDIR=$work bash -euo pipefail "$work/commands" </dev/null >"$work/output" 2>&1 || {
    cat "$work/output"
    echo "documents_test: a command of $1 fails (above)"
    exit 1
  }
}

run README.md

# The guide makes pools and channels by name: each grpcurl gets a daemon of its own.
for grpcurl in grpcurl grpcurl-newest; do
  if [[ -n $daemon ]]; then
    kill "$daemon"
    wait "$daemon"
  fi
  : >"$work/log"
  zerocpd --runtime-dir "$work/run" --on-stop=unlink >"$work/log" 2>&1 &
  daemon=$!
  until grep -q ready: "$work/log"; do
    kill -0 "$daemon" || { cat "$work/log"; exit 1; }
    sleep 0.01
  done
  ADMIN=$work/run/admin.sock GRPCURL=$grpcurl run proto/README.md
done

blocks cpp README.md >"$work/example.cc"
[[ -s $work/example.cc ]]
"${CXX:-c++}" -std=c++20 -Wall -Wextra -Werror ${1:+"$1"} -Iclient/include "$work/example.cc" -o "$work/example" \
  "$ZEROCP_BIN_DIR/../lib/libzerocp.so" -Wl,-rpath,"$ZEROCP_BIN_DIR/../lib"
ZEROCP_RUNTIME_DIR=$work/run "$work/example"
echo "documents_test: every command works, the example compiles and runs"
