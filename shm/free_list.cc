#include "shm/free_list.h"

#include <algorithm>

namespace zerocp::shm {
namespace {

// All loads of hints are relaxed: they are only advice (F1).

// First set bit at or after `from` in words [from / 64, count); FreeList::kNone if there is none.
uint32_t NextBit(const std::atomic<uint64_t>* words, uint32_t count, uint32_t from) {
  for (uint32_t word = from / 64; word < count; ++word) {
    uint64_t bits = words[word].load(std::memory_order_relaxed);
    if (word == from / 64) bits &= ~uint64_t{0} << (from % 64);
    if (bits != 0) return word * 64 + static_cast<uint32_t>(std::countr_zero(bits));
  }
  return FreeList::kNone;
}

// The same over level 0 with the help of the levels above.
uint32_t NextGroup(const HintLevels& hints, uint32_t from) {
  uint32_t group = from;
  while (group < hints.word_count[0]) {
    // Inside one level-1 word first, then by level 2 to the next that has any bit.
    const uint32_t word = group / 64;
    uint64_t bits =
        hints.level[1][word].load(std::memory_order_relaxed) & (~uint64_t{0} << (group % 64));
    if (bits != 0) {
      group = word * 64 + static_cast<uint32_t>(std::countr_zero(bits));
      return group < hints.word_count[0] ? group : FreeList::kNone;
    }
    const uint32_t next = NextBit(hints.level[2], hints.word_count[2], word + 1);
    if (next == FreeList::kNone || next >= hints.word_count[1]) return FreeList::kNone;
    if (hints.level[1][next].load(std::memory_order_relaxed) == 0) {
      // A wrong 1 above: step over it.
      group = (next + 1) * 64;
      continue;
    }
    group = next * 64;
  }
  return FreeList::kNone;
}

// Takes the summary bit of an empty word away, and puts it back if the word was filled meanwhile.
void ClearSummary(const HintLevels& hints, int level, uint32_t word) {
  std::atomic<uint64_t>& above = hints.level[level + 1][word / 64];
  const uint64_t bit = uint64_t{1} << (word % 64);
  const uint64_t left = above.fetch_and(~bit) & ~bit;
  if (hints.level[level][word].load() != 0) {
    above.fetch_or(bit);
  } else if (left == 0 && level == 0) {
    ClearSummary(hints, 1, word / 64);
  }
}

}  // namespace

uint32_t FreeList::FindGroup(const HintLevels& hints, uint32_t from) {
  const uint32_t group = NextGroup(hints, from);
  return group != kNone || from == 0 ? group : NextGroup(hints, 0);
}

uint64_t FreeList::Claim(const HintLevels& hints, uint32_t group, uint32_t wanted) {
  std::atomic<uint64_t>& word = hints.level[0][group];
  uint64_t seen = word.load(std::memory_order_relaxed);
  uint64_t take = 0;
  for (uint64_t rest = seen; rest != 0 && wanted > 0; rest &= rest - 1, --wanted)
    take |= rest & (~rest + 1);
  uint64_t claimed = 0;
  if (take != 0) {
    seen = word.fetch_and(~take);
    claimed = seen & take;
  }
  if ((seen & ~take) == 0) ClearSummary(hints, 0, group);
  return claimed;
}

void FreeList::Set(const HintLevels& hints, uint32_t group, uint64_t bits) {
  // Upwards until a level had a bit already. A peer that saw the word empty puts the summary back
  // itself (ClearSummary), so stopping early hides nothing for long.
  uint32_t index = group;
  uint64_t mask = bits;
  for (int level = 0; level < 3; ++level) {
    const uint64_t before = hints.level[level][index].fetch_or(mask);
    if (before != 0 && level > 0) break;
    if (before != 0 && (hints.level[1][index / 64].load() >> (index % 64) & 1) != 0) break;
    mask = uint64_t{1} << (index % 64);
    index /= 64;
  }
}

void FreeList::SetRange(const HintLevels& hints, uint32_t from, uint32_t to) {
  for (uint32_t chunk = from; chunk < to;) {
    const uint32_t end = std::min(to, (chunk / 64 + 1) * 64);
    const uint64_t bits = end - chunk == 64 ? ~uint64_t{0} : (uint64_t{1} << (end - chunk)) - 1;
    Set(hints, chunk / 64, bits << (chunk % 64));
    chunk = end;
  }
}

void FreeList::RepairSummaries(const HintLevels& hints) {
  for (int level = 0; level < 2; ++level) {
    for (uint32_t word = 0; word < hints.word_count[level]; ++word) {
      if (hints.level[level][word].load(std::memory_order_relaxed) == 0) continue;
      const uint64_t bit = uint64_t{1} << (word % 64);
      std::atomic<uint64_t>& above = hints.level[level + 1][word / 64];
      if ((above.load(std::memory_order_relaxed) & bit) == 0) above.fetch_or(bit);
    }
  }
}

}  // namespace zerocp::shm
