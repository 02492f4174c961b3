// The life of one chunk: every transition of its word and its holder slots by living sessions.
//
// What. T1 take, T2 free, T3 share, T4 open, T5 close; recovery.cc has the daemon's. The word is
// the truth; each transition is one store by its exclusive writer or one compare-exchange on the
// exact stamped value.
//
// Invariants. C1: a word LOANED by a session is written by that session only, but for a message
// taken over by its receiver, by the daemon after its death, and, if it is cached, by the daemon
// when its pool is deleted (pool_drain.h) and by who takes it back (session.h, Recall). Both mark
// it first, also where it is not cached, or not any more: that changes nothing for who stores the
// word next, and who changes a LOANED word by compare-exchange does it by ReplaceWord. C2: each
// reference to a shared chunk is one slot; grant slots are filled by the exclusive owner before T3,
// open slots by compare-exchange. C3: each open changes the stamp, so a close succeeds only if
// nobody opened since it began to look.
//
// Memory order. All accesses in close and open are sequentially consistent: with anything weaker a
// close is lost (acquire and release order each slot's loads and stores, but not one slot's store
// against another's load). A take is acquire, a free release: PAIR chunk.payload.
//
// Crash. In each state between two of these instructions the sweep finds the owner or holder by id.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>

#include "shm/encoding.h"
#include "shm/mem_pool_manager.h"
#include "shm/mutant.h"

namespace zerocp::shm {

inline constexpr uint16_t kNoSlot = 0xffff;

// Fetches the line of `address`, which is about to be written. On the oldest x86-64 the compiler's
// own prefetch can only mean to read; where there is no prefetchw, it does nothing.
inline void PrefetchToWrite(const void* address) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(address)));
#else
  __builtin_prefetch(address, 1);
#endif
}

inline void SetLabel(ChunkManager& record, uint32_t label) {
  // Who takes a chunk because it is labelled cached sees what was done with it.  PAIR chunk.label
  record.label.store(label, std::memory_order_release);
}
inline void SetPhase(ChunkManager& record, ChunkPhase phase) {
  SetLabel(record, EncodeLabel(phase, 0));
}
inline ChunkPhase PhaseOf(const ChunkManager& record) {
  return PhaseOf(record.label.load(std::memory_order_relaxed));
}
// True if the owner of an exclusive chunk has it to give back: neither cached nor sent.
inline bool MayRelease(const ChunkManager& record) {
  return (record.label.load(std::memory_order_relaxed) & kMayRelease) != 0;
}

// True if a slot other than `except` is set.
inline bool AnyHolder(ChunkManager& record, uint32_t slot_count, uint32_t except = kNoSlot) {
#if defined(__SANITIZE_THREAD__)
  // ThreadSanitizer knows no accesses of mixed size.
  for (uint32_t slot = 0; slot < slot_count; ++slot) {
    // STEP close.look
    if (slot != except && record.slots()[slot].load() != 0) return true;
  }
  return false;
#else
  // Four slots a load: slot_count is a multiple of 4, and slots start 16 bytes into an aligned
  // record.
  const auto* words = reinterpret_cast<const uint64_t*>(record.slots());
  for (uint32_t word = 0; word < slot_count / 4; ++word) {
    // STEP close.look
    uint64_t bits = __atomic_load_n(words + word, __ATOMIC_SEQ_CST);
    if (word == except / 4) bits &= ~(uint64_t{0xffff} << (16 * (except % 4)));
    if (bits != 0) return true;
  }
  return false;
#endif
}

// T1: FREE -> LOANED by `session`. The new word; 0: somebody else has it.
inline uint64_t TakeFree(ChunkManager& record, uint16_t session) {
  uint64_t word = record.word.load(std::memory_order_relaxed);
  const uint64_t taken = NextWord(word, Kind::kLoaned, session);
  // STEP chunk.take
  return KindOf(word) == Kind::kFree && record.word.compare_exchange_strong(
                                            word, taken, std::memory_order_acquire,
                                            std::memory_order_relaxed)  // PAIR chunk.payload
             ? taken
             : 0;
}

// The word of an exclusive chunk gets another kind. REQUIRES: LOANED by the caller.
inline void StoreWord(ChunkManager& record, Kind kind, uint16_t owner) {
  // Nobody else writes it (C1). A mark that comes after this load is lost, as it is to be.
  const uint64_t word = record.word.load(std::memory_order_relaxed);
  record.word.store(NextWord(word, kind, owner), std::memory_order_release);  // PAIR chunk.payload
}

// `word`, which was read, -> `kind` of `owner`, by compare-exchange. A mark that comes between
// changes nothing; a second one cannot come. False: the chunk has become another's.
inline bool ReplaceWord(ChunkManager& record, uint64_t word, Kind kind, uint16_t owner) {
  uint64_t found = word;
  return record.word.compare_exchange_strong(found, NextWord(word, kind, owner)) ||
         (found == (word | kRecalled) && !Mutant(118) &&
          record.word.compare_exchange_strong(found, NextWord(word, kind, owner)));
}

// The word of an owned chunk without the mark: what a cache remembers of it.
inline uint64_t OwnWord(const ChunkManager& record) {
  return record.word.load(std::memory_order_relaxed) & ~kRecalled;
}

// No loan out of a cache has this chunk from now on, unless its word changes. Gives up after many
// lost races: the word that won the last one was stored after the cap was 0 (pool_drain.h).
inline void Mark(ChunkManager& record) {
  uint64_t word = record.word.load(std::memory_order_acquire);
  for (int i = 0; i < 1 << 20 && KindOf(word) == Kind::kLoaned && (word & kRecalled) == 0; ++i) {
    // STEP pool_close.mark
    if (record.word.compare_exchange_weak(word, word | kRecalled)) return;
  }
}

