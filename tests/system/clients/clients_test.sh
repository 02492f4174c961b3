#!/usr/bin/env bash
# Real clients of other languages live an operator's story with a daemon of their own.
#
#   clients_test.sh python|node
set -euo pipefail
tools=${ZEROCP_TOOLS:-/usr/local/lib/zerocp-tools}
here=$(dirname "${BASH_SOURCE[0]}")
protos=$ZEROCP_SOURCE_DIR/proto
work=$(mktemp -d /tmp/zerocp-clients.XXXXXX)
daemon=''
clean_up() {
  [[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true
  wait || true
  rm -rf "$work"
}
trap clean_up EXIT

: >"$work/log"
"$ZEROCP_BIN_DIR/zerocpd" --runtime-dir "$work/run" --on-stop=unlink --pool none=64x1 --channel none=none \
  >"$work/log" 2>&1 &
daemon=$!
until grep -q ready: "$work/log"; do
  kill -0 "$daemon" || { cat "$work/log"; exit 1; }
  sleep 0.01
done
case $1 in
  python) "$tools/python/bin/python" "$here/story.py" "$protos" "$work/run" "$ZEROCP_BIN_DIR" ;;
  node) NODE_PATH=$tools/node/node_modules node "$here/story.js" "$protos" "$work/run" "$ZEROCP_BIN_DIR" ;;
esac || { cat "$work/log"; exit 1; }
