#!/usr/bin/env bash
# The wheel serves a user: installed into an environment of its own, without the build tree's
# library, it passes the package's test; removed, it leaves nothing.
#
#   wheel_test.sh BUILD_DIR PYTHON
set -euo pipefail
work=$(mktemp -d /tmp/zerocp-wheel.XXXXXX)
trap 'rm -rf "$work"' EXIT
wheels=("$1"/python/zerocp-*.whl)
[[ ${#wheels[@]} -eq 1 && -f ${wheels[0]} ]] || { echo "wheel_test: not one wheel: ${wheels[*]}"; exit 1; }
"$2" -m venv --system-site-packages "$work/env"
python=$work/env/bin/python
"$python" -m pip install --quiet --no-index --no-deps "${wheels[0]}"
cd "$work" # nothing of the source tree is on the path
file=$("$python" -c 'import zerocp._core; print(zerocp._core.__file__)')
[[ $file == "$work"/env/* ]] || { echo "wheel_test: $file is not the installed one"; exit 1; }
ldd "$file" | grep -F "libzerocp.so.1 => $work/env/" || { ldd "$file"; echo "wheel_test: not the wheel's library"; exit 1; }
"$python" -B "$ZEROCP_SOURCE_DIR/tests/system/python/python_test.py"
"$python" -m pip uninstall --quiet --yes zerocp
left=$(find "$work/env" -path "$work/env/*zerocp*")
[[ -z $left ]] || { echo "wheel_test: left behind: $left"; exit 1; }
