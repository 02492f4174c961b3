// The part of session.h that moves chunks between callers, caches and the free list.
#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <utility>

#include "shm/chunk_ops.h"
#include "shm/free_list.h"
#include "shm/futex.h"
#include "shm/session.h"
#include "shm/settle.h"

namespace zerocp::shm {
namespace {

// How long a waiting loan sleeps before it scans again: chunks can come free without a word about
// it, in a peer's death.
constexpr std::chrono::milliseconds kLoanSlice{10};

// Payloads that a thread's refills go through before they begin anew: half of a usual second-level
// cache.
constexpr uint64_t kNearBytes = 512 << 10;

// Cached chunks that are taken back at once: all of them for one barrier.
constexpr uint32_t kRecalledAtOnce = 32;

// True if the daemon is expected to add chunks when none is left.
bool Grows(const PoolView& pool) {
  return pool.shared->auto_grow.load(std::memory_order_relaxed) ==
             static_cast<uint8_t>(AutoGrow::kOn) &&
         pool.live_chunk_count() < pool.max_chunk_count;
}

// Who waits for a chunk tries again. After a hint was set: that ends with a locked instruction, so
// this load sees every waiter that did not see the chunk.
void WakeLoans(const PoolView& pool) {
  if (pool.shared->pressure.load() == 1 && pool.shared->pressure.exchange(0) == 1)
    FutexWake(pool.shared->pressure);
}

// Nobody answered: until the daemon says otherwise, loans need not wait for it.
void StopExpectingGrowth(const PoolView& pool) {
  auto on = static_cast<uint8_t>(AutoGrow::kOn);
  pool.shared->auto_grow.compare_exchange_strong(on, static_cast<uint8_t>(AutoGrow::kPaused));
}

}  // namespace

Code Session::LoanSlow(const PoolView& pool, Deadline deadline, ChunkRef* out) {
  PoolCache& cache = OwnCache(pool);
  uint32_t chunk;
  bool refilled = true;
  uint32_t live = pool.live_chunk_count();
  std::optional<Deadline> growth;
  const uint64_t label = cache.label + LoanCache::kNextSerial;
  const auto take = [&] {
    return LoanOnce(cache, static_cast<uint32_t>(label), &refilled, &chunk);
  };
  for (;;) {
    if (!pool.IsOpen()) {
      GiveUp(cache);
      return Code::kNotFound;
    }
    if (AtHeldLimit()) return Code::kHeldLimit;
    if (take()) break;
    // Others keep nothing back from now on; the daemon restores the cap when the pressure is gone.
    pool.shared->cache_cap.store(0, std::memory_order_relaxed);
    const bool grows = Grows(pool);
    if (std::exchange(live, pool.live_chunk_count()) != live) growth.reset();  // others were faster
    if (grows && !growth) growth = Deadline::After(growth_patience_);
    const Deadline until = grows && deadline.Passed() && !Mutant(47) ? *growth : deadline;
    if (until.Passed()) {
      if (grows) StopExpectingGrowth(pool);
      return Code::kExhausted;
    }
    pool.shared->pressure.store(1);
    std::atomic_thread_fence(std::memory_order_seq_cst);  // before the next look at the hints
    if (grows) CallForGrowth();
    if (take()) break;
    if (pool.IsOpen()) FutexWait(pool.shared->pressure, 1, until.Left(kLoanSlice));
  }
  // STEP loan.look
  if (!pool.IsOpen()) {
    // Unless the daemon has it already: then a label means nothing any more. The address is no
    // other pool's as long as this session lives (PoolDrain).
    // STEP give_up.label
    SetPhase(pool.record(chunk), ChunkPhase::kCached);
    GiveUp(cache);
    return Code::kNotFound;
  }
  cache.label = label;
  if (refilled || (cache.label & LoanCache::kReportMask) == 0) ReportLoans(cache);
  if (Mutant(77)) CountRefusal(pool);  // a shared read-modify-write
  *out = {&pool, chunk, ChunkRef::kExclusive};
  CountAcquired();
  return Code::kOk;
}

void Session::CallForGrowth() {
  std::atomic<uint32_t>& bell = manager_->super_block().daemon_bell;
  bell.fetch_add(1);
  FutexWake(bell);
}

// A label that says cached already may be from before the chunk came here: then it may have been
// taken back since.
uint64_t Session::LabelCached(ChunkManager& record, uint64_t word) const {
  if (Mutant(119) ||
      (PhaseOf(record) != ChunkPhase::kCached && Confirm(record, word, LoanCache::kLoaned, id_))) {
    word = OwnWord(record);  // before the label: then it may become another's
    // STEP cached.label
    SetPhase(record, ChunkPhase::kCached);
  }
  return word;
}

void Session::GiveUp(PoolCache& cache) {
  const PoolView& pool = cache.view();
  for (uint32_t i = 0; i < cache.count(); ++i) {
    // Labelled loaned by a loan that ended here, or late by another's (S5).
    LabelCached(pool.record(cache.chunks[i]), cache.words[i]);
  }
  cache.SetCount(0);
}

void Session::ReportLoans(PoolCache& cache) {
  const uint64_t more =
      (cache.label - std::exchange(cache.reported_label, cache.label)) / LoanCache::kNextSerial;
  cache.view().shared->loan_count.fetch_add(more, std::memory_order_relaxed);
}

uint32_t Session::CapOf(const PoolView& pool) const {
  if (!Keeps(pool)) return 0;
  return std::min(pool.shared->cache_cap.load(std::memory_order_relaxed), LoanCache::kDefaultCap);
}

// The next one where somebody else was faster.
bool Session::LoanOnce(PoolCache& cache, uint32_t label, bool* refilled, uint32_t* chunk) {
  const PoolView& pool = cache.view();
  Taken taken{};
  do {
    *refilled = cache.count() == 0;
    if (!*refilled) {
      taken = cache.Pop();
    } else if (!Refill(cache, &taken) && !Scan(pool, &taken)) {
      return false;
    }
  } while (!Confirm(pool.record(taken.chunk), taken.word, label, id_));
  *chunk = taken.chunk;
  return true;
}

// Takes a chunk for the caller, and up to half a cap more for the cache.
bool Session::Refill(PoolCache& cache, Taken* taken) {
  const PoolView& pool = cache.view();
  const uint32_t wanted = std::max(1u, CapOf(pool) / 2);
  bool found = false;
  const uint32_t groups = pool.hints.word_count[0];
  // Not on and on through the pool: processors' caches have what was used a short time ago.
  const uint64_t near = std::max(uint64_t{1}, kNearBytes / (64 * pool.stride_bytes));
  if ((cache.group + groups - cache.home) % groups >= near) cache.group = cache.home;
  // Every group at most once: wrong hints must not keep a client here.
  for (uint32_t looks = 0; looks < groups; ++looks) {
    const uint32_t group = FreeList::FindGroup(pool.hints, cache.group % groups);
    if (group == FreeList::kNone) break;
    cache.group = group;
    const uint64_t claimed = FreeList::Claim(pool.hints, group, wanted);
    // After the claim: a hint of a chunk that was added just now is not thrown away.
    const uint32_t live = pool.live_chunk_count();
    for (uint64_t bits = claimed; bits != 0; bits &= bits - 1) {
      const uint32_t candidate = group * 64 + static_cast<uint32_t>(std::countr_zero(bits));
      PrefetchToWrite(&pool.record(candidate));
      PrefetchToWrite(pool.data(candidate));  // whoever loans it writes there first
    }
    for (uint64_t bits = claimed; bits != 0; bits &= bits - 1) {
      const uint32_t candidate = group * 64 + static_cast<uint32_t>(std::countr_zero(bits));
      if (candidate >= live) continue;
      ChunkManager& record = pool.record(candidate);
      const uint64_t word = TakeFree(record, id_);
      if (word == 0) continue;
      if (!found) {
        *taken = {candidate, word};
        found = true;
      } else {
        cache.Push({candidate, LabelCached(record, word)});
      }
    }
    if (found) return true;
    cache.group = group + 1;
  }
  return false;
}

// True if a thread may keep the chunk in its cache, and the barrier reaches it.
bool Session::MayBeCached(const ChunkManager& record, uint64_t word) const {
  const uint16_t owner = DecodeWord(word).owner;
  return KindOf(word) == Kind::kLoaned && PhaseOf(record) == ChunkPhase::kCached &&
         owner >= kFirstSession && owner < manager_->session_capacity() &&
         manager_->session_entry(owner).joined_barrier.load(std::memory_order_acquire) != 0;
}

// Asks every record of a pool that is small, or whose chunks are worth it: finds chunks whose hints
// were lost, and takes back what sits in caches.
bool Session::Scan(const PoolView& pool, Taken* taken) {
  if (!pool.revocable) return false;  // the daemon's tick does it
  std::array<Taken, kRecalledAtOnce> cached;
  uint32_t count = 0;
  const uint32_t live = pool.live_chunk_count();
  for (uint32_t chunk = 0; chunk < live; ++chunk) {
    ChunkManager& record = pool.record(chunk);
    const uint64_t word = record.word.load(std::memory_order_acquire);
    if (KindOf(word) == Kind::kFree) {
      *taken = {chunk, TakeFree(record, id_)};
      if (taken->word != 0) return true;
    } else if (MayBeCached(record, word)) {
      cached[count++] = {chunk, word};
      if (count < kRecalledAtOnce) continue;
      if (Recall(pool, cached.data(), count, taken)) return true;
      count = 0;
    }
  }
  return Recall(pool, cached.data(), count, taken);
}

// Takes chunks that were cached, in these words, back from their caches (S4): one for the caller,
// the others for anyone. A mark stays when the chunk is not cached any more; it does no harm.
bool Session::Recall(const PoolView& pool, const Taken* cached, uint32_t count, Taken* taken) {
  if (!joined_barrier_) return false;  // the kernel refuses, most likely: without a mark
  std::array<Taken, kRecalledAtOnce> marked;
  uint32_t marks = 0;
  for (uint32_t i = 0; i < count; ++i) {
    uint64_t word = cached[i].word;  // marked already, perhaps by who died since
    const uint64_t mark = word | kRecalled;
    // STEP recall.mark
    if (word == mark || pool.record(cached[i].chunk).word.compare_exchange_strong(word, mark))
      marked[marks++] = {cached[i].chunk, mark};
  }
  // STEP recall.barrier
  if (marks == 0 || (!Mutant(115) && !Barrier())) return false;
  bool found = false;
  bool freed = false;
  for (uint32_t i = 0; i < marks; ++i) {
    ChunkManager& record = pool.record(marked[i].chunk);
    // STEP recall.label  PAIR chunk.label
    if (PhaseOf(record.label.load(std::memory_order_acquire)) != ChunkPhase::kCached &&
        !Mutant(116)) {
      continue;
    }
    uint64_t word = marked[i].word;
    const uint64_t next =
        found ? NextWord(word, Kind::kFree, 0) : NextWord(word, Kind::kLoaned, id_);
    // STEP recall.word
    if (!record.word.compare_exchange_strong(word, next)) continue;
    if (found) {
      FreeList::SetChunk(pool.hints, marked[i].chunk);
      freed = true;
    } else {
      *taken = {marked[i].chunk, next};
      found = true;
    }
  }
  if (freed) WakeLoans(pool);
  return found;
}

bool Session::Release(ChunkRef ref) {
  if (TryRelease(ref)) return true;
  const PoolView& pool = *ref.pool;
  ChunkManager& record = pool.record(ref.chunk);
  if (ref.slot == ChunkRef::kExclusive) {
    if (!MayRelease(record)) return false;
    ToCache(pool, ref.chunk);
  } else {
    if (record.slots()[ref.slot].load(std::memory_order_relaxed) != id_) return false;
    if (ReleaseSlot(record, pool.slot_count, ref.slot, id_)) ToCache(pool, ref.chunk);
  }
  CountReleased();
  return true;
}

void Session::ToCache(const PoolView& pool, uint32_t chunk) {
  ChunkManager& record = pool.record(chunk);
  PoolCache& cache = OwnCache(pool);
  const Taken taken{chunk, OwnWord(record)};  // before the label: then it may become another's
  // STEP release.label
  SetPhase(record, Keeps(pool) ? ChunkPhase::kCached : ChunkPhase::kNone);
  cache.Push(taken);
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the cap after the word (pool_drain.h)
  const uint32_t cap = CapOf(pool);
  if (cache.count() > cap) Flush(cache, cap / 2);
}

// Gives the oldest cached chunks back until `keep` are left.
void Session::Flush(PoolCache& cache, uint32_t keep) {
  const PoolView& pool = cache.view();
  if (!pool.IsOpen()) return GiveUp(cache);  // STEP flush.look
  const uint32_t count = cache.count();
  const uint32_t give = count - std::min(keep, count);
  uint64_t bits = 0;
  uint32_t group = 0;
  for (uint32_t i = 0; i < give; ++i) {
    const uint32_t chunk = cache.chunks[i];
    ChunkManager& record = pool.record(chunk);
    // Not what was taken back.
    if (pool.revocable) {
      if (!Confirm(record, cache.words[i], LoanCache::kLoaned, id_)) continue;
      SetPhase(record, ChunkPhase::kNone);  // not to be released
    }
    if (bits != 0 && chunk / 64 != group) {
      FreeList::Set(pool.hints, group, bits);
      bits = 0;
    }
    if (Mutant(76)) FreeList::SetChunk(pool.hints, chunk);  // who claims it now finds it LOANED
    StoreWord(record, Kind::kFree, 0);  // T2: the word first, then the hint  STEP flush.free
    if (Mutant(76)) continue;
    group = chunk / 64;
    bits |= uint64_t{1} << (chunk % 64);
  }
  if (bits != 0) FreeList::Set(pool.hints, group, bits);
  std::copy(cache.chunks + give, cache.chunks + count, cache.chunks);
  std::copy(cache.words + give, cache.words + count, cache.words);
  cache.SetCount(count - give);
  if (give > 0) WakeLoans(pool);
}

}  // namespace zerocp::shm
