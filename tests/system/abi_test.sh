#!/usr/bin/env bash
# The binary interface of libzerocp is the one that was reviewed: each function with its symbol version and its types,
# each structure with its offsets, each constant, from the library and from the debug information of zerocp.h, are those of
# client/libzerocp.abi. Usage: abi_test.sh LIBRARY CC SOURCE_DIR [--update]
set -euo pipefail

library=$1 cc=$2 source=$3
reviewed=$source/client/libzerocp.abi
work=$(mktemp -d /tmp/zerocp-abi.XXXXXX)
trap 'rm -rf "$work"' EXIT

# describe HEADER: the interface.
describe() {
  local functions structures constants
  functions=$(grep -ozP 'ZEROCP_API [^(]*?\Kzerocp_\w+(?=\()' "$1" | tr '\0' '\n' | sort)
  structures=$(sed -nE 's/^(\}|typedef int32_t) (zerocp_\w+);$/\2/p' "$1" | sort)
  constants=$(sed -nE 's/^ +(ZEROCP_\w+) =.*/\1/p; s/^#define (ZEROCP_\w+) [0-9(].*/\1/p' "$1" | sort)
  # gdb knows a function that is only declared by a pointer to it.
  {
    echo "#include \"$1\""
    for name in $functions; do echo "__typeof__($name) *to_$name;"; done
    for name in $constants; do echo "const int value_of_$name = (int)$name;"; done
  } >"$work/probe.c"
  "$cc" -x c -std=gnu11 -g -fno-eliminate-unused-debug-types -c "$work/probe.c" -o "$work/probe.o"
  {
    for name in $functions; do
      printf 'printf "%s "\nwhatis *to_%s\n' "$(nm -D "$library" | grep -oE "\b$name@.*" || echo "$name, not exported:")" "$name"
    done
    for name in $structures; do printf 'printf "\\n%s\\n"\nptype /o %s\n' "$name" "$name"; done
    printf 'printf "\\n"\n'
    for name in $constants; do printf 'printf "%s = %%d\\n", value_of_%s\n' "$name" "$name"; done
  } >"$work/questions"
  gdb -q -nx -batch -ex 'set width 0' -x "$work/questions" "$work/probe.o"
}

echo "== $library"
describe "$source/client/include/zerocp.h" >"$work/abi"
for part in '^zerocp_connect@@ZEROCP_' '^/\* +56 .*opaque_chunk;$' '^ZEROCP_CHANNEL_DELETED = 19$' '^ZEROCP_FOREVER = -1$' '^type = int$'; do
  grep -qE "$part" "$work/abi" || { cat "$work/abi"; echo "abi_test: nothing like '$part' was found"; exit 1; }
done
if [[ ${4:-} == --update ]]; then
  cp "$work/abi" "$reviewed"
  exit
fi
diff "$reviewed" "$work/abi" || {
  echo "abi_test: the interface is not the reviewed one (<). If it is to change: old programs must go on to work, so functions,"
  echo "constants and the ends of structures with a struct_size may be added; then write it anew: $0 $1 $2 $3 --update"
  exit 1
}

# canary WHAT EXPRESSION: a header with this change is found to be another interface.
canary() {
  sed -E "$2" "$source/client/include/zerocp.h" >"$work/changed.h"
  ! cmp -s "$work/changed.h" "$source/client/include/zerocp.h" || { echo "abi_test: canary '$1' changes nothing"; exit 1; }
  describe "$work/changed.h" >"$work/changed"
  ! diff -q "$work/abi" "$work/changed" >/dev/null || { echo "abi_test: $1 is not noticed"; exit 1; }
}
canary "a member that grows" 's/int32_t lossy;/int64_t lossy;/'
canary "members that change places" 's/void\* data; +\/\*/size_t data; \/*/'
canary "a parameter of another type" 's/size_t bytes,/uint32_t bytes,/'
canary "a code of another value" 's/ZEROCP_STALE = 12/ZEROCP_STALE = 120/'
canary "a constant of another value" 's/(ZEROCP_USER_HEADER_BYTES) 64/\1 128/'
canary "a function without an implementation" 's/^(ZEROCP_API const char\* zerocp_version)\(void\);/\1(void); \1_2(void);/'
echo "abi_test: as reviewed: $(grep -c '^zerocp_.*@@' "$reviewed") functions, $(grep -c total "$reviewed") structures"
