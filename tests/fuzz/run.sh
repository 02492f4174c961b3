#!/usr/bin/env bash
# Fuzzes what reads bytes of strangers: builds the programs of this folder, runs each, demands that
# together they cover the lines of validation.txt, and that each catches its seeded bugs.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: tests/fuzz/run.sh [PROGRAM...]

Runs segment_fuzz, attach_fuzz, recovery_fuzz and restart_fuzz, or those named (then without the demand on coverage).
What they find is in build/fuzz/findings; a program with such a file as its argument runs it again.

Environment:
  ZEROCP_FUZZ_SECONDS   for each program, which runs its first inputs in any case (default 15)
  ZEROCP_FUZZ_SEED      of libFuzzer's random numbers (default 1)
USAGE
}

case ${1:-} in
  --help | -h)
    usage
    exit 0
    ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
programs=("$@")
[[ $# -gt 0 ]] || programs=(segment_fuzz attach_fuzz recovery_fuzz restart_fuzz)
tree=$PWD/build/fuzz
findings=$tree/findings
seconds=${ZEROCP_FUZZ_SECONDS:-15}
least=90 # percent of the lines of all files of validation.txt
least_of_one=75
die() {
  echo "fuzz: $*" >&2
  exit 1
}

mkdir -p "$findings"
if ! { cmake --preset fuzz && cmake --build "$tree" --target "${programs[@]}"; } >"$tree.log" 2>&1; then
  tail -40 "$tree.log" >&2
  die "cannot build $tree"
fi

# In memory: each input is two files.
work=$(mktemp -d -p /dev/shm zerocp_fuzz_XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tmp"
export TMPDIR=$work/tmp ASAN_OPTIONS=quarantine_size_mb=16

# fuzz PROGRAM SECONDS LOG [OPTION...]: with the program's own first inputs.
fuzz() {
  local program=$1 time=$2 log=$3 corpus=$work/$1
  shift 3
  if [[ ! -d $corpus ]]; then
    mkdir "$corpus" "$corpus.new"
    ZEROCP_FUZZ_SEEDS=$corpus LLVM_PROFILE_FILE=/dev/null "$tree/bin/$program" -runs=0 >"$log" 2>&1
  fi
  "$tree/bin/$program" -seed="${ZEROCP_FUZZ_SEED:-1}" -max_total_time="$time" -timeout=20 -max_len=8192 \
    -len_control=0 -use_value_profile=1 -print_final_stats=1 -artifact_prefix="$findings/$program-" "$@" \
    "$corpus.new" "$corpus" >"$log" 2>&1
}

profiles=()
for program in "${programs[@]}"; do
  log=$tree/$program.log
  profiles+=("$work/$program.profraw")
  LLVM_PROFILE_FILE=${profiles[-1]} fuzz "$program" "$seconds" "$log" || {
    tail -60 "$log" >&2
    die "$program found something (log: $log, inputs: $findings)"
  }
  count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  echo "fuzz: $program: ${count:?nothing was run} inputs, no findings"
done

# A seeded bug is caught by the first finding, which is an input: not by a program that does not start, and not by a
# slow machine.
number_of() { sed -nE "s/^([0-9]+) +\|.*\| *$1 *\|.*/\1/p" tests/mutants.txt; }
for program in "${programs[@]}"; do
  mapfile -t mutants < <(number_of "$program")
  [[ ${#mutants[@]} -gt 0 ]] || die "tests/mutants.txt has no bug for $program to catch"
  for mutant in "${mutants[@]}"; do
    start=$SECONDS
    if ZEROCP_MUTANT=$mutant LLVM_PROFILE_FILE=/dev/null fuzz "$program" "$seconds" "$tree/mutant-$mutant.log" \
      -artifact_prefix="$work/mutant-$mutant-"; then
      die "$program does not catch mutant $mutant"
    fi
    compgen -G "$work/mutant-$mutant-crash-*" >/dev/null || compgen -G "$work/mutant-$mutant-leak-*" >/dev/null ||
      die "$program broke with mutant $mutant, but found nothing (log: $tree/mutant-$mutant.log)"
    echo "fuzz: $program catches mutant $mutant in $((SECONDS - start)) s"
  done
done

[[ $# -eq 0 ]] || exit 0
llvm-profdata-14 merge -sparse -o "$work/profile" "${profiles[@]}"
mapfile -t files < <(grep -vE '^(#|$)' tests/fuzz/validation.txt)
objects=("$tree/bin/${programs[0]}")
for program in "${programs[@]:1}"; do objects+=(-object="$tree/bin/$program"); done
llvm-cov-14 export -summary-only -instr-profile "$work/profile" "${objects[@]}" >"$work/coverage" 2>"$work/warnings" || {
  cat "$work/warnings" >&2
  die "llvm-cov-14 failed"
}
# A compiler cache may have stored paths relative to the tree.
jq -r '.data[0].files[] | (.filename | sub(".*/(?=(shm|server|client)/)"; "")) as $name
       | select($name | IN($ARGS.positional[])) | "\($name) \(.summary.lines.covered) \(.summary.lines.count)"' \
  "$work/coverage" --args "${files[@]}" | awk -v least="$least" -v least_of_one="$least_of_one" -v wanted="${#files[@]}" '
    { percent = 100 * $2 / $3; covered += $2; all += $3
      printf "fuzz: %-34s %4d of %4d lines, %5.1f %%%s\n", $1, $2, $3, percent, percent < least_of_one ? "  TOO FEW" : ""
      bad += percent < least_of_one }
    END { printf "fuzz: coverage of the validation code: %d of %d lines, %.1f %%\n", covered, all, 100 * covered / all
          exit bad > 0 || NR != wanted || 100 * covered / all < least }' ||
  die "the ${#files[@]} files of tests/fuzz/validation.txt need $least % together, and $least_of_one % each"
