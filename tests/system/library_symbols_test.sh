#!/usr/bin/env bash
# libzerocp drags nothing in and lets nothing out: needed libraries, dynamic symbols, and life beside
# another Abseil. Usage: library_symbols_test.sh LIBRARY CXX SOURCE_DIR [COMPILER_OPTION...]
set -euo pipefail

library=$1 cxx=$2 source=$3
options=("${@:4}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# 1. Nothing but the C and C++ libraries (and a sanitizer's, where one is on).
allowed='^(lib(c|m|stdc\+\+|gcc_s|asan|ubsan|tsan)\.so|ld-linux|linux-vdso)'
while read -r needed; do
  [[ $needed =~ $allowed ]] || fail "libzerocp needs $needed"
done < <(objdump -p "$library" | awk '/NEEDED/ { print $2 }')
objdump -p "$library" | grep 'SONAME *libzerocp\.so\.1$' >/dev/null || fail "the soname is not libzerocp.so.1"

# 2. Exactly the functions of zerocp.h. Of which version each is, abi_test.sh has.
nm -D --defined-only "$library" | awk '$2 != "A" { sub("@@ZEROCP_[0-9.]*$", "", $3); print $3 }' | sort >"$work/exported"
grep -ozP 'ZEROCP_API [^(]*?\Kzerocp_\w+(?=\()' "$source/client/include/zerocp.h" | tr '\0' '\n' | sort >"$work/declared"
[[ -s $work/declared ]] || fail "no declarations found in zerocp.h"
diff "$work/declared" "$work/exported" || fail "declared (<) and exported (>) functions differ"

# 3. No trace of gRPC, Protobuf or Abseil.
if nm -DC "$library" | grep -E 'grpc|protobuf|absl'; then fail "foreign symbols"; fi

# 4. zerocp.h is C, and the library lives beside the system's Abseil in one program.
cat >"$work/plain.c" <<'C'
#include <zerocp.h>
int main(void) {
  zerocp_client* client = 0;
  zerocp_client_options options = {
      .struct_size = sizeof(options), .name = "c", .runtime_dir = "/nowhere"};
  return zerocp_connect(&options, &client) == ZEROCP_UNAVAILABLE && zerocp_last_error()[0] ? 0 : 1;
}
C
cat >"$work/beside.cc" <<'CC'
#include <absl/container/flat_hash_map.h>
#include <absl/strings/str_cat.h>
#include <zerocp/zerocp.h>
int main() {
  absl::flat_hash_map<std::string, int> map;
  map[absl::StrCat("a", 1)] = 1;
  auto client = zerocp::Client::Connect({.runtime_dir = "/nowhere"});
  return map.size() == 1 && client.code() == zerocp::Code::kUnavailable ? 0 : 1;
}
CC
warnings=(-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
link=("-I$source/client/include" "-I$source/shm/include" "${options[@]}" "$library" "-Wl,-rpath,$(dirname "$library")")
"$cxx" -x c -std=c11 "${warnings[@]}" "$work/plain.c" -x none "${link[@]}" -o "$work/plain"
"$work/plain" || fail "the C program"
read -ra abseil < <(pkg-config --cflags --libs absl_flat_hash_map absl_strings)
"$cxx" -std=c++20 "${warnings[@]}" "$work/beside.cc" "${link[@]}" "${abseil[@]}" -o "$work/beside"
"$work/beside" || fail "the program with Abseil"
echo "OK: $(wc -l <"$work/exported") functions"
