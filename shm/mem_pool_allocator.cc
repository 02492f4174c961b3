#include "shm/mem_pool_allocator.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "shm/free_list.h"
#include "shm/include/zerocp/loan_cache.h"

namespace zerocp::shm {
namespace {

// Chunks from this size on, and chunks of pools this small, can be taken back from the
// caches of threads.
constexpr uint64_t kRevocableChunkBytes = 64 << 10;
constexpr uint32_t kRevocableChunkCount = 4096;

uint64_t RoundUpTo(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }
// Bytes from one payload to the next: an odd multiple of the alignment, where that costs at most a
// sixteenth. Otherwise the beginnings of payloads, whose sizes are mostly powers of two, would
// share a few sets of each cache.
uint64_t StrideOf(uint64_t chunk_size_bytes, uint64_t alignment) {
  const uint64_t stride = RoundUpTo(chunk_size_bytes, alignment);
  const bool even = stride / alignment % 2 == 0;
  return even && alignment <= stride / 16 ? stride + alignment : stride;
}

struct PoolBytes {
  uint64_t records, hints, headers, payload;
};
// Bytes of each array for `count` chunks. No overflow: count <= 2^24, stride <= 2^32 + 2^12.
PoolBytes BytesFor(const PoolGeometry& geometry, uint64_t count) {
  return {count * geometry.record_bytes(), FreeList::Bytes(geometry.max_chunk_count),
          count * sizeof(ChunkHeader), count * geometry.stride_bytes};
}

Status Damaged(const std::string& what) { return Status(Code::kDamaged, "pool table: " + what); }

// Everything of an entry but the places of its arrays.
Result<PoolGeometry> CheckShape(const MemPool& entry) {
  PoolGeometry geometry{};
  geometry.chunk_size_bytes = entry.chunk_size_bytes;
  geometry.stride_bytes = entry.stride_bytes;
  geometry.alignment_bytes = entry.alignment_bytes;
  geometry.chunk_count =
      entry.chunk_count.load(std::memory_order_acquire);  // PAIR pool.chunk_count
  geometry.max_chunk_count = entry.max_chunk_count;
  geometry.grant_slots = entry.grant_slots;
  geometry.slot_count = entry.slot_count;
  geometry.record_shift = entry.record_shift;
  geometry.revocable = entry.revocable != 0;
  geometry.records_offset = entry.records_offset;
  geometry.hints_offset = entry.hints_offset;
  geometry.headers_offset = entry.headers_offset;
  geometry.payload_offset = entry.payload_offset;

  if (geometry.chunk_size_bytes < kMinChunkSizeBytes ||
      geometry.chunk_size_bytes > kMaxChunkSizeBytes) {
    return Damaged("impossible chunk size " + std::to_string(geometry.chunk_size_bytes));
  }
  const uint32_t alignment = geometry.alignment_bytes;
  if (alignment < kMinAlignmentBytes || alignment > kMaxAlignmentBytes ||
      !std::has_single_bit(alignment)) {
    return Damaged("impossible alignment " + std::to_string(alignment));
  }
  if (geometry.stride_bytes != StrideOf(geometry.chunk_size_bytes, alignment)) {
    return Damaged("impossible stride " + std::to_string(geometry.stride_bytes));
  }
  if (geometry.max_chunk_count < 1 || geometry.max_chunk_count > kMaxChunksPerPool ||
      geometry.chunk_count > geometry.max_chunk_count) {
    return Damaged("impossible chunk count " + std::to_string(geometry.chunk_count) + " of " +
                   std::to_string(geometry.max_chunk_count));
  }
  if (geometry.record_shift < 6 || geometry.record_shift > 11 ||
      geometry.slot_count != (geometry.record_bytes() - sizeof(ChunkManager)) / sizeof(uint16_t) ||
      geometry.grant_slots != geometry.slot_count - kOpenSlots) {
    return Damaged("impossible record: shift " + std::to_string(geometry.record_shift) + ", " +
                   std::to_string(geometry.slot_count) + " slots");
  }
  if (!IsValidName(std::string_view(entry.name, strnlen(entry.name, kNameBytes)))) {
    return Damaged("impossible name");
  }
  if (const auto auto_grow = entry.auto_grow.load(std::memory_order_relaxed);
      auto_grow > static_cast<uint8_t>(AutoGrow::kPaused)) {
    return Damaged("impossible auto grow " + std::to_string(auto_grow));
  }
  if (entry.incarnation < 1 || entry.incarnation > 15) {
    return Damaged("impossible incarnation " + std::to_string(entry.incarnation));
  }
  return geometry;
}

bool Inside(uint64_t offset, uint64_t bytes, uint64_t begin, uint64_t end) {
  return offset % kExtentAlign == 0 && offset >= begin && offset <= end && bytes <= end - offset;
}

}  // namespace

Result<uint64_t> ExtentMap::Allocate(uint64_t bytes) {
  const uint64_t length = RoundUp(bytes);
  std::lock_guard lock(mutex_);
  uint64_t from = begin_;
  for (const auto& [offset, used] : used_) {
    if (offset - from >= length) break;
    from = offset + used;
  }
  if (length > end_ - from) {
    return Status(Code::kNoMemory,
                  "the reserved address range is used up: " + std::to_string(length) +
                      " bytes are needed in one piece, " + std::to_string(FreeBytes()) +
                      " are free in all; start the daemon with a larger --reserve");
  }
  used_.emplace(from, length);
  return from;
}

Status ExtentMap::Reserve(uint64_t offset, uint64_t bytes) {
  if (!Inside(offset, bytes, begin_, end_)) {
    return Status(Code::kDamaged, "extent at " + std::to_string(offset) + " of " +
                                      std::to_string(bytes) + " bytes is not inside its segment");
  }
  const uint64_t length = RoundUp(bytes);
  std::lock_guard lock(mutex_);
  auto next = used_.lower_bound(offset);
  if ((next != used_.end() && next->first - offset < length) ||
      (next != used_.begin() && std::prev(next)->first + std::prev(next)->second > offset)) {
    return Status(Code::kDamaged, "extent at " + std::to_string(offset) + " overlaps another");
  }
  used_.emplace(offset, length);
  return Status();
}

void ExtentMap::Free(uint64_t offset) {
  std::lock_guard lock(mutex_);
  used_.erase(offset);
}

std::vector<Extent> ExtentMap::ReserveRest(uint64_t end) {
  std::vector<Extent> rest;
  std::lock_guard lock(mutex_);
  uint64_t from = begin_;
  const auto add = [&](uint64_t to) {
    if (from < to) rest.push_back({from, to - from});
  };
  const uint64_t last = std::min(RoundUp(end), end_);
  for (const auto& [offset, used] : used_) {
    add(std::min(offset, last));
    from = offset + used;
  }
  add(last);
  for (const Extent& extent : rest) used_.emplace(extent.offset, extent.bytes);
  return rest;
}

uint64_t ExtentMap::free_bytes() const {
  std::lock_guard lock(mutex_);
  return FreeBytes();
}

uint64_t ExtentMap::FreeBytes() const {
  uint64_t used = 0;
  for (const auto& extent : used_) used += extent.second;
  return end_ - begin_ - used;
}

uint64_t MemPoolAllocator::ExtentsOffset(uint32_t session_capacity) {
  return ExtentMap::RoundUp(kSessionTableOffset +
                            uint64_t{session_capacity} * sizeof(SessionEntry) +
                            kMaxChannels * sizeof(ChannelEntry));
}

uint32_t PoolGeometry::CacheCap(uint32_t count, uint64_t threads, bool recalled) const {
  constexpr uint64_t kWorthABarrier = 8;
  const uint64_t share = count / std::max<uint64_t>(threads, 1);
  const uint64_t kept = share / (revocable && recalled && share >= kWorthABarrier ? 2 : 8);
  return static_cast<uint32_t>(std::min<uint64_t>(kept, internal::LoanCache::kDefaultCap));
}

MemPoolAllocator::MemPoolAllocator(uint64_t management_reserved_bytes,
                                   uint64_t chunk_reserved_bytes, uint32_t session_capacity)
    : management_(ExtentsOffset(session_capacity), management_reserved_bytes),
      chunk_(0, chunk_reserved_bytes) {}

Result<PoolGeometry> MemPoolAllocator::Plan(const PoolSpec& wanted) {
  const PoolSpec spec = WithDefaults(wanted);
  PoolGeometry geometry{};
  geometry.chunk_size_bytes = spec.chunk_size_bytes;
  geometry.alignment_bytes = spec.chunk_alignment_bytes;
  geometry.stride_bytes = StrideOf(spec.chunk_size_bytes, spec.chunk_alignment_bytes);
  geometry.chunk_count = spec.chunk_count;
  geometry.max_chunk_count = spec.max_chunk_count;
  geometry.slot_count = static_cast<uint16_t>(spec.max_holders);
  geometry.grant_slots = static_cast<uint16_t>(spec.max_holders - kOpenSlots);
  geometry.record_shift = static_cast<uint8_t>(
      std::countr_zero(sizeof(ChunkManager) + spec.max_holders * sizeof(uint16_t)));
  geometry.revocable =
      spec.chunk_size_bytes >= kRevocableChunkBytes || spec.chunk_count < kRevocableChunkCount;

  const PoolBytes bytes = BytesFor(geometry, spec.max_chunk_count);
  const struct {
    ExtentMap* extents;
    uint64_t bytes;
    uint64_t* offset;
  } arrays[] = {{&management_, bytes.hints, &geometry.hints_offset},
                {&management_, bytes.records, &geometry.records_offset},
                {&chunk_, bytes.headers, &geometry.headers_offset},
                {&chunk_, bytes.payload, &geometry.payload_offset}};
  for (size_t i = 0; i < std::size(arrays); ++i) {
    Result<uint64_t> offset = arrays[i].extents->Allocate(arrays[i].bytes);
    if (!offset.ok()) {
      while (i-- > 0) arrays[i].extents->Free(*arrays[i].offset);
      return offset.status();
    }
    *arrays[i].offset = *offset;
  }
  return geometry;
}

void MemPoolAllocator::Forget(const PoolGeometry& geometry) {
  management_.Free(geometry.hints_offset);
  management_.Free(geometry.records_offset);
  ForgetChunks(geometry);
}

void MemPoolAllocator::ForgetChunks(const PoolGeometry& geometry) {
  chunk_.Free(geometry.headers_offset);
  chunk_.Free(geometry.payload_offset);
}

Result<PoolGeometry> MemPoolAllocator::Adopt(const MemPool& entry) {
  Result<PoolGeometry> geometry = CheckShape(entry);
  if (!geometry.ok()) return geometry;
  const PoolBytes bytes = BytesFor(*geometry, geometry->max_chunk_count);
  for (Status status : {management_.Reserve(geometry->hints_offset, bytes.hints),
                        management_.Reserve(geometry->records_offset, bytes.records),
                        chunk_.Reserve(geometry->headers_offset, bytes.headers),
                        chunk_.Reserve(geometry->payload_offset, bytes.payload)}) {
    if (!status.ok()) return status;
  }
  return geometry;
}

Result<PoolGeometry> MemPoolAllocator::Validate(const MemPool& entry,
                                                uint64_t management_reserved_bytes,
                                                uint64_t chunk_reserved_bytes) {
  Result<PoolGeometry> geometry = CheckShape(entry);
  if (!geometry.ok()) return geometry;
  const PoolBytes bytes = BytesFor(*geometry, geometry->max_chunk_count);
  if (!Inside(geometry->hints_offset, bytes.hints, kSessionTableOffset,
              management_reserved_bytes) ||
      !Inside(geometry->records_offset, bytes.records, kSessionTableOffset,
              management_reserved_bytes) ||
      !Inside(geometry->headers_offset, bytes.headers, 0, chunk_reserved_bytes) ||
      !Inside(geometry->payload_offset, bytes.payload, 0, chunk_reserved_bytes)) {
    return Damaged("an array is not inside its segment");
  }
  return geometry;
}

SegmentSizes MemPoolAllocator::CommittedSizes(const PoolGeometry& geometry, uint32_t chunk_count,
                                              uint64_t page_bytes) {
  const PoolBytes bytes = BytesFor(geometry, chunk_count);
  return {RoundUpTo(bytes.hints, page_bytes) + RoundUpTo(bytes.records, page_bytes),
          RoundUpTo(bytes.headers, page_bytes) + RoundUpTo(bytes.payload, page_bytes)};
}

uint64_t MemPoolAllocator::PageBytes() { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }

Status MemPoolAllocator::CheckPages(uint64_t page_bytes) {
  if (kExtentAlign % page_bytes == 0) return Status();
  return Status(Code::kInternal, "this machine has pages of " + std::to_string(page_bytes) +
                                     " bytes, the segments are made for pages of at most " +
                                     std::to_string(kExtentAlign));
}

SegmentSizes MemPoolAllocator::SizesFor(const MemPoolConfig& config, uint32_t session_capacity) {
  SegmentSizes sizes{ExtentsOffset(session_capacity), 0};
  MemPoolAllocator scratch(uint64_t{1} << 60, uint64_t{1} << 60, session_capacity);
  for (const PoolSpec& spec : config) {
    const PoolGeometry geometry = *scratch.Plan(spec);  // cannot fail in a range that large
    const SegmentSizes pool = CommittedSizes(geometry, geometry.chunk_count);
    sizes.management_bytes += pool.management_bytes;
    sizes.chunk_bytes += pool.chunk_bytes;
  }
  return sizes;
}

}  // namespace zerocp::shm
