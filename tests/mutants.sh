#!/usr/bin/env bash
# Proves that the tests catch bugs: demands that each seeded bug of tests/mutants.txt makes the named
# test cases fail, and that they pass without it. One build has all the bugs, and the environment
# (ZEROCP_MUTANT=n) chooses one.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: tests/mutants.sh [NUMBER...]

Runs all mutants of tests/mutants.txt, or those with the given numbers.
USAGE
}

case ${1:-} in
  --help | -h)
    usage
    exit 0
    ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=${ZEROCP_TOOLS:-/usr/local/lib/zerocp-tools}:$PATH
table=tests/mutants.txt
tree=build/mutants
log=$tree.log
die() {
  echo "mutants: $*" >&2
  exit 1
}

# Prints the table's rows as n|file|what|test|filter, without comments and outer blanks.
rows() {
  sed -e '/^[[:space:]]*#/d' -e 's/[[:space:]]*|[[:space:]]*/|/g' -e 's/^[[:space:]]*//' \
    -e 's/[[:space:]]*$//' -e '/^$/d' "$table"
}

# seeded FOLDER|FILE...: the numbers of the bugs seeded there.
seeded() {
  grep -rhoE '\bMutant\([0-9]+\)' --include='*.h' --include='*.cc' "$@" | grep -oE '[0-9]+' |
    sort -nu || true
}

# The numbers in the code and those in the table are the same. A bug that several tests catch has a
# row for each.
in_code=$(seeded shm proto client server)
in_table=$(rows | cut -d'|' -f1-3 | sort -u | cut -d'|' -f1 | sort -n)
[[ -n $in_table ]] || die "$table has no rows"
[[ $in_code == "$in_table" ]] || {
  diff <(echo "$in_code") <(echo "$in_table") >&2 || true
  die "the numbers in the code (<) and in $table (>) differ, or one stands for two bugs"
}

# Those of libFuzzer's programs are run.sh's in tests/fuzz.
rows_here() { rows | grep -vE '\|[a-z]+_fuzz\|'; }

# The test of a name is a target of the same name.
mapfile -t targets < <(rows_here | cut -d'|' -f4 | sort -u)
mkdir -p build
echo "mutants: building ${#targets[@]} tests in $tree"
if ! { cmake --preset mutants && cmake --build "$tree" --target "${targets[@]}"; } >"$log" 2>&1; then
  tail -40 "$log" >&2
  die "cannot build $tree"
fi

# run NUMBER TEST FILTER: prints passed, failed or broken (the test was not run at all).
run() {
  local report=$tree/mutant.xml out=$tree/mutant-$1.out
  rm -f "$report"
  if ZEROCP_MUTANT=$1 GTEST_FILTER=$3 ctest --test-dir "$tree" -R "^$2\$" --timeout 120 \
    --no-tests=error --output-junit "$PWD/$report" >"$out" 2>&1; then
    echo passed
  elif grep -q 'status="fail"' "$report" && ! grep -qE '\*\*\*Not Run' "$out"; then
    echo failed
  else
    echo broken
  fi
}

# A mutant is caught by the first test case that fails.
export GTEST_FAIL_FAST=1
declare -A without # what test cases said without a bug, by test and filter
wrong=0
total=0
result=()
while IFS='|' read -r number file what tests filter; do
  if [[ $# -gt 0 && " $* " != *" $number "* ]]; then continue; fi
  [[ -n $filter ]] || die "$table: row $number needs five columns"
  seeded "$file" | grep -x "$number" >/dev/null || die "row $number: no 'Mutant($number)' in $file"
  before=${without[$tests $filter]:=$(run 0 "$tests" "$filter")}
  after=$(run "$number" "$tests" "$filter")
  verdict=caught
  if [[ $before != passed ]]; then
    verdict="WRONG: $before without the bug"
  elif [[ $after != failed ]]; then
    verdict="WRONG: $after with the bug"
  fi
  [[ $verdict == caught ]] || wrong=$((wrong + 1))
  total=$((total + 1))
  result+=("$(printf '%3s  %-28s %-44s %s %s: %s' "$number" "$file" "$what" "$tests" "$filter" "$verdict")")
  echo "mutant $number: $verdict"
done < <(rows_here)

[[ $total -gt 0 ]] || die "no such mutant here: $*; tests/fuzz/run.sh checks those of the fuzzers"
printf '%s\n' "${result[@]}"
echo "mutants: $total seeded, $((total - wrong)) caught, $wrong wrong"
[[ $wrong -eq 0 ]]
