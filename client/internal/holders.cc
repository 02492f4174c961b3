#include "client/internal/holders.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "shm/encoding.h"

namespace zerocp::internal {
namespace {

constexpr size_t kShown = 3;

// Chunks by session that owns or holds them. A chunk with several holders counts for each.
std::map<uint16_t, uint32_t> CountHolders(const shm::PoolView& pool) {
  std::map<uint16_t, uint32_t> counts;
  const uint32_t live = pool.live_chunk_count();
  for (uint32_t chunk = 0; chunk < live; ++chunk) {
    shm::ChunkManager& record = pool.record(chunk);
    const shm::Word word = shm::DecodeWord(record.word.load(std::memory_order_relaxed));
    if (word.kind == shm::Kind::kLoaned) ++counts[word.owner];
    if (word.kind != shm::Kind::kShared) continue;
    for (uint16_t slot = 0; slot < pool.slot_count; ++slot) {
      const uint16_t holder = record.slots()[slot].load(std::memory_order_relaxed);
      if (holder != 0) ++counts[holder];
    }
  }
  return counts;
}

std::string NameOf(shm::MemPoolManager& manager, uint16_t session) {
  if (session >= manager.session_capacity()) return "session " + std::to_string(session);
  const shm::SessionEntry& entry = manager.session_entry(session);
  return std::string(entry.name, strnlen(entry.name, sizeof(entry.name))) + " (pid " +
         std::to_string(entry.pid) + ")";
}

}  // namespace

std::string DescribeHolders(shm::MemPoolManager& manager, const shm::PoolView& pool) {
  const auto counts = CountHolders(pool);
  std::vector<std::pair<uint16_t, uint32_t>> largest(counts.begin(), counts.end());
  std::sort(largest.begin(), largest.end(),
            [](const auto& a, const auto& b) { return a.second > b.second; });

  std::string text = "pool '" + pool.name +
                     "' has no free chunk: " + std::to_string(pool.live_chunk_count()) +
                     " chunks of " + std::to_string(pool.chunk_size_bytes) + " bytes, held by ";
  for (size_t i = 0; i < largest.size() && i < kShown; ++i) {
    text += (i == 0 ? "" : ", ") + NameOf(manager, largest[i].first) + ": " +
            std::to_string(largest[i].second);
  }
  if (largest.empty()) text += "nobody at this moment: try again";
  if (largest.size() > kShown) {
    text += " and " + std::to_string(largest.size() - kShown) + " more sessions";
  }
  return text;
}

}  // namespace zerocp::internal
