// An allocator of memory of this process alone, in place of chunks.
#pragma once

#include <dlfcn.h>

#include <string>

#include "tests/bench/loan_release.h"
#include "tests/bench/must.h"

namespace zerocp::bench {

struct HeapFunctions {
  void* (*allocate)(size_t);
  void (*free)(void*);
};

// H::functions: a HeapFunctions.
template <class H>
class Heap {
 public:
  class Chunk {
   public:
    explicit Chunk(void* bytes) : bytes_(bytes) {}
    ~Chunk() { H::functions.free(bytes_); }
    Chunk(const Chunk&) = delete;
    Chunk& operator=(const Chunk&) = delete;
    void* bytes() const { return bytes_; }

   private:
    void* bytes_;
  };

  explicit Heap(const LoanSpec& spec) : bytes_(spec.bytes) {}
  Chunk NewChunk() {
    void* bytes = H::functions.allocate(bytes_);
    if (bytes == nullptr) Die("allocation", "no memory");
    return Chunk(bytes);
  }
  static void* Bytes(const Chunk& chunk) { return chunk.bytes(); }

 private:
  size_t bytes_;
};

// A library that replaces malloc, asked for its own functions: loaded so that it replaces nothing.
template <class H>
Peer LoadedHeapPeer(const char* name, const char* library, const char* package,
                    const char* allocate, const char* free) {
  Peer peer{name, std::string(library) + ", " + allocate + " and " + free};
  void* loaded = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  H::functions.allocate =
      loaded ? reinterpret_cast<void* (*)(size_t)>(dlsym(loaded, allocate)) : nullptr;
  H::functions.free = loaded ? reinterpret_cast<void (*)(void*)>(dlsym(loaded, free)) : nullptr;
  if (H::functions.free == nullptr || H::functions.allocate == nullptr)
    peer.missing = std::string(dlerror()) + "; Debian's package " + package + " has it";
  peer.loan_release = [peer](const LoanSpec& spec) {
    return LoanSubject<Heap<H>>(peer.name, spec);
  };
  return peer;
}

}  // namespace zerocp::bench
