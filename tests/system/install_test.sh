#!/usr/bin/env bash
# An installed tree serves a user: find_package(zerocp), a C and a C++ program built against it, and the
# installed daemon and command.
#
#   install_test.sh BUILD_DIR
set -euo pipefail
export PATH=${ZEROCP_TOOLS:-/usr/local/lib/zerocp-tools}:$PATH
work=$(mktemp -d /tmp/zerocp-install.XXXXXX)
daemon=''
clean_up() {
  [[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true
  wait || true
  rm -rf "$work"
}
trap clean_up EXIT
cmake --install "$1" --prefix "$work/usr" >"$work/install.log" || { cat "$work/install.log"; exit 1; }

mkdir "$work/user"
cat >"$work/user/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.16)
project(user C CXX)
set(CMAKE_CXX_STANDARD 20)
find_package(zerocp REQUIRED)
add_executable(in_c in_c.c)
add_executable(in_cpp in_cpp.cc)
target_link_libraries(in_c zerocp::zerocp)
target_link_libraries(in_cpp zerocp::zerocp)
CMAKE
cat >"$work/user/in_c.c" <<'C'
#include <stdio.h>
#include <string.h>
#include <zerocp.h>

int main(void) {
  zerocp_client* client;
  zerocp_loan loan;
  if (zerocp_connect(NULL, &client) != ZEROCP_OK || zerocp_client_loan(client, "p", 100, 0, &loan) != ZEROCP_OK) {
    fprintf(stderr, "%s\n", zerocp_last_error());
    return 1;
  }
  memset(loan.data, 7, loan.size);
  zerocp_loan_release(&loan);
  zerocp_client_close(client);
  return strlen(zerocp_version()) > 0 ? 0 : 1;
}
C
cat >"$work/user/in_cpp.cc" <<'CPP'
#include <cstdio>
#include <cstring>
#include <zerocp/zerocp.h>

int main() {
  auto client = zerocp::Client::Connect({.name = "user"});
  if (!client) return std::fprintf(stderr, "%s\n", client.message().c_str()), 1;
  auto in = client->JoinAsSubscriber("c");
  auto out = client->JoinAsPublisher("c");
  auto loan = out->NewLoan(5);
  std::memcpy(loan->data().data(), "hello", 5);
  if (!out->Publish(*loan)) return 2;
  auto sample = in->Wait(std::chrono::seconds(10));
  return sample && std::memcmp(sample->data().data(), "hello", 5) == 0 ? 0 : 3;
}
CPP
build() {
  cmake -S "$work/user" -B "$work/user/build" -DCMAKE_PREFIX_PATH="$work/usr" -DCMAKE_CXX_FLAGS="$1" -DCMAKE_C_FLAGS="$1"
  cmake --build "$work/user/build"
}
(build "${2:-}") >"$work/cmake.log" 2>&1 || { cat "$work/cmake.log"; exit 1; }

export ZEROCP_RUNTIME_DIR=$work/run
: >"$work/log"
"$work/usr/bin/zerocpd" --runtime-dir "$work/run" --on-stop=unlink --pool p=4KiBx16 --channel c=p >"$work/log" 2>&1 &
daemon=$!
until grep -q ready: "$work/log"; do
  kill -0 "$daemon" || { cat "$work/log"; exit 1; }
  sleep 0.01
done
"$work/user/build/in_c"
"$work/user/build/in_cpp"
"$work/usr/bin/zerocp" audit
# Comments come from the installed descriptors, and the .proto files there are all that a generator needs.
share=$work/usr/share/zerocp
grpcurl -protoset "$share/zerocp.protoset" describe zerocp.v1.Pool >"$work/described"
grep -q 'A pool of equally sized chunks' "$work/described" || { cat "$work/described"; exit 1; }
protoc -I "$share/proto" --python_out="$work" "$share"/proto/zerocp/v1/*.proto
kill "$daemon"
wait "$daemon"
daemon=''
echo "install_test: C and C++ programs built and run against the installed tree"
