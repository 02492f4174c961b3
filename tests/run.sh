#!/usr/bin/env bash
# Builds zerocp and runs its tests. A test that is skipped, disabled or not run is a failure.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: tests/run.sh [--preset PRESET] [-j JOBS] [ctest options...]

Installs what is missing, configures, builds and runs the whole suite, or the part that the ctest
options choose.

  --preset PRESET   release (default), debug, asan or tsan; the tree is build/PRESET
  -j JOBS           compilers and tests at a time (default: all processors)
  --help            this text

Useful ctest options: -L LABEL (unit system kill model bench), -R REGEX, -V.
For example: tests/run.sh --preset asan -L kill
USAGE
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=release
jobs=$(nproc)
ctest_options=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --preset | -j)
      [[ $# -ge 2 ]] || {
        echo "run.sh: $1 needs a value" >&2
        exit 2
      }
      if [[ $1 == -j ]]; then jobs=$2; else preset=$2; fi
      shift
      ;;
    --help | -h)
      usage
      exit 0
      ;;
    *) ctest_options+=("$1") ;;
  esac
  shift
done

deploy/setup.sh
export PATH=${ZEROCP_TOOLS:-/usr/local/lib/zerocp-tools}:$PATH
tree=$PWD/build/$preset
mkdir -p build
cmake --preset "$preset" >"$tree.log" 2>&1 || {
  cat "$tree.log" >&2
  exit 1
}
cmake --build "$tree" -j "$jobs"

report=$tree/ctest.xml
rm -f "$report"
status=0
ctest --test-dir "$tree" -j "$jobs" --output-on-failure --no-tests=error \
  --output-junit "$report" "${ctest_options[@]}" || status=$?
[[ -f $report ]] || {
  echo "run.sh: no tests were run (ctest says $status)" >&2
  exit 1
}

# The counts of the whole run are in the first element of the report.
count() { grep -om1 "[[:space:]]$1=\"[0-9]*\"" "$report" | tr -dc '0-9'; }
tests=$(count tests) failures=$(count failures) left_out=$(($(count skipped) + $(count disabled)))
echo "run.sh: preset $preset: $tests tests, $failures failed, $left_out skipped or not run"
[[ $status -eq 0 && $tests -gt 0 && $failures -eq 0 && $left_out -eq 0 ]]
