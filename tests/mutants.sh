#!/usr/bin/env bash
# Proves that the tests catch bugs: builds each seeded bug of tests/mutants.txt (-DZEROCP_MUTANT=n)
# in build/mutant-n and demands that the named test fails with it and passes without it.
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
die() {
  echo "mutants: $*" >&2
  exit 1
}

# Prints the table's rows as n|file|what|tests|preset, without comments and outer blanks.
rows() {
  sed -e '/^[[:space:]]*#/d' -e 's/[[:space:]]*|[[:space:]]*/|/g' -e 's/^[[:space:]]*//' \
    -e 's/[[:space:]]*$//' -e '/^$/d' "$table"
}

# seeded FOLDER|FILE...: the numbers of the bugs seeded there.
seeded() {
  grep -rhoE '\b(Mutant\([0-9]+\)|ZEROCP_MUTANT == [0-9]+)' --include='*.h' --include='*.cc' "$@" |
    grep -oE '[0-9]+' | sort -nu || true
}

# The numbers in the code and those in the table are the same.
in_code=$(seeded shm client server)
in_table=$(rows | cut -d'|' -f1 | sort -n)
[[ -n $in_table ]] || die "$table has no rows"
[[ $in_code == "$in_table" ]] || {
  diff <(echo "$in_code") <(echo "$in_table") >&2 || true
  die "the numbers in the code (<) and in $table (>) differ, or one is used twice"
}

# configure TREE PRESET MUTANT
configure() {
  mkdir -p build
  cmake --preset "$2" -B "$1" -DZEROCP_MUTANT="$3" >"$1.log" 2>&1 || {
    cat "$1.log" >&2
    die "cannot configure $1"
  }
}

# build TREE REGEX: builds the tests whose names match, each of which is a target of the same name.
build() {
  local targets
  mapfile -t targets < <(ctest --test-dir "$1" -N -R "$2" | sed -n 's/^ *Test *#[0-9]*: *//p')
  [[ ${#targets[@]} -gt 0 ]] || die "no test in $1 matches '$2'"
  cmake --build "$1" --target "${targets[@]}" >>"$1.log" 2>&1 || {
    tail -40 "$1.log" >&2
    die "cannot build ${targets[*]} in $1"
  }
}

# run TREE REGEX: prints passed, failed or broken (a test was not run at all).
run() {
  local report=$1/mutant.xml
  rm -f "$report"
  if ctest --test-dir "$1" -R "$2" --timeout 120 --no-tests=error --output-junit "$PWD/$report" \
    >"$1/mutant.out" 2>&1; then
    echo passed
  elif grep -q 'status="fail"' "$report" && ! grep -qE '\*\*\*Not Run' "$1/mutant.out"; then
    echo failed
  else
    echo broken
  fi
}

# A mutant is caught by the first test that fails.
export GTEST_FAIL_FAST=1
declare -A without # what a test said without a bug, by preset and test
wrong=0
total=0
result=()
while IFS='|' read -r number file what tests preset; do
  if [[ $# -gt 0 && " $* " != *" $number "* ]]; then continue; fi
  [[ -n $preset ]] || die "$table: row $number needs five columns"
  seeded "$file" | grep -qx "$number" || die "row $number: no 'Mutant($number)' in $file"
  plain=build/$preset
  mutant=build/mutant-$number
  if [[ -z ${without[$plain $tests]:-} ]]; then
    configure "$plain" "$preset" 0
    build "$plain" "$tests"
    without[$plain $tests]=$(run "$plain" "$tests")
  fi
  before=${without[$plain $tests]}
  configure "$mutant" "$preset" "$number"
  build "$mutant" "$tests"
  after=$(run "$mutant" "$tests")
  verdict=caught
  if [[ $before != passed ]]; then
    verdict="WRONG: $before without the bug"
  elif [[ $after != failed ]]; then
    verdict="WRONG: $after with the bug"
  fi
  [[ $verdict == caught ]] || wrong=$((wrong + 1))
  total=$((total + 1))
  result+=("$(printf '%3s  %-28s %-44s %s (%s): %s' "$number" "$file" "$what" "$tests" "$preset" "$verdict")")
  echo "mutant $number: $verdict"
done < <(rows)

[[ $total -gt 0 ]] || die "no such mutant: $*"
printf '%s\n' "${result[@]}"
echo "mutants: $total seeded, $((total - wrong)) caught, $wrong wrong"
[[ $wrong -eq 0 ]]
