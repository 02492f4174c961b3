// The free list of a pool: which chunks are probably free.
//
// What. Three levels of hint bits: level 0 has one bit per chunk, a word (group) per 64 of them;
// level 1 one bit per level-0 word, level 2 one per level-1 word. A set bit says "look here".
//
// Invariants. F1: nothing here is ever believed; the chunk's word decides (one compare-exchange). A
// wrong 1 costs a look, a wrong 0 hides a chunk until the daemon's sweep or a scan of the records.
//
// Threads and processes. Every function from anyone; a forged bit is only a wrong hint.
//
// Crash. Killed between the levels: a wrong 0, repaired by the next sweep.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "shm/mem_pool_manager.h"

namespace zerocp::shm {

class FreeList {
 public:
  static constexpr uint32_t kNone = 0xffffffff;

  static constexpr uint32_t WordCount(uint32_t chunk_count, int level) {
    uint64_t words = chunk_count;
    for (int i = 0; i <= level; ++i) words = (words + 63) / 64;
    return static_cast<uint32_t>(words);
  }
  static constexpr uint64_t Bytes(uint32_t chunk_count) {
    return sizeof(uint64_t) * (uint64_t{WordCount(chunk_count, 0)} + WordCount(chunk_count, 1) +
                               WordCount(chunk_count, 2));
  }
  static HintLevels At(std::byte* bytes, uint32_t chunk_count) {
    HintLevels hints;
    auto* words = reinterpret_cast<std::atomic<uint64_t>*>(bytes);
    for (int level = 0; level < 3; ++level) {
      hints.level[level] = words;
      hints.word_count[level] = WordCount(chunk_count, level);
      words += hints.word_count[level];
    }
    return hints;
  }

  // The first group at or after `from`, going round, that seems to have a free chunk; kNone if none
  // does.
  static uint32_t FindGroup(const HintLevels& hints, uint32_t from);
  // Claims up to `wanted` hints of a group; the bits claimed. The caller then asks each chunk's
  // word.
  static uint64_t Claim(const HintLevels& hints, uint32_t group, uint32_t wanted);
  // Says that the chunks `bits` of a group are free. REQUIRES: their words say so already.
  static void Set(const HintLevels& hints, uint32_t group, uint64_t bits);
  static void SetChunk(const HintLevels& hints, uint32_t chunk) {
    Set(hints, chunk / 64, uint64_t{1} << (chunk % 64));
  }
  // The same for chunks [from, to).
  static void SetRange(const HintLevels& hints, uint32_t from, uint32_t to);
  // Makes levels 1 and 2 agree with level 0 where they hide something. For the daemon's sweep.
  static void RepairSummaries(const HintLevels& hints);
  static bool IsSet(const HintLevels& hints, uint32_t chunk) {
    return ((hints.level[0][chunk / 64].load(std::memory_order_relaxed) >> (chunk % 64)) & 1) != 0;
  }
};

}  // namespace zerocp::shm
