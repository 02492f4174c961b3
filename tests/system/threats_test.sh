#!/usr/bin/env bash
# Each row of what server/THREATS.md calls enforced ends with its tests, and these exist.
set -euo pipefail
cd "$ZEROCP_SOURCE_DIR"
rows=$(sed -n '/^## What is enforced/,/^## What is not/{/^| against/d;/^| /p}' server/THREATS.md)
[[ $(wc -l <<<"$rows") -ge 10 ]] || { echo "threats_test: found no table"; exit 1; }
existing=$(grep -rhoE '^TEST(_[FP])?\(\w+, *\w+' tests --include='*.cc' | sed 's/.*, *//' | sort -u)
while IFS= read -r row; do
  last=${row% |}
  names=$(grep -oE '\w+' <<<"${last##*| }" || true)
  [[ -n $names ]] || { echo "threats_test: no test in: $row"; exit 1; }
  missing=$(sort -u <<<"$names" | comm -23 - <(echo "$existing"))
  [[ -z $missing ]] || { echo "threats_test: there is no test ${missing//$'\n'/ }, of: $row"; exit 1; }
done <<<"$rows"
echo "threats_test: the tests of $(wc -l <<<"$rows") rows are there"
