#!/usr/bin/env bash
# Installs what building and testing zerocp needs on Debian 12. Run it as often as you like: when
# nothing is missing it changes nothing, needs no network and takes a moment.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: deploy/setup.sh [--minimal | --build] [--help]

Installs the Debian packages that zerocp needs (as root, or with sudo), grpcurl, built from
pinned sources through the Go module proxy, Debian's Prometheus, from Go, PyPI and npm what the tests' clients need,
and from crates.io a peer of the benchmark.

  --minimal   only what building zerocpd and the quickstart need: no tests, no checkers
  --build     only what building zerocpd and zerocp needs: no grpcurl either
  --help      this text

Environment:
  ZEROCP_TOOLS   where grpcurl and Prometheus go (default /usr/local/lib/zerocp-tools; any directory you can write)
  GOPROXY        another Go module proxy, if proxy.golang.org is out of reach
USAGE
}

# Everything pinned outside Debian, in one place.
# 1.8.9 builds with Debian's Go and takes `-unix /path`. 1.9.2 and 1.9.3 refuse `-unix /path`
# (grpcurl issues 496 and 546; `unix:///path` works there), 1.9.4 takes both forms.
grpcurl_version=1.8.9
grpcurl_newest_version=1.9.4
newer_go=1.25                # for the newest grpcurl and the tests' Go client, whose modules its go.mod pins
oldest_rust=1.89             # iceoryx2 0.10 asks for it; its Cargo.lock pins the rest
go_toolchain_version=1.25.5 # fetched when no Go that is new enough is on PATH
grpcio_version=1.76.0
pyzmq_version=27.3.0 # the Python package is measured beside it
mypy_version=2.4.1   # reads its type hints
opencv_version=4.11.0.86 # for an example
numpy_version=2.4.6
npm_modules=(@bufbuild/buf@1.75.0 @grpc/grpc-js@1.14.7 @grpc/proto-loader@0.8.1 protobufjs@7.6.6)
debian_go=/usr/lib/go-1.19/bin/go

packages=(
  ca-certificates ccache cmake g++ git jq ninja-build pkg-config procps python3 util-linux
  libabsl-dev libcli11-dev libgrpc++-dev libncurses-dev libprotobuf-dev libspdlog-dev libyaml-cpp-dev
  prometheus-cpp-dev
  protobuf-compiler protobuf-compiler-grpc
  golang-github-gogo-googleapis-dev # google/rpc/*.proto
  grpc-proto                        # grpc/health/v1/health.proto
)
test_packages=(
  clang-14 clang-format-14 clang-tidy-14 gdb groff-base libbenchmark-dev libclang-rt-14-dev libgmock-dev
  libgtest-dev llvm-14 openssh-client openssh-server openssl python3-dev python3-grpcio python3-numpy
  python3-protobuf python3-venv python3-wheel python3-yaml relacy-dev shellcheck spin strace systemd tmux
  zsh debootstrap
  iceoryx libboost-dev libiceoryx-posh-dev libjemalloc2 libmimalloc2.0 # peers of zerocp_bench
  gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base python3-gi python3-gst-1.0 # for an example
)

tools=$(realpath -m "${ZEROCP_TOOLS:-/usr/local/lib/zerocp-tools}")
client=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../tests/system/clients")
minimal=false
with_grpcurl=true

say() { echo "setup: $*"; }
die() {
  echo "setup: $*" >&2
  exit 1
}

# Runs a command as root.
as_root() {
  if [[ $EUID -eq 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -n "$@" || die "'sudo -n $1' failed: run deploy/setup.sh as root, or let sudo work without a password"
  else
    die "needs root for '$1' and there is no sudo: run deploy/setup.sh as root"
  fi
}

install_packages() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    die "this needs Debian 12 (no apt-get here). Install by other means: $*"
  fi
  local missing
  missing=$(comm -23 <(printf '%s\n' "$@" | sort) \
    <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
      sed -n 's/^installed //p' | sort -u))
  [[ -n $missing ]] || return 0
  mapfile -t missing <<<"$missing"
  say "installing Debian packages: ${missing[*]}"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300)
  as_root "${apt[@]}" update
  as_root "${apt[@]}" install --no-install-recommends "${missing[@]}" ||
    die "apt-get failed; zerocp is built and tested with the packages of Debian 12 (bookworm)"
}

