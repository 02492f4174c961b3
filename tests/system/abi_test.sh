#!/usr/bin/env bash
# The binary interface of libzerocp is the reviewed one, client/libzerocp.abi, and has all that the last tag's had. A line is a
# fact: a function, its symbol version and its types; a member, its offset, size and type; the size of a structure without
# struct_size; a constant. They come from the library and from the debug information of zerocp.h.
# Usage: abi_test.sh LIBRARY CC SOURCE_DIR [--update]
set -euo pipefail

library=$1 cc=$2 source=$3
reviewed=$source/client/libzerocp.abi
work=$(mktemp -d /tmp/zerocp-abi.XXXXXX)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "abi_test: $*"
  exit 1
}

# describe HEADER: the facts.
describe() {
  local functions types constants
  functions=$(grep -ozP 'ZEROCP_API [^(]*?\Kzerocp_\w+(?=\()' "$1" | tr '\0' '\n' | sort)
  types=$(sed -nE 's/^(\}|typedef int32_t) (zerocp_\w+);$/\2/p' "$1" | sort)
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
      printf 'printf "%s "\nwhatis *to_%s\n' "$(grep -oE "\b$name@.*" "$work/symbols" || echo "$name@nowhere")" "$name"
    done
    for name in $types; do printf 'printf "%s "\nptype /o %s\n' "$name" "$name"; done
    for name in $constants; do printf 'printf "%s = %%d\\n", value_of_%s\n' "$name" "$name"; done
  } >"$work/questions"
  gdb -q -nx -batch -ex 'set width 0' -x "$work/questions" "$work/probe.o" | awk '
    sub(/ type = /, " ") || / = / {
      type = $1
      grows = 0
      if (!/\{$/) print
    }
    /^\/\* +[0-9]+ +\| +[0-9]+ \*\/.*;$/ {
      member = $0
      sub(/^.*\*\/ +/, "", member)
      print type, "at", $2, "for", $4 ":", member
      if (member ~ / struct_size;/) grows = 1
    }
    /total size/ && !grows { print type, "has", $(NF - 1), "bytes" }'
}

# lost OLD NEW: the facts of OLD that are none in NEW.
lost() { comm -23 <(sort "$1") <(sort "$2"); }

echo "== $library"
nm -D --defined-only "$library" >"$work/symbols"
describe "$source/client/include/zerocp.h" >"$work/abi"
for fact in '^zerocp_connect@@ZEROCP_' '^zerocp_loan at 56 for 8: ' '^zerocp_loan has 64 bytes$' '^zerocp_code int$' \
  '^ZEROCP_CHANNEL_DELETED = 19$' '^ZEROCP_FOREVER = -1$'; do
  grep -qE "$fact" "$work/abi" || { cat "$work/abi"; fail "nothing like '$fact' was found"; }
done
if [[ ${4:-} == --update ]]; then
  cp "$work/abi" "$reviewed"
  exit
fi
diff "$reviewed" "$work/abi" ||
  fail "the interface is not the reviewed one (<). If it is to be, write that anew: $0 $1 $2 $3 --update"

tag=$(git -C "$source" describe --tags --abbrev=0 2>/dev/null || true)
if [[ -n $tag ]] && git -C "$source" show "$tag:client/libzerocp.abi" >"$work/released" 2>/dev/null; then
  [[ -z $(lost "$work/released" "$work/abi") ]] ||
    fail "programs built with $tag need what is not there any more: $(lost "$work/released" "$work/abi")"
fi

# canary WHAT EXPRESSION: a header with this change is another interface. Sets `gone`.
canary() {
  sed -E "$2" "$source/client/include/zerocp.h" >"$work/changed.h"
  ! cmp -s "$work/changed.h" "$source/client/include/zerocp.h" || fail "canary '$1' changes nothing"
  describe "$work/changed.h" >"$work/changed"
  ! cmp -s "$work/abi" "$work/changed" || fail "$1 is not noticed"
  gone=$(lost "$work/abi" "$work/changed")
}
breaks() {
  canary "$@"
  [[ -n $gone ]] || fail "$1 is said to break no program"
}
extends() {
  canary "$@"
  [[ -z $gone ]] || fail "$1 is said to break programs: $gone"
}
breaks "a member that grows" 's/int32_t lossy;/int64_t lossy;/'
breaks "a member before others" 's/^  int32_t lossy;/  int32_t added; int32_t lossy;/'
breaks "a structure without struct_size that grows" 's/^\} zerocp_published;/  int32_t added; } zerocp_published;/; s/ \} (zerocp_published;)/\n} \1/'
breaks "a parameter of another type" 's/size_t bytes,/uint32_t bytes,/'
breaks "a code of another value" 's/ZEROCP_STALE = 12/ZEROCP_STALE = 120/'
breaks "a constant of another value" 's/(ZEROCP_USER_HEADER_BYTES) 64/\1 128/'
extends "a last member behind a struct_size" 's/^\} zerocp_join_options;/  int32_t added;\n&/'
extends "a function" 's/^(ZEROCP_API const char\* zerocp_version)\(void\);/&\n\1_2(void);/'
extends "a code" 's/ZEROCP_CHANNEL_DELETED = 19/&, \n  ZEROCP_ADDED = 20/'
echo "abi_test: as reviewed: $(grep -c '@@' "$reviewed") functions, $(grep -c ' at ' "$reviewed") members, $(grep -c ' = ' "$reviewed") constants"
