// How the daemon creates, grows and removes pools.
#include <time.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "shm/chunk_ops.h"
#include "shm/free_list.h"
#include "shm/futex.h"
#include "shm/mem_pool_manager.h"
#include "shm/mutant.h"
#include "shm/settle.h"

namespace zerocp::shm {
namespace {

int64_t RealTimeNs() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// Makes the entry that of a new pool, with arrays at these places.
void WriteShape(const PoolGeometry& g, MemPool& entry) {
  entry.max_chunk_count = g.max_chunk_count;
  entry.alignment_bytes = g.alignment_bytes;
  entry.chunk_size_bytes = g.chunk_size_bytes;
  entry.stride_bytes = g.stride_bytes;
  entry.records_offset = g.records_offset;
  entry.hints_offset = g.hints_offset;
  entry.headers_offset = g.headers_offset;
  entry.payload_offset = g.payload_offset;
  entry.incarnation = static_cast<uint8_t>(entry.incarnation % 15 + 1);
  entry.record_shift = g.record_shift;
  entry.revocable = g.revocable ? 1 : 0;
  entry.grant_slots = g.grant_slots;
  entry.slot_count = g.slot_count;
}

}  // namespace

Result<uint32_t> MemPoolManager::CreatePool(const PoolSpec& wanted, const Progress& progress) {
  if (auto found = shm::Validate(wanted); !found.empty()) {
    return Status(Code::kInvalid, "pool \"" + wanted.name + "\": " + found.front().field + " " +
                                      found.front().description);
  }
  if (FindPool(wanted.name) != nullptr) {
    return Status(Code::kAlreadyExists, "pool \"" + wanted.name + "\" exists");
  }
  uint32_t index = 0;
  while (index < kMaxPools && pool(index) != nullptr) ++index;
  if (index == kMaxPools) {
    return Status(Code::kLimit,
                  "there are " + std::to_string(kMaxPools) + " pools already, and no more can be");
  }
  const Result<std::array<uint8_t, 16>> uid = NewUuid();
  if (!uid.ok()) return uid.status();
  const PoolSpec spec = WithDefaults(wanted);
  Result<PoolGeometry> planned = allocator_->Plan(spec);
  if (!planned.ok()) return planned.status();
  const PoolGeometry& g = *planned;

  // Old bytes may be left from a daemon that was killed here; all-zero is the empty state (L3).
  const uint64_t hint_bytes = FreeList::Bytes(g.max_chunk_count);
  management_.Decommit(g.hints_offset, hint_bytes);
  Status status = management_.Commit(g.hints_offset, hint_bytes);
  if (status.ok()) status = CommitChunks(g, 0, g.chunk_count, progress);
  if (!status.ok()) {
    management_.Decommit(g.hints_offset, hint_bytes);
    allocator_->Forget(g);
    return status;
  }

  MemPool& entry = pool_entry(index);
  WriteShape(g, entry);
  SetAutoGrow(index, spec.auto_grow ? AutoGrow::kOn : AutoGrow::kOff);
  std::memcpy(entry.uid, uid->data(), sizeof(entry.uid));
  entry.create_time_ns = RealTimeNs();
  entry.loan_count.store(0, std::memory_order_relaxed);
  entry.exhausted_count.store(0, std::memory_order_relaxed);
  entry.recovered_chunk_count.store(0, std::memory_order_relaxed);
  entry.pressure.store(0, std::memory_order_relaxed);
  // Enough for a first user; Recovery::Tick sets it by the number of threads.
  entry.cache_cap.store(g.CacheCap(g.chunk_count, 1, !NeedsGracePeriod(*this)),
                        std::memory_order_relaxed);
  CopyName(entry.name, spec.name);
  entry.chunk_count.store(g.chunk_count, std::memory_order_release);  // PAIR pool.chunk_count

  FreeList::SetRange(FreeList::At(management_.data() + g.hints_offset, g.max_chunk_count), 0,
                     g.chunk_count);
  const uint64_t use = (uses_[index].load() + 2) | 1;
  uses_[index].store(use);
  PublishView(index, entry, g, use);
  entry.use.store(use, std::memory_order_release);  // PAIR pool.use
  entry.state.store(static_cast<uint32_t>(PoolState::kActive),
                    std::memory_order_release);  // PAIR pool.state
  return index;
}

std::array<MemPoolManager::Range, 3> MemPoolManager::RangesOf(const PoolGeometry& g, uint32_t from,
                                                              uint32_t to) {
  const uint64_t count = to - from;
  return {{{&management_, g.records_offset + g.record_bytes() * from, g.record_bytes() * count},
           {&chunk_, g.headers_offset + sizeof(ChunkHeader) * from, sizeof(ChunkHeader) * count},
           {&chunk_, g.payload_offset + g.stride_bytes * from, g.stride_bytes * count}}};
}

Status MemPoolManager::CommitChunks(const PoolGeometry& g, uint32_t from, uint32_t to,
                                    const Progress& progress) {
  const std::array<Range, 3> ranges = RangesOf(g, from, to);
  for (const Range& range : ranges) {
    // To the byte: the page at either end may be another chunk's too.
    range.segment->Decommit(range.offset, range.bytes);
    Status status = range.segment->Commit(range.offset, range.bytes, progress);
    if (!status.ok()) {
      for (const Range& undo : ranges) undo.segment->Decommit(undo.offset, undo.bytes);
      return status;
    }
  }
  return Status();
}

Status MemPoolManager::GrowPool(uint32_t index, uint32_t chunk_count, const Progress& progress) {
  const PoolView& view = *pool(index);
  const uint32_t before = view.live_chunk_count();
  if (chunk_count < before || chunk_count > view.max_chunk_count) {
    return Status(Code::kInvalid, "pool \"" + view.name + "\" has " + std::to_string(before) +
                                      " chunks and can have " + std::to_string(before) + " to " +
                                      std::to_string(view.max_chunk_count));
  }
  if (chunk_count == before) return Status();
  if (Status status = CommitChunks(view, before, chunk_count, progress); !status.ok())
    return status;
  // Memory, then count, then hints: who follows a hint finds a count that has its chunk.
  chunk_counts_[index].store(chunk_count, std::memory_order_release);
  view.shared->chunk_count.store(chunk_count, std::memory_order_release);  // PAIR pool.chunk_count
  if (!Mutant(15)) FreeList::SetRange(view.hints, before, chunk_count);
  // The exchange is a full barrier: a loan that did not see the chunks is seen here.
  if (view.shared->pressure.exchange(0) != 0) FutexWake(view.shared->pressure);
  return Status();
}

void MemPoolManager::SetAutoGrow(uint32_t index, AutoGrow value) {
  pool_entry(index).auto_grow.store(static_cast<uint8_t>(value), std::memory_order_relaxed);
}

void MemPoolManager::WakeLoans(uint32_t index) {
  MemPool& entry = pool_entry(index);
  entry.pressure.store(0);
  FutexWake(entry.pressure);
}

void MemPoolManager::StartDrain(uint32_t index) {
  MemPool& entry = pool_entry(index);
  // The state first: a daemon that adopts goes by it.
  entry.state.store(static_cast<uint32_t>(PoolState::kDraining), std::memory_order_release);
  const uint64_t closed = uses_[index].load() & ~uint64_t{1};
  uses_[index].store(closed);
  entry.use.store(closed);  // PAIR pool.use  STEP pool_close.use
}

void MemPoolManager::SettleDrain(uint32_t index) {
  const PoolView& view = *pool(index);
  if (!Mutant(102)) view.shared->cache_cap.store(0);  // STEP pool_close.cap
  Settle(*this);                                      // STEP pool_close.settle
  const uint32_t live = view.live_chunk_count();
  for (uint32_t chunk = 0; chunk < live && !Mutant(27); ++chunk) Mark(view.record(chunk));
  Settle(*this);  // STEP pool_close.settle
  WakeLoans(index);
}

PoolGeometry MemPoolManager::RemovePool(uint32_t index, uint32_t generation) {
  const PoolGeometry g = *pool(index);
  MemPool& entry = pool_entry(index);
  if (!Mutant(28)) entry.generation_base += generation + 1;
  const uint64_t gone = (uses_[index].load() | 1) + 1;
  uses_[index].store(gone);
  entry.use.store(gone);  // PAIR pool.use
  // STEP pool_remove.state
  entry.state.store(static_cast<uint32_t>(PoolState::kEmpty));
  {
    std::lock_guard lock(views_mutex_);
    pools_[index].store(nullptr, std::memory_order_release);
    views_[index].reset();
  }
  const uint64_t count = g.max_chunk_count;
  chunk_.Decommit(g.headers_offset, ExtentMap::RoundUp(sizeof(ChunkHeader) * count));
  chunk_.Decommit(g.payload_offset, ExtentMap::RoundUp(g.stride_bytes * count));
  allocator_->ForgetChunks(g);
  return g;
}

void MemPoolManager::DecommitFreeChunks() {
  ExtentMap& extents = allocator_->chunk_extents();
  for (const Extent& extent : extents.ReserveRest(chunk_.file_bytes())) {
    chunk_.Decommit(extent.offset, extent.bytes);
    extents.Free(extent.offset);
  }
}

}  // namespace zerocp::shm
