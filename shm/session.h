// A session's way to chunks: loan, release, share, open.
//
// What. Ownership is the session's (the process's), never a thread's. Each thread keeps free chunks
// in a private cache, so that loan and release touch no line that another core writes.
//
// Invariants. S1: a chunk in a cache is LOANED by this session, in the word that the cache has of
// it, and labelled cached. In a revocable pool anyone may take it back from there (Recall); then
// its word is another, and the entry means nothing. S2: a chunk is in one cache, by such an entry,
// or with one caller, never both. S3: of a pool that is being deleted no chunk is loaned. Out
// of a cache none is because the daemon has marked their words, see S4, and keeps others from
// caches (pool_drain.h). Elsewhere a chunk is the caller's only if its pool is open after the chunk
// was labelled loaned; if it is not, it is labelled cached again, and the daemon takes it, and
// every other chunk of every cache of this pool. S4: a chunk that others may
// take back, because its label says cached, is the caller's only if its word is as it was after it
// was labelled loaned. Who takes it back marks the word, makes every thread execute a barrier, and
// then looks at the label: one of the two sees the other, and who sees a mark decides by a
// compare-exchange. It gives the word the next stamp: no word that was marked comes back, with a
// mark or without, as long as its pool is there. (The records of one that is gone read as zeros,
// and begin anew. Who has found a pool by its name looks whether it is there yet; a publisher's
// pool stays as long as the publisher is a member.) S5: cached is the label that only who surely
// has a chunk stores. (Loaned can be stored late, by a thread that stood still between its two
// looks at the word, in a chunk that was taken back meanwhile. It goes by the second look, but if
// another cache has the chunk by then, nobody finds it there: that cache corrects the label when it
// uses it or finds its pool closed.) S6: what a process that the barrier does not reach owns is
// taken back by nobody, and it keeps nothing in caches of revocable pools.
//
// Threads and processes. All functions from any thread. Thread caches are flushed when their thread
// ends and when the session closes.
//
// Crash. What a session owned or held is found by the daemon's sweep from the records alone; the
// caches die with the process.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "shm/chunk_ops.h"
#include "shm/deadline.h"
#include "shm/include/zerocp/loan_cache.h"
#include "shm/mem_pool_manager.h"
#include "shm/status.h"

namespace zerocp::shm {

using internal::LoanCache;

// A right to a chunk, as the layers above pass it on.
struct ChunkRef {
  const PoolView* pool = nullptr;
  uint32_t chunk = 0;
  // Holder slot, or kExclusive: the word itself is LOANED by the session.
  static constexpr uint16_t kExclusive = 0xffff;
  uint16_t slot = kExclusive;

  std::byte* data() const { return pool->data(chunk); }
  ChunkHeader& header() const { return pool->headers[chunk]; }
};

class Session {
 public:
  // REQUIRES: `id` was given to this process by the daemon (or by a test that plays the daemon).
  Session(std::shared_ptr<MemPoolManager> manager, uint16_t id);
  // Closes.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  uint16_t id() const { return id_; }
  MemPoolManager& manager() const { return *manager_; }

  // An exclusive chunk out of this thread's cache; false if it has none that is surely its own.
  bool TryLoan(const PoolView& pool, ChunkRef* out) {
    LoanCache* cache = KnownCache(pool);
    if (cache == nullptr || !cache->TryLoan(0, &out->chunk)) return false;
    *out = {&pool, out->chunk, ChunkRef::kExclusive};
    std::atomic_thread_fence(std::memory_order_acquire);  // after the look at the word
    if (pool.IsOpen() || Mutant(107)) [[likely]]
      return true;
    (void)Release(*out);
    return false;
  }
  // This thread's cache for `pool`. It stays valid as long as the session has loans and users.
  LoanCache& CacheOf(const PoolView& pool) { return OwnCache(pool); }
  // An exclusive chunk. kExhausted: none is free; waits until `deadline` for one, and at least
  // kGrowthPatience for a pool that grows by itself. kNotFound: the pool is being deleted, or gone.
  // kHeldLimit: see AtHeldLimit.
  Code Loan(const PoolView& pool, Deadline deadline, ChunkRef* out) {
    const Code code = LoanInSlices(pool, deadline, out);
    if (code == Code::kExhausted) CountRefusal(pool);
    return code;
  }
  // The same as a part of a longer wait: it counts no refusal.
  Code LoanInSlices(const PoolView& pool, Deadline deadline, ChunkRef* out) {
    return TryLoan(pool, out) ? Code::kOk : LoanSlow(pool, deadline, out);
  }
  static void CountRefusal(const PoolView& pool) {
    pool.shared->exhausted_count.fetch_add(1, std::memory_order_relaxed);
  }
  // Gives an exclusive chunk back to this thread's cache; false, and nothing is done, if it is not
  // as simple as that: Release knows why.
  bool TryRelease(ChunkRef ref) {
    LoanCache* cache = KnownCache(*ref.pool);
    return cache != nullptr && ref.slot == ChunkRef::kExclusive &&
           MayRelease(ref.pool->record(ref.chunk)) && cache->TryRelease(ref.chunk);
  }
  // Gives up an exclusive chunk or a holder slot. Returns false, and does nothing, if this session
  // does not have it: a double release. REQUIRES: not published since.
  bool Release(ChunkRef ref);
  // Turns an exclusive chunk into a shared one that this session holds by slot 0; it can then be
  // opened by handle. Returns the handle.
  uint64_t Share(ChunkRef& ref);
  // A holder slot of a shared chunk. kStale: not shared any more, or re-used; kHoldersFull.
  Code Open(uint64_t handle, ChunkRef* out);
  // The handle of a chunk this session holds by a slot.
  static uint64_t HandleOf(const ChunkRef& ref);

