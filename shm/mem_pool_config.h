// What pools are wanted: a value of at most kMaxPools entries, held inline, checked as a whole.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "shm/layout.h"
#include "shm/status.h"

namespace zerocp::shm {

// One pool as it is asked for. Zero selects the default where one is named.
struct PoolSpec {
  std::string name;                    // [a-z]([a-z0-9-]{0,61}[a-z0-9])?
  uint64_t chunk_size_bytes = 0;       // kMinChunkSizeBytes to kMaxChunkSizeBytes
  uint32_t chunk_alignment_bytes = 0;  // power of two; 0: 64
  uint32_t chunk_count = 0;            // 1 to kMaxChunksPerPool
  uint32_t max_chunk_count = 0;        // address range kept for growth; 0: 4 times chunk_count
  uint32_t max_holders = 0;            // 12 to 1016, rounded up to what a record holds; 0: 24
  bool auto_grow = false;              // the daemon adds chunks when a loan finds none
};

// One thing that is wrong with a value: which field, and what would be right.
struct Violation {
  std::string field;
  std::string description;
};

// True for a name that pools and channels may have.
bool IsValidName(std::string_view name);

// Everything that is wrong with `spec`, in field order; empty if nothing is.
std::vector<Violation> Validate(const PoolSpec& spec);

// The spec with each default filled in. REQUIRES: Validate(spec) is empty.
PoolSpec WithDefaults(PoolSpec spec);

class MemPoolConfig {
 public:
  // kInvalid: the spec's violations, or a name that is there already; kLimit: kMaxPools are there.
  Status Add(PoolSpec spec);
  size_t size() const { return size_; }
  static constexpr size_t capacity() { return kMaxPools; }
  const PoolSpec& operator[](size_t index) const { return pools_[index]; }
  const PoolSpec* begin() const { return pools_.data(); }
  const PoolSpec* end() const { return pools_.data() + size_; }
  const PoolSpec* Find(std::string_view name) const;

 private:
  std::array<PoolSpec, kMaxPools> pools_;
  size_t size_ = 0;
};

}  // namespace zerocp::shm
