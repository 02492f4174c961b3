#!/usr/bin/env bash
# clang-tidy (.clang-tidy) and Clang's thread-safety analysis over the product's sources, with the
# compile commands of the release tree, which must have been built (generated headers).
# With --self-test: proves that both report a seeded bug.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tree=build/release
# The commands are GCC's: Clang does not know all of its warnings.
tidy=(clang-tidy-14 --quiet "--config-file=$PWD/.clang-tidy" --extra-arg=-Wthread-safety
  --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-error)

if [[ ${1:-} == --self-test ]]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cat >"$work/seed.cc" <<'SEED'
struct __attribute__((capability("mutex"))) Mutex {};
Mutex mutex;
int guarded __attribute__((guarded_by(mutex)));
int main() {
  guarded = 1;
  int* nothing = nullptr;
  return *nothing;
}
SEED
  report=$("${tidy[@]}" "$work/seed.cc" -- -std=c++20 2>&1) && {
    echo "tidy: the seeded bugs were accepted" >&2
    exit 1
  }
  for check in clang-diagnostic-thread-safety-analysis clang-analyzer-core.NullDereference; do
    grep -q "error:.*$check" <<<"$report" || {
      printf '%s\ntidy: %s reported nothing\n' "$report" "$check" >&2
      exit 1
    }
  done
  echo "tidy: self-test: both seeded bugs were reported"
  exit 0
fi

[[ -f $tree/compile_commands.json ]] || {
  echo "tidy: no $tree/compile_commands.json: run tests/run.sh first" >&2
  exit 1
}
# Every source of ours that the tree compiles; generated code lies in build/.
mapfile -t sources < <(jq -r '.[].file' "$tree/compile_commands.json" | sort -u |
  grep -E "^$PWD/(shm|client|server)/.*\.cc\$" || true)
[[ ${#sources[@]} -gt 0 ]] || {
  echo "tidy: $tree compiles no source of ours" >&2
  exit 1
}
printf '%s\0' "${sources[@]}" | xargs -0 -n 1 -P "$(nproc)" "${tidy[@]}" -p "$tree" 2>&1 |
  { grep -vE '^[0-9]+ warnings? (and [0-9]+ errors? )?generated' || true; }
echo "tidy: ${#sources[@]} files"