  // Puts an exclusive chunk, on which nothing else has a claim, in this thread's cache.
  void ToCache(const PoolView& pool, uint32_t chunk);
  // Count for `held()` what reaches or leaves the application by another way than Loan, Open and
  // Release: the ports'.
  void CountAcquired() { Count(Cache().acquired); }
  void CountReleased() { Count(Cache().released); }

  // Gives all cached chunks of all threads back. REQUIRES: no other call is under way or follows.
  void Close();
  // From here on each loan and each release goes through this class. A release that had begun
  // before calls `given_back` when it is done.
  void StopInlining();
  // Whom `given_back`, see StopInlining, is called for. REQUIRES: before the first loan.
  void SetOwner(void* owner, void (*given_back)(void* owner) noexcept);
  // Touches the segments no more, not even to give cached chunks back, when threads end or the
  // session is destroyed: they are not this session's any more.
  void Disown();
  // In the child of a fork, where the segments are not mapped: nothing of this process is to touch
  // them when its threads end or the session is destroyed. Takes no lock. No other call may follow.
  void Abandon();
  // Gives this thread's cached chunks back to the free list.
  void FlushThisThread();
  // Loans and samples the application has now. Exact when no call is under way. A call that gives
  // one back counts it when it is done with the session and the segments: once nothing more is
  // loaned or taken, a sum of 0 says that nobody touches them any more.
  int64_t held() const;
  // Loans and samples that this session may have at once; 0: not limited. As the daemon said when
  // it attached.
  uint32_t held_limit() const { return held_limit_; }
  // True if it has as many. Loans and takes ask when a chunk or a message is there, not when they
  // begin to wait; those that ask at the same moment in other threads may make it one more each.
  bool AtHeldLimit() const { return held_limit_ != 0 && held() >= held_limit_; }

  // How long a loan waits for a pool to grow, whatever its deadline: long enough to commit a few
  // hundred MiB.
  static constexpr std::chrono::milliseconds kGrowthPatience{100};
  // For tests, which may not depend on how fast the daemon is.
  void set_growth_patience(std::chrono::milliseconds patience) { growth_patience_ = patience; }

 private:
  friend class ThreadCaches;
  // A chunk that came to this session, and the word it came with.
  struct Taken {
    uint32_t chunk;
    uint64_t word;
  };
  // A LoanCache and what only the library needs to know of it.
  struct PoolCache : LoanCache {
    uint64_t open_use = 0;        // of the pool, see PoolView
    uint32_t home = 0;            // the group where refills begin
    uint32_t group = 0;           // where the next refill looks first
    uint64_t reported_label = 0;  // up to which the pool's counter knows its loans
    bool in_use = false;          // by a thread that lives; under mutex_

