#!/usr/bin/env bash
# Builds the Debian packages zerocpd, zerocp-cli, libzerocp1 and libzerocp-dev in build/packages/packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ $# -eq 0 ]] || {
  echo "usage: deploy/make_packages.sh, after deploy/setup.sh --minimal"
  [[ $1 == --help ]] && exit 0 || exit 2
}
tree=build/packages
log=$tree.log
mkdir -p build
if ! { rm -rf "$tree/packages" && cmake --preset packages && cmake --build "$tree" && (cd "$tree" && cpack); } >"$log" 2>&1; then
  cat "$log" >&2
  echo "make_packages: the build failed" >&2
  exit 1
fi
ls "$tree"/packages/*.deb
