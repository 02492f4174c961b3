// jemalloc, beside glibc's malloc.
#include "tests/bench/peers/heap.h"
#include "tests/bench/peers/peers.h"

namespace zerocp::bench {
namespace {

struct Jemalloc {
  static inline HeapFunctions functions{};
};

}  // namespace

Peer JemallocPeer() {
  return LoadedHeapPeer<Jemalloc>("jemalloc", "libjemalloc.so.2", "libjemalloc2", "malloc", "free");
}

}  // namespace zerocp::bench