    const PoolView& view() const { return *static_cast<const PoolView*>(pool); }
    // Also the use: another pool's view may lie where that of one that is gone was.
    bool IsOf(const PoolView& view) const { return pool == &view && open_use == view.open_use; }
    uint32_t count() const { return static_cast<uint32_t>(counts.load(std::memory_order_relaxed)); }
    // Without an effect on what counts as held.
    void SetCount(uint32_t count) {
      const uint64_t before = counts.load(std::memory_order_relaxed);
      const uint64_t held = (before >> 32) - static_cast<uint32_t>(before);
      counts.store((held + count) << 32 | count, std::memory_order_relaxed);
    }
    void Push(Taken taken) {
      chunks[count()] = taken.chunk;
      words[count()] = taken.word;
      SetCount(count() + 1);
    }
    Taken Pop() {
      SetCount(count() - 1);
      return {chunks[count()], words[count()]};
    }
  };
  // One thread's; the counters are written by it only, and count what LoanCache::counts does not.
  struct ThreadCache {
    std::atomic<int64_t> acquired{0};
    std::atomic<int64_t> released{0};
    std::array<PoolCache*, kMaxPools> pools{};
    int64_t held() const {
      return acquired.load(std::memory_order_relaxed) -
             released.load(std::memory_order_acquire);  // PAIR session.released
    }
  };
  // The session that a thread used last, so that its next call finds its cache by one comparison.
  struct LastUsed {
    uint64_t serial;
    ThreadCache* cache;
  };
  // Initial-exec: an access is one instruction, where a library's default would be a call.
  [[gnu::tls_model("initial-exec")]] static thread_local constinit LastUsed last_used_;

  static void Count(std::atomic<int64_t>& counter) {
    counter.store(counter.load(std::memory_order_relaxed) + 1,
                  std::memory_order_release);  // PAIR session.released
  }
  ThreadCache& Cache() {
    if (last_used_.serial == serial_) [[likely]]
      return *last_used_.cache;
    return CacheSlow();
  }
  ThreadCache& CacheSlow();
  // nullptr: this thread has none yet.
  PoolCache* KnownCache(const PoolView& pool) {
    PoolCache* cache = Cache().pools[pool.index];
    return cache != nullptr && cache->IsOf(pool) ? cache : nullptr;
  }
  PoolCache& OwnCache(const PoolView& pool) {
    PoolCache* cache = KnownCache(pool);
    return cache != nullptr ? *cache : NewCache(pool);
  }
  PoolCache& NewCache(const PoolView& pool);
  PoolCache* MakeCache(const PoolView& pool);
  static void LetGo(PoolCache& cache);
  static std::vector<PoolCache*>& IdleCaches();
  void CountThreads();
  // True if this session may keep chunks of `pool` in caches.
  bool Keeps(const PoolView& pool) const { return !pool.revocable || joined_barrier_; }
  // Labels a chunk that is in a cache, by this word, cached (S5). Returns the word it has then.
  uint64_t LabelCached(ChunkManager& record, uint64_t word) const;
  // Leaves all that is cached of a pool that is being deleted to the daemon.
  void GiveUp(PoolCache& cache);
  // Adds this thread's loans to the pool's counter: a locked instruction, so only now and then.
  static void ReportLoans(PoolCache& cache);
  Code LoanSlow(const PoolView& pool, Deadline deadline, ChunkRef* out);
  void CallForGrowth();
  // The chunks of `pool` that each thread may keep.
  uint32_t CapOf(const PoolView& pool) const;
  // An exclusive chunk, labelled `label`; the pool may have been closed. `refilled`: it does not
  // come out of the cache.
  bool LoanOnce(PoolCache& cache, uint32_t label, bool* refilled, uint32_t* chunk);
  bool Refill(PoolCache& cache, Taken* taken);
  bool MayBeCached(const ChunkManager& record, uint64_t word) const;
  bool Scan(const PoolView& pool, Taken* taken);
  bool Recall(const PoolView& pool, const Taken* cached, uint32_t count, Taken* taken);
  void Flush(PoolCache& cache, uint32_t keep);
  void FlushAll(ThreadCache& thread);
  void ThreadEnds(ThreadCache& cache);

  std::shared_ptr<MemPoolManager> manager_;
  const uint16_t id_;
  const bool joined_barrier_;
  const uint32_t held_limit_;
  std::chrono::milliseconds growth_patience_{kGrowthPatience};
  const uint64_t serial_;  // unique in the process: what thread-local lookups compare
  const std::shared_ptr<Session*> self_;  // null once closed: what threads that end later look at
  mutable std::mutex mutex_;
  void* owner_ = nullptr;
  void (*given_back_)(void* owner) noexcept = [](void*) noexcept {};
  int64_t held_by_ended_threads_ = 0;                  // under mutex_
  std::vector<std::shared_ptr<ThreadCache>> threads_;  // under mutex_
  // Under mutex_ and, so that a child of a fork finds it whole, LifetimeMutex. They stay as long as
  // the session does: loans point to them.
  std::vector<PoolCache*> caches_;
  bool inlining_ = true;  // under mutex_
};

}  // namespace zerocp::shm
