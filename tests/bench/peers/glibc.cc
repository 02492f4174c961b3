// glibc's malloc and free.
#include <gnu/libc-version.h>

#include <cstdlib>

#include "tests/bench/peers/heap.h"
#include "tests/bench/peers/peers.h"

namespace zerocp::bench {
namespace {

struct Glibc {
  static constexpr HeapFunctions functions{std::malloc, std::free};
};

}  // namespace

Peer GlibcPeer() {
  Peer peer{"glibc", std::string("malloc and free of glibc ") + gnu_get_libc_version()};
  peer.loan_release = [](const LoanSpec& spec) { return LoanSubject<Heap<Glibc>>("glibc", spec); };
  return peer;
}

}  // namespace zerocp::bench
