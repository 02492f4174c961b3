// Where things lie in the two segments: the only maker of a geometry.
//
// A PoolGeometry can only come from planning a validated spec or from validating a pool table
// entry, so whoever holds one need not check offsets again. Daemon: private memory, one thread at a
// time.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "shm/layout.h"
#include "shm/mem_pool_config.h"
#include "shm/status.h"

namespace zerocp::shm {

// A range of a segment.
struct Extent {
  uint64_t offset;
  uint64_t bytes;
};

// Free and used ranges of one segment's address space. First fit, in units of kExtentAlign. From
// any thread: a pool is created while channels and lanes come and go.
class ExtentMap {
 public:
  ExtentMap() = default;
  ExtentMap(uint64_t begin, uint64_t end) : begin_(begin), end_(end) {}
  // Offset of a free range of at least `bytes`; kNoMemory if there is none.
  Result<uint64_t> Allocate(uint64_t bytes);
  // Marks a range used. kDamaged if it is misaligned, outside, or overlaps another.
  Status Reserve(uint64_t offset, uint64_t bytes);
  void Free(uint64_t offset);
  // Marks all that is free below `end` used, and says what that was.
  std::vector<Extent> ReserveRest(uint64_t end);
  uint64_t free_bytes() const;
  static uint64_t RoundUp(uint64_t bytes) {
    return (bytes + kExtentAlign - 1) / kExtentAlign * kExtentAlign;
  }

 private:
  uint64_t FreeBytes() const;

  const uint64_t begin_ = 0;
  const uint64_t end_ = 0;
  mutable std::mutex mutex_;
  std::map<uint64_t, uint64_t> used_;  // offset -> rounded length; under mutex_
};

struct PoolGeometry {
  uint64_t chunk_size_bytes;
  uint64_t stride_bytes;
  uint32_t alignment_bytes;
  uint32_t chunk_count;
  uint32_t max_chunk_count;
  uint16_t grant_slots;
  uint16_t slot_count;
  uint8_t record_shift;
  bool revocable;
  uint64_t records_offset;  // management segment
  uint64_t hints_offset;    // management segment
  uint64_t headers_offset;  // chunk segment
  uint64_t payload_offset;  // chunk segment

  uint64_t record_bytes() const { return uint64_t{1} << record_shift; }
  // Free chunks that each of `threads` may keep for itself, of `count`: all together an eighth of
  // them, or half where it is `recalled` if anybody needs it, and worth it. At most kDefaultCap.
  uint32_t CacheCap(uint32_t count, uint64_t threads, bool recalled) const;
};

// Bytes that a configuration needs in each segment, tables included.
struct SegmentSizes {
  uint64_t management_bytes = 0;
  uint64_t chunk_bytes = 0;
  uint64_t total_bytes() const { return management_bytes + chunk_bytes; }
};

class MemPoolAllocator {
 public:
  MemPoolAllocator(uint64_t management_reserved_bytes, uint64_t chunk_reserved_bytes,
                   uint32_t session_capacity);

  // Places a pool. REQUIRES: Validate(spec) is empty. kNoMemory if the address ranges are used up.
  Result<PoolGeometry> Plan(const PoolSpec& spec);
  // Gives the address ranges of a planned pool back; those in the chunk segment only.
  void Forget(const PoolGeometry& geometry);
  void ForgetChunks(const PoolGeometry& geometry);
  // Checks an entry as if a stranger had written it, and reserves its ranges. kDamaged says what is
  // wrong. For adoption by the daemon.
  Result<PoolGeometry> Adopt(const MemPool& entry);
  // The same check without reserving, for clients.
  static Result<PoolGeometry> Validate(const MemPool& entry, uint64_t management_reserved_bytes,
                                       uint64_t chunk_reserved_bytes);

  // Real memory of a pool with `chunk_count` chunks, in each segment, in pages of this machine.
  static SegmentSizes CommittedSizes(const PoolGeometry& geometry, uint32_t chunk_count,
                                     uint64_t page_bytes = PageBytes());
  // Real memory of a whole instance with these pools, super block and tables included.
  static SegmentSizes SizesFor(const MemPoolConfig& config, uint32_t session_capacity);
  // kInternal unless extents begin and end with pages of this size: nothing else of the layout
  // depends on the size of a page.
  static Status CheckPages(uint64_t page_bytes = PageBytes());
  static uint64_t PageBytes();
  // First byte after the fixed tables.
  static uint64_t ExtentsOffset(uint32_t session_capacity);

  ExtentMap& management_extents() { return management_; }
  const ExtentMap& management_extents() const { return management_; }
  ExtentMap& chunk_extents() { return chunk_; }
  const ExtentMap& chunk_extents() const { return chunk_; }

 private:
  ExtentMap management_;
  ExtentMap chunk_;
};

}  // namespace zerocp::shm