// T7: true if the chunk, whose word was `word` when it came into this session's cache or was taken
// by it, is this session's yet; its label is then `label`, and nobody takes it back from now on.
// REQUIRES: `label` is kLoaned's. It may reach a chunk that has just become another's, who then
// must be able to release it.
inline bool Confirm(ChunkManager& record, uint64_t word, uint32_t label, uint16_t session) {
  // Without this look a label would be stored into each chunk that was taken back.
  if (OwnWord(record) != word) return false;
  // STEP loan.label
  SetLabel(record, label);
  std::atomic_signal_fence(std::memory_order_seq_cst);  // S4; who takes back executes the barrier
  uint64_t now = record.word.load(std::memory_order_relaxed);  // STEP loan.word
  if (now == word || Mutant(117)) [[likely]]
    return true;
  // Somebody has marked it, and decides by its word. The next stamp, so that no mark is taken for a
  // later one.
  // STEP settle.word
  return now == (word | kRecalled) &&
         record.word.compare_exchange_strong(now, NextWord(word, Kind::kLoaned, session));
}

// T3: LOANED by `session` -> SHARED, held in the name of `session` by the grant slots in `slots`
// (bit k: slot k). Returns the new generation. REQUIRES: every bit is below the pool's grant_slots.
inline uint32_t ShareChunk(ChunkManager& record, uint16_t session, uint64_t slots) {
  const uint32_t generation = record.generation.load(std::memory_order_relaxed) + 1;
  // STEP share.generation
  record.generation.store(generation, std::memory_order_relaxed);
  // Whoever sees a new slot sees the new generation: the daemon's double look needs it (Orphan).
  std::atomic_thread_fence(std::memory_order_release);  // PAIR chunk.generation
  for (; slots != 0; slots &= slots - 1) {
    // STEP share.slot
    record.slots()[__builtin_ctzll(slots)].store(session, std::memory_order_relaxed);
  }
  StoreWord(record, Kind::kShared, 0);  // STEP share.word
  return generation;
}

// T5/T10: SHARED without holders -> `kind` of `owner`. True if this call closed it; the chunk is
// then the caller's. False: it is held, or somebody else closed it. Gives up after `tries` lost
// races, so that nobody can keep the daemon here; a client that loses a race has seen another make
// progress.
inline bool CloseIfUnheld(ChunkManager& record, uint32_t slot_count, Kind kind, uint16_t owner,
                          int tries = 1 << 20) {
  for (int i = 0; i < tries; ++i) {
    uint64_t word = record.word.load();  // before the slots (C3)  STEP close.load
    if (KindOf(word) != Kind::kShared || AnyHolder(record, slot_count)) return false;
    if (Mutant(1)) {  // the stamp no longer guards the look
      sched_yield();
      word = record.word.load();
    }
    // STEP close.word
    if (record.word.compare_exchange_strong(word, NextWord(word, kind, owner))) return true;
  }
  return false;
}

// Gives up the reference in `slot`. True if it was the last: the chunk is then LOANED by `session`.
// REQUIRES: the slot is the caller's.
inline bool ReleaseSlot(ChunkManager& record, uint32_t slot_count, uint32_t slot,
                        uint16_t session) {
  std::atomic<uint16_t>& mine = record.slots()[slot];
  // Alone: one compare-exchange turns the reference into ownership.
  uint64_t word = record.word.load();  // STEP release.load
  if (!AnyHolder(record, slot_count, slot)) {
    // STEP release.word
    if (record.word.compare_exchange_strong(word, NextWord(word, Kind::kLoaned, session))) {
      // STEP release.slot
      mine.store(0, std::memory_order_relaxed);  // the word says whose it is; slots are swept first
      return true;
    }
  }
  mine.exchange(0);  // STEP release.clear
  return CloseIfUnheld(record, slot_count, Kind::kLoaned, session);
}

enum class OpenResult { kOpened, kStale, kHoldersFull, kStaleClosed };

// T4: a reference to generation `generation` of a shared chunk, in an open slot. kStaleClosed:
// stale, and the undo found itself the last one out: the chunk is LOANED by `session` now.
inline OpenResult OpenChunk(ChunkManager& record, const PoolGeometry& pool, uint32_t generation,
                            uint16_t session, uint16_t* slot) {
  uint16_t claimed = kNoSlot;
  for (;;) {
    uint64_t word = record.word.load(std::memory_order_acquire);  // STEP open.load
    // The generation stands still as long as the stamp does.  STEP open.generation
    if (KindOf(word) != Kind::kShared ||
        record.generation.load(std::memory_order_relaxed) != generation) {
      break;
    }
    for (uint16_t k = pool.grant_slots; claimed == kNoSlot && k < pool.slot_count; ++k) {
      uint16_t empty = 0;
      // STEP open.slot
      if (record.slots()[k].load(std::memory_order_relaxed) == 0 &&
          record.slots()[k].compare_exchange_strong(empty, session, std::memory_order_acq_rel)) {
        claimed = k;
      }
    }
    if (claimed == kNoSlot) return OpenResult::kHoldersFull;
    // STEP open.word
    if (record.word.compare_exchange_strong(word, NextWord(word, Kind::kShared, 0))) {
      *slot = claimed;
      return OpenResult::kOpened;
    }
  }
  if (claimed == kNoSlot) return OpenResult::kStale;
  uint16_t expected =
      session;  // an open slot with this id was filled by this call or one like it (C2)
  // STEP open.undo
  record.slots()[claimed].compare_exchange_strong(expected, 0);
  return CloseIfUnheld(record, pool.slot_count, Kind::kLoaned, session) ? OpenResult::kStaleClosed
                                                                        : OpenResult::kStale;
}

}  // namespace zerocp::shm
