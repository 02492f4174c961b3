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
chosen=$(rows | grep -vE '\|[a-z]+_fuzz\|' |
  awk -F'|' -v numbers=" $* " 'numbers ~ /^ *$/ || index(numbers, " " $1 " ")')
[[ -n $chosen ]] || die "no such mutant here: $*; tests/fuzz/run.sh checks those of the fuzzers"
while IFS='|' read -r number file what tests filter; do
  [[ -n $filter ]] || die "$table: row $number needs five columns"
  seeded "$file" | grep -x "$number" >/dev/null || die "row $number: no 'Mutant($number)' in $file"
done <<<"$chosen"

# The test of a name is a target of the same name.
mapfile -t targets < <(cut -d'|' -f4 <<<"$chosen" | sort -u)
mkdir -p build
echo "mutants: building ${#targets[@]} tests in $tree"
if ! { cmake --preset mutants && cmake --build "$tree" --target "${targets[@]}"; } >"$log" 2>&1; then
  tail -40 "$log" >&2
  die "cannot build $tree"
fi

# What ctest says of all tests of the tree.
ctest --test-dir "$tree" --show-only=json-v1 >"$tree/tests.json"

# run FOLDER TIMEOUTS <ENTRIES: runs each entry, NUMBER|TEST|FILTER, as a test of its own: ctest's, with
# its properties, and the bug in the environment. TIMEOUTS has the seconds of those that have fewer than
# their test.
run() {
  local folder=$PWD/$tree/$1 entries
  entries=$(cat)
  rm -rf "$folder"
  mkdir -p "$folder"
  jq -r --arg entries "$entries" --argjson timeouts "$2" '
    def quoted: "[==[\(.)]==]";
    INDEX(.tests[]; .name) as $tests | $entries | split("\n")[] | . as $name
    | split("|") as [$number, $test, $filter]
    | ($tests[$test] // error("ctest has no test \($test)"))
    | (.properties | map({key: .name, value}) | from_entries
        | .TIMEOUT = ([.TIMEOUT, $timeouts["0|\($test)|\($filter)"] // empty] | min) | .COST = .TIMEOUT
        | .ENVIRONMENT += ["ZEROCP_MUTANT=" + $number, "GTEST_FILTER=" + $filter, "GTEST_FAIL_FAST=1"]
        | map_values(if type == "array" then map(tostring) | join(";") else tostring end)) as $properties
    | "add_test(\($name | quoted) \(.command | map(quoted) | join(" ")))",
      "set_tests_properties(\($name | quoted) PROPERTIES " +
        ($properties | to_entries | map("\(.key) \(.value | quoted)") | join(" ")) + ")"
  ' "$tree/tests.json" >"$folder/CTestTestfile.cmake"
  ctest --test-dir "$folder" -j "$(nproc)" --no-tests=error --output-junit "$folder/report.xml" 2>&1 |
    sed -unE 's/^( *[0-9]+\/[0-9]+) Test +#[0-9]+: (.*) \.+(.*\*\*\*| +)([A-Z][a-z]+( Run)?).* ([0-9.]+ sec).*/\1 \2: \4, \6/p' || true
}

# said FOLDER: lines of NAME, tab, ctest's word for what came of it, tab, seconds.
said() {
  sed -nE 's/.*<testcase name="([^"]*)".* time="([0-9.e-]+)" status="([a-z]+)".*/\1\t\3\t\2/p' "$tree/$1/report.xml"
}

# What a test says with a bug is worth something only if it passes without. A bug is caught by the first
# test case that fails, or that stands still: takes ten times as long, and 30 s.
echo "mutants: running them without a bug"
awk -F'|' '{ print "0|" $4 "|" $5 }' <<<"$chosen" | sort -u | run without '{}'
echo "mutants: running them with the bugs"
cut -d'|' -f1,4,5 <<<"$chosen" |
  run with "$(said without | jq -Rn '[inputs | split("\t") | {(.[0]): ([(.[2] | tonumber) * 10, 30] | max)}] | add')"

# passed, failed, or broken: the test was not run at all.
declare -A came_of
while IFS=$'\t' read -r name word _; do
  case $word in
    run) came_of[$name]=passed ;;
    fail) came_of[$name]=failed ;;
  esac
done < <(said without && said with)

wrong=0
total=0
while IFS='|' read -r number file what tests filter; do
  before=${came_of["0|$tests|$filter"]:-broken}
  after=${came_of["$number|$tests|$filter"]:-broken}
  verdict=caught
  if [[ $before != passed ]]; then
    verdict="WRONG: $before without the bug"
  elif [[ $after != failed ]]; then
    verdict="WRONG: $after with the bug"
  fi
  [[ $verdict == caught ]] || wrong=$((wrong + 1))
  total=$((total + 1))
  printf '%3s  %-28s %-44s %s %s: %s\n' "$number" "$file" "$what" "$tests" "$filter" "$verdict"
done <<<"$chosen"

echo "mutants: $total seeded, $((total - wrong)) caught, $wrong wrong"
[[ $wrong -eq 0 ]] || die "what the tests print is in $tree/{without,with}/Testing/Temporary/LastTest.log"
