#include "shm/pool_drain.h"

#include <algorithm>
#include <utility>

#include "shm/chunk_ops.h"
#include "shm/free_list.h"

namespace zerocp::shm {
namespace {

// True if the chunk is the daemon's, after this call if not before it.
bool Take(ChunkManager& record) {
  // STEP pool_take.load
  const uint64_t word = record.word.load(std::memory_order_acquire);
  if (IsOwned(word, Kind::kLoaned, kDaemonSession)) return true;
  // STEP pool_take.label
  const bool cached =
      KindOf(word) == Kind::kLoaned && PhaseOf(record.label.load(std::memory_order_acquire)) ==
                                           ChunkPhase::kCached;  // PAIR chunk.label
  if (KindOf(word) != Kind::kFree && !cached) return false;
  // STEP pool_take.word
  return ReplaceWord(record, word, Kind::kLoaned, kDaemonSession);
}

}  // namespace

void PoolDrain::Begin(uint32_t index) {
  if (manager_.pool(index)->IsOpen()) manager_.StartDrain(index);
}

bool PoolDrain::Step(uint32_t index, const SessionSet& attached) {
  const PoolView& pool = *manager_.pool(index);
  const uint32_t live = pool.live_chunk_count();
  uint32_t held = 0;
  uint32_t generation = 0;
  for (uint32_t chunk = 0; chunk < live; ++chunk) {
    ChunkManager& record = pool.record(chunk);
    if (!Take(record)) ++held;
    generation = std::max(generation, record.generation.load(std::memory_order_relaxed));
  }
  if (held != 0) return false;

  const auto serial = static_cast<uint16_t>(pool.open_use >> 1);
  const PoolGeometry geometry = manager_.RemovePool(index, generation);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // see MemPoolManager::LoadPool
  Gap gap;
  gap.extents = {{geometry.records_offset, geometry.record_bytes() * geometry.max_chunk_count},
                 {geometry.hints_offset, FreeList::Bytes(geometry.max_chunk_count)}};
  for (uint32_t id = kFirstSession; id < manager_.session_capacity(); ++id) {
    const SessionEntry& entry = manager_.session_entry(static_cast<uint16_t>(id));
    if (!Mutant(29) && attached[id] && entry.known_serials[index].load() == serial)
      gap.sessions.set(id);
  }
  KeepOrFree(std::move(gap));
  return true;
}

void PoolDrain::KeepOrFree(Gap gap) {
  for (const Extent& extent : gap.extents)
    manager_.mutable_management_segment().Decommit(extent.offset, ExtentMap::RoundUp(extent.bytes));
  if (gap.sessions.any()) {
    gaps_.push_back(std::move(gap));
    return;
  }
  for (const Extent& extent : gap.extents)
    manager_.allocator().management_extents().Free(extent.offset);
}

void PoolDrain::AdoptGaps(const SessionSet& attached) {
  manager_.DecommitFreeChunks();
  ExtentMap& extents = manager_.allocator().management_extents();
  KeepOrFree({extents.ReserveRest(manager_.management_segment().file_bytes()), attached});
}

void PoolDrain::FreeGaps(const SessionSet& attached) {
  bool any_ended = false;
  std::vector<Gap> gaps = std::exchange(gaps_, {});
  for (Gap& gap : gaps) {
    const bool ended = (gap.sessions & ~attached).any();
    any_ended |= ended;
    gap.sessions &= attached;
    if (ended) {
      KeepOrFree(std::move(gap));
    } else {
      gaps_.push_back(std::move(gap));
    }
  }
  if (any_ended || (!gaps_.empty() && ++looks_ % kLooksPerDecommit == 0))
    manager_.DecommitFreeChunks();
}

}  // namespace zerocp::shm
