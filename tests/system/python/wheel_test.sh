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

# Its type hints hold, and a user's program that does not keep to them is told so.
mypy() { "${ZEROCP_TOOLS:-/usr/local/lib/zerocp-tools}/python/bin/mypy" --strict --cache-dir "$work/mypy" --python-executable "$python" "$@"; }
mypy -p zerocp
cat >user.py <<'PYTHON'
import zerocp


def main() -> None:
    with zerocp.Client(name="typed") as client, client.join_subscriber("frames", lossy=True) as subscriber:
        publisher = client.join_publisher("frames")
        publisher.publish(publisher.new_array((480, 640), "f4"))
        try:
            for sample in subscriber:
                print(sample.sequence, memoryview(sample).nbytes)
        except zerocp.PublisherDied as died:
            print(died.code, subscriber.take_array(1.5).sum())


async def later(subscriber: zerocp.Subscriber) -> None:
    async for sample in subscriber:
        print(sample.header)


main()
PYTHON
mypy user.py
sed 's/lossy=True/lossy="yes"/' user.py >wrong.py
! mypy wrong.py >"$work/report" || { echo "wheel_test: a wrong argument is not told of"; exit 1; }
grep -q 'error: Argument "lossy"' "$work/report" || { cat "$work/report"; exit 1; }

"$python" -m pip uninstall --quiet --yes zerocp
left=$(find "$work/env" -path "$work/env/*zerocp*")
[[ -z $left ]] || { echo "wheel_test: left behind: $left"; exit 1; }
