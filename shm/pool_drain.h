// Deletes a pool under its clients.
//
// What. Begin closes the pool: nothing comes out of its free list any more. Then the daemon sees to
// it that nothing comes out of caches either (MemPoolManager::SettleDrain). Step takes every chunk
// that is free or in a thread's cache, wherever that thread is and whether it runs or not, by
// compare-exchange to LOANED by the daemon, and is called until it has all: those that applications
// hold come with their release. Then the pool goes, and its memory with it.
//
// Why a cached chunk can be taken from its client. Whoever loans a chunk stores the label loaned,
// then looks again: out of a cache whether the word is what the cache remembers, else whether the
// pool is open. The daemon closes the pool, marks the words, settles, then reads labels. So either
// the daemon sees the label, or the client sees the mark, or that the pool is closed, and has
// nothing (S3 in session.h). What it labels cached again comes with the next step.
// Why no word without a mark is in a cache when its thread loans next. The cap goes to 0, and the
// daemon settles, before it marks. A release loads the cap after all stores to the chunk's word,
// its own and those that it has seen of others: if it saw another cap than 0, the daemon finds that
// word and marks it; if it saw 0, it goes through the library, which sees that the pool is closed
// and empties the cache. What a refill takes is marked, or was taken after the daemon had looked at
// it: then the refill sees that the pool is closed.
//
// Address ranges. Headers and payloads are touched through a loan, a sample or a slot only, and the
// daemon had every chunk: their range is free at once. Records and hints are touched before that,
// also by a thread that stood still meanwhile: a label, a word, a hint, at an address that it
// remembers. So their range stays a gap, which is nobody's, until each session that knew the pool
// has ended. Their memory is the system's: such a store brings back a page, which goes with the
// gap. A session knows a pool once it has stored its serial (SessionEntry::known_serials). A
// process that locks its memory (LockIfProcessDoes) touches all chunks of a pool that it knows when
// it attaches, and so may bring back payload pages of one that has just gone: while there are gaps,
// and when one ends, what is free of the chunk segment is given back again.
//
// Crash. The state kDraining and each taken word stay, and the next daemon goes on. It does not
// know the gaps: AdoptGaps makes one of everything that is not in use.
//
// Threads and processes. Daemon only, one thread at a time, REQUIRES in all functions: no recovery,
// audit, growth or creation at the same time.
#pragma once

#include <cstdint>
#include <vector>

#include "shm/mem_pool_manager.h"
#include "shm/recovery.h"

namespace zerocp::shm {

class PoolDrain {
 public:
  // REQUIRES: `manager` outlives this.
  explicit PoolDrain(MemPoolManager& manager) : manager_(manager) {}

  // Closes a pool. Nothing if it is closed. REQUIRES: it exists, no open channel uses it.
  void Begin(uint32_t index);
  // Takes what is free or cached of a pool that was closed. True: that was all of it, and the pool
  // is gone. Reads every record. REQUIRES: MemPoolManager::SettleDrain since Begin, no
  // channel uses it.
  bool Step(uint32_t index, const SessionSet& attached);
  // After adoption, and after the channels: keeps what is not in use away from `attached`.
  void AdoptGaps(const SessionSet& attached);
  // Frees the gaps that none of `attached` knows. Every now and then.
  void FreeGaps(const SessionSet& attached);
  size_t gap_count() const { return gaps_.size(); }

 private:
  struct Gap {
    std::vector<Extent> extents;  // of the management segment
    SessionSet sessions;          // that know it
  };
  // Gives the memory of the extents back, and, if nobody is left who knows them, the addresses.
  void KeepOrFree(Gap gap);

  MemPoolManager& manager_;
  // While processes that may lock memory live, but not at each call.
  static constexpr uint32_t kLooksPerDecommit = 10;
  uint32_t looks_ = 0;
  std::vector<Gap> gaps_;
};

}  // namespace zerocp::shm