# Prints a Go of at least version $1; fetches one into the module cache if there is none.
find_go() {
  local go version
  for go in "$(command -v go || true)" /usr/local/go/bin/go "$tools/go/bin/go"; do
    [[ -x $go ]] || continue
    version=$(GOTOOLCHAIN=local "$go" env GOVERSION)
    if printf '%s\n' "$1" "${version#go}" | sort -V -C; then
      echo "$go"
      return
    fi
  done
  # The module proxy serves toolchains as modules, checked against Go's checksum database. An old
  # Go unpacks them like any module: without the executable bits.
  local module dir
  module="golang.org/toolchain@v0.0.1-go$go_toolchain_version.linux-$("$debian_go" env GOARCH)"
  say "fetching $module" >&2
  dir=$("$debian_go" mod download -json "$module" | jq -er .Dir)
  chmod -R u+w "$dir"
  chmod +x "$dir"/bin/* "$dir"/pkg/tool/*/*
  echo "$dir/bin/go"
}

make_tools_dir() {
  if ! mkdir -p "$tools" 2>/dev/null || [[ ! -w $tools ]]; then
    as_root install -d -o "$(id -u)" -g "$(id -g)" "$tools"
  fi
}

# prometheus and promtool out of Debian's package, which itself would start a server.
install_prometheus() (
  [[ ! -x $tools/promtool || ! -x $tools/prometheus ]] || return 0
  make_tools_dir
  work=$(mktemp -d "$tools/.build.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  say "unpacking Debian's package prometheus"
  apt-get -q download prometheus >log 2>&1 || {
    as_root apt-get -q -o DPkg::Lock::Timeout=300 update >log 2>&1
    apt-get -q download prometheus >>log 2>&1
  } || {
    cat log >&2
    die "cannot download the package prometheus"
  }
  dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/prom{etheus,tool}
  mv usr/bin/prom{etheus,tool} "$tools"
)

# Clients of other languages, and buf: what tests need of PyPI and npm, in directories of their own. The file
# `versions` is there when all is.
install_clients() (
  make_tools_dir
  python_versions=(grpcio=="$grpcio_version" grpcio-tools=="$grpcio_version" grpcio-status=="$grpcio_version"
    pyzmq=="$pyzmq_version" opencv-python-headless=="$opencv_version" numpy=="$numpy_version" mypy=="$mypy_version")
  if [[ $(cat "$tools/python/versions" 2>/dev/null) != "${python_versions[*]}" ]]; then
    say "installing ${python_versions[*]} from PyPI"
    rm -rf "$tools/python"
    /usr/bin/python3 -m venv "$tools/python"
    "$tools/python/bin/pip" install -q --disable-pip-version-check "${python_versions[@]}" >&2 ||
      die "pip could not install ${python_versions[*]}; is PyPI in reach?"
    echo "${python_versions[*]}" >"$tools/python/versions"
  fi
  if [[ $(cat "$tools/node/versions" 2>/dev/null) != "${npm_modules[*]}" ]]; then
    say "installing ${npm_modules[*]} from npm"
    rm -rf "$tools/node"
    mkdir "$tools/node"
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$tools/node" "${npm_modules[@]}" >&2 ||
      die "npm could not install ${npm_modules[*]}; is the npm registry in reach?"
    echo "${npm_modules[*]}" >"$tools/node/versions"
  fi
)

# use_go DIR: Go keeps all that it makes there.
use_go() {
  export GOPATH=$1 GOCACHE=$1/cache GOMODCACHE=$1/mod GOBIN=$1/bin GOFLAGS=-modcacherw
  export GO111MODULE=on GOTOOLCHAIN=local CGO_ENABLED=0
}

# For the tests' Go client: a Go, the generators of its code, its modules and what they compile to, so that the test
# needs no network and little time. The file `versions` is there when all is.
install_go_client() (
  versions() { cat "$client"/go.{mod,sum} && "$tools/go/bin/go" version; }
  [[ $(cat "$tools/go/versions" 2>/dev/null) != "$(versions 2>/dev/null)" ]] || return 0
  make_tools_dir
  rm -rf "$tools/go"
  mkdir -p "$tools/go/bin"
  use_go "$tools/go"
  go=$(find_go "$newer_go")
  ln -s "$go" "$tools/go/bin/go"
  say "building the modules of the tests' Go client with $("$go" env GOVERSION)"
  cd "$client"
  { "$go" install tool && "$go" build google.golang.org/{grpc,genproto/googleapis/rpc/errdetails}; } >"$tools/go/log" 2>&1 || {
    cat "$tools/go/log" >&2
    die "could not build what $client/go.mod asks for; is the Go module proxy in reach (GOPROXY=$("$go" env GOPROXY))?"
  }
  versions >"$tools/go/versions"
)

# The library in Rust by which zerocp_bench has iceoryx2; left out, and said so, where there is no cargo that is new enough.
# The file `versions` is there when it is.
install_iceoryx2_bench() (
  source=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../tests/bench/iceoryx2")
  versions() { cat "$source"/Cargo.{toml,lock} "$source"/src/*.rs; }
  [[ $(cat "$tools/iceoryx2/versions" 2>/dev/null) != "$(versions)" ]] || return 0
  version=$(cargo --version 2>/dev/null | cut -d' ' -f2 || true)
  if ! printf '%s\n' "$oldest_rust" "${version:-0}" | sort -V -C; then
    say "no cargo $oldest_rust or newer (${version:-none}): zerocp_bench reports iceoryx2 as missing"
    return 0
  fi
  make_tools_dir
  rm -rf "$tools/iceoryx2" && mkdir "$tools/iceoryx2"
  work=$(mktemp -d "$tools/.build.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  say "building tests/bench/iceoryx2 with cargo $version"
  { cargo build --quiet --locked --release --manifest-path "$source/Cargo.toml" --target-dir "$work" >&2 &&
    mv "$work/release/libiceoryx2_bench.so" "$tools/iceoryx2"; } ||
    say "cargo could not build $source (is crates.io in reach?): zerocp_bench reports iceoryx2 as missing"
  versions >"$tools/iceoryx2/versions" # also after a failure: not to try each time
)

# install_grpcurl VERSION MINIMUM_GO
install_grpcurl() (
  target=$tools/grpcurl-$1
  [[ ! -x $target ]] || return 0
  make_tools_dir
  work=$(mktemp -d "$tools/.build.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  use_go "$work"
  cd "$work"
  go=$debian_go
  [[ -z ${2:-} ]] || go=$(find_go "$2")
  say "building grpcurl $1 with $("$go" env GOVERSION)"
  "$go" install -ldflags "-s -w -X main.version=v$1" \
    "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$1" 2>"$work/log" || {
    cat "$work/log" >&2
    die "could not build grpcurl $1; is the Go module proxy in reach (GOPROXY=$("$go" env GOPROXY))?"
  }
  mv "$work/bin/grpcurl" "$target"
)

link() {
  [[ $(readlink "$tools/$2" || true) == "$1" ]] || ln -sfn "$1" "$tools/$2"
}

while [[ $# -gt 0 ]]; do
  case $1 in
    --minimal) minimal=true ;;
    --build) minimal=true with_grpcurl=false ;;
    --help | -h)
      usage
      exit 0
      ;;
    *)
      usage >&2
      die "unknown argument '$1'"
      ;;
  esac
  shift
done

[[ $(uname -s) == Linux ]] || die "zerocp runs on Linux only"
! $with_grpcurl || packages+=(golang-1.19-go)
$minimal || packages+=("${test_packages[@]}")
$minimal || { command -v node && command -v npm; } >/dev/null || packages+=(nodejs npm)
install_packages "${packages[@]}"

if $with_grpcurl; then
  install_grpcurl "$grpcurl_version"
  link "grpcurl-$grpcurl_version" grpcurl
fi
if ! $minimal; then
  install_go_client
  install_grpcurl "$grpcurl_newest_version" "$newer_go"
  link "grpcurl-$grpcurl_newest_version" grpcurl-newest
  install_prometheus
  install_clients
  install_iceoryx2_bench
fi
say "ready$(! $with_grpcurl || echo "; grpcurl is in $tools")"
