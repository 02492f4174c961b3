// mimalloc, beside glibc's malloc.
#include "tests/bench/peers/heap.h"
#include "tests/bench/peers/peers.h"

namespace zerocp::bench {
namespace {

struct Mimalloc {
  static inline HeapFunctions functions{};
};

}  // namespace

Peer MimallocPeer() {
  return LoadedHeapPeer<Mimalloc>("mimalloc", "libmimalloc.so.2", "libmimalloc2.0", "mi_malloc",
                                  "mi_free");
}

}  // namespace zerocp::bench
