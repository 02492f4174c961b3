#!/usr/bin/env bash
# Every command in the documents works: the ```sh blocks of each are run in order, in one shell. Their C and
# C++ compiles and runs. And they leave nothing out: each RPC and each function of the library is in them.
# Usage: documents_test.sh [COMPILER_OPTION...]
set -euo pipefail
cd "$ZEROCP_SOURCE_DIR"
options=("$@")
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

# tags FILE...: a line for each file and tag of a fenced block; one without a tag has none.
tags() { awk 'FNR == 1 { inside = 0 } /^ *```/ && (inside = !inside) { print FILENAME ":" substr($0, index($0, "```") + 3) }' "$@" | LC_ALL=C sort -u; }

# Each block of each document is run, here or (with a second word) by packages_test.sh, or is no command.
cat >"$work/tags" <<'RUN'
README.md:cpp
README.md:sh
README.md:text
client/README.md:c
client/README.md:cpp
client/README.md:sh
client/cli/README.md:sh
client/cli/README.md:text
client/examples/README.md:sh
client/python/README.md:python
client/python/README.md:sh
deploy/README.md:sh
deploy/README.md:sh develop
deploy/README.md:sh install
deploy/README.md:sh purge
deploy/README.md:sh systemd
proto/README.md:sh
RUN
mapfile -t documents < <(find . -name '*.md' -not -path './build/*' -not -path './.*' -printf '%P\n')
tags "${documents[@]}" | diff - "$work/tags" || {
  echo "documents_test: blocks that nobody runs (<), and tags that no document has (>)"
  exit 1
}
cat >"$work/seed.md" <<'SEED'
x
```
ls
```
```sh
ls
```
SEED
[[ $(cd "$work" && tags seed.md) == $'seed.md:\nseed.md:sh' ]] || { echo "documents_test: a block without a tag is not seen"; exit 1; }

run() { # FILE
  # The programs of the tree under test, where the README says the quickstart's.
  # Job control, so that what is left behind can be ended with its children.
  echo "set -m; trap 'kill -- \$(jobs -p | sed s/^/-/) 2>/dev/null || true' EXIT" >"$work/commands"
  blocks sh "$1" | sed "s#\\\$PWD/build/\(minimal\|release\)/bin#$ZEROCP_BIN_DIR#; s|build/minimal/python|$ZEROCP_BIN_DIR/../python|
    s|guide.py|$work/guide.py|; s|--install build/minimal|--install $ZEROCP_BIN_DIR/..|" >>"$work/commands"
  [[ $(wc -l <"$work/commands") -gt 1 ]] || { echo "$1 has no sh blocks"; exit 1; }
  echo "== $1: $(grep -c . "$work/commands") lines"
  TMPDIR=$work bash -euo pipefail "$work/commands" </dev/null >"$work/output" 2>&1 || {
    cat "$work/output"
    echo "documents_test: a command of $1 fails (above)"
    exit 1
  }
}

# compile LANGUAGE STANDARD SOURCE PROGRAM
compile() {
  "${CXX:-c++}" -x "$1" -std="$2" -Wall -Wextra -Werror "${options[@]}" -Iclient/include -Ishm/include "$3" -x none -o "$4" \
    "$ZEROCP_BIN_DIR/../lib/libzerocp.so" -Wl,-rpath,"$ZEROCP_BIN_DIR/../lib"
}

# demand WHAT NAMES BLOCKS: each name is in the blocks, as a word.
demand() {
  [[ $(wc -l <"$2") -ge 10 ]] || { echo "documents_test: found only $(wc -l <"$2") $1"; exit 1; }
  local missing
  missing=$(grep -owFf "$2" "$3" | sort -u | comm -23 <(sort -u "$2") -)
  [[ -z $missing ]] || { echo "documents_test: $1 that no example has: ${missing//$'\n'/ }"; exit 1; }
  echo "== $(wc -l <"$2") $1 are in the examples"
}

sed -nE 's/^ *rpc (\w+)\(.*/\1/p' proto/zerocp/v1/*.proto >"$work/names"
blocks sh proto/README.md >"$work/blocks"
demand "RPCs" "$work/names" "$work/blocks"
# What is public, but for constructors and operators.
sed '/^ private:/,/^};/d; /^namespace internal/,/^}.*namespace/d; / operator/d' client/include/zerocp/*.h |
  sed -nE 's/^(  )?[A-Za-z][A-Za-z0-9_:<>,*& ]* (\w+)\(.*/\2/p' | sort -u >"$work/names"
blocks cpp client/README.md >"$work/blocks"
blocks cpp README.md >>"$work/blocks"
demand "functions of the C++ headers" "$work/names" "$work/blocks"
grep -ozP 'ZEROCP_API [^(]*?\Kzerocp_\w+(?=\()' client/include/zerocp.h | tr '\0' '\n' >"$work/names"
{ blocks c client/README.md && cat client/include/zerocp/*.h; } >"$work/blocks"
demand "functions of zerocp.h" "$work/names" "$work/blocks"

run README.md

# The guide's first block is the head of its file, each of the others a scope in its main().
awk '
  /^```cpp$/ {
    inside = 1
    if (++count == 2) print "int main() {\n  zerocp::Client client = Connect();"
    if (count > 1) print "{"
    next
  }
  /^```$/ && inside {
    inside = 0
    if (count > 1) print "}"
  }
  inside
  END { print "}" }' client/README.md >"$work/guide.cc"
compile c++ c++20 "$work/guide.cc" "$work/guide"
blocks c client/README.md >"$work/guide.c"
compile c c11 "$work/guide.c" "$work/guide-c"
PATH=$work:$PATH run client/README.md
run client/cli/README.md
run deploy/README.md
# What follows builds programs and a wheel without sanitizers.
if [[ ${#options[@]} -eq 0 ]]; then
  blocks python client/python/README.md >"$work/guide.py"
  # OpenCV, which a reader installs.
  mkdir "$work/opencv"
  ln -s "${ZEROCP_TOOLS:-/usr/local/lib/zerocp-tools}"/python/lib/python3.*/site-packages/{cv2,opencv_python_headless.libs} "$work/opencv"
  PYTHONPATH=$work/opencv run client/python/README.md
  run client/examples/README.md
fi

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
compile c++ c++20 "$work/example.cc" "$work/example"
ZEROCP_RUNTIME_DIR=$work/run "$work/example"
echo "documents_test: every command works; the examples compile, run, and leave nothing out"
