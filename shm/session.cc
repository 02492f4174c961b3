#include "shm/session.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "shm/chunk_ops.h"
#include "shm/settle.h"

namespace zerocp::shm {
namespace {

std::atomic<uint64_t> g_next_serial{1};

// What loan_cache.h, which stands alone, says of the segments.
static_assert(LoanCache::kLabelOffset == offsetof(ChunkManager, label) &&
              offsetof(ChunkManager, word) == 0 && LoanCache::kRecalled == kRecalled &&
              LoanCache::kHeaderBytes == sizeof(ChunkHeader) &&
              LoanCache::kUserHeaderOffset == offsetof(ChunkHeader, user));
static_assert(LoanCache::kLoaned == EncodeLabel(ChunkPhase::kLoaned, 0) &&
              LoanCache::kCached == EncodeLabel(ChunkPhase::kCached, 0) &&
              LoanCache::kNextSerial == EncodeLabel(ChunkPhase::kNone, 1));
// A change of these raises the version.
static_assert(LoanCache::kVersion == 3 && sizeof(LoanCache) == 512 &&
              offsetof(LoanCache, counts) == 24 && offsetof(LoanCache, cache_cap) == 48 &&
              offsetof(LoanCache, given_back) == 96 && offsetof(LoanCache, words) == 104 &&
              offsetof(LoanCache, chunks) == 368);

// zerocp.h, publisher.h, resources.proto and shm/README.md say so.
static_assert(Session::kGrowthPatience == std::chrono::milliseconds(100));

// Orders session close against thread end; taken by no other path.
// Never destroyed: threads may end after main. Free in the child of a fork.
std::mutex& LifetimeMutex() {
  static auto* mutex = [] {
    pthread_atfork([] { LifetimeMutex().lock(); }, [] { LifetimeMutex().unlock(); },
                   [] { LifetimeMutex().unlock(); });
    return new std::mutex;
  }();
  return *mutex;
}

}  // namespace

thread_local constinit Session::LastUsed Session::last_used_{0, nullptr};

namespace {

constinit thread_local bool t_ended = false;  // this thread's ThreadCaches is gone

}  // namespace

// All caches of one thread, by session.
class ThreadCaches {
 public:
  ~ThreadCaches() {
    Session::last_used_ = {0, nullptr};
    t_ended = true;
    std::lock_guard lifetime(LifetimeMutex());
    for (Entry& entry : entries_) {
      if (*entry.session != nullptr) (*entry.session)->ThreadEnds(*entry.cache);
    }
  }

  Session::ThreadCache* Find(uint64_t serial) {
    for (Entry& entry : entries_) {
      if (entry.serial == serial) return entry.cache.get();
    }
    return nullptr;
  }
  void Add(uint64_t serial, std::shared_ptr<Session*> session,
           std::shared_ptr<Session::ThreadCache> cache) {
    std::erase_if(entries_, [](const Entry& entry) { return *entry.session == nullptr; });
    entries_.push_back({serial, std::move(session), std::move(cache)});
  }

 private:
  struct Entry {
    uint64_t serial;
    std::shared_ptr<Session*> session;  // null once it is closed; under LifetimeMutex
    std::shared_ptr<Session::ThreadCache> cache;
  };
  std::vector<Entry> entries_;
};

// Caches whose sessions are gone (loan_cache.h). Under LifetimeMutex.
std::vector<Session::PoolCache*>& Session::IdleCaches() {
  static auto* idle = new std::vector<PoolCache*>;
  return *idle;
}

namespace {

thread_local ThreadCaches t_caches;

}  // namespace

Session::Session(std::shared_ptr<MemPoolManager> manager, uint16_t id)
    : manager_(std::move(manager)),
      id_(id),
      joined_barrier_(JoinBarrier() && !Mutant(72)),
      held_limit_(manager_->super_block().max_chunks_per_session.load(std::memory_order_relaxed)),
      serial_(g_next_serial.fetch_add(1, std::memory_order_relaxed)),
      self_(std::make_shared<Session*>(this)) {
  (void)LifetimeMutex();  // from here on no fork finds it taken
  manager_->set_session(id);
  manager_->session_entry(id).joined_barrier.store(joined_barrier_, std::memory_order_release);
}

Session::~Session() {
  Close();
  std::lock_guard lifetime(LifetimeMutex());
  for (PoolCache* cache : caches_) {
    cache->thread.store(0, std::memory_order_relaxed);
    IdleCaches().push_back(cache);
  }
}

Session::ThreadCache& Session::CacheSlow() {
  ThreadCache* found;
  {
    std::lock_guard lifetime(LifetimeMutex());
    // A thread_local of the application that releases in its destructor can come after ours: such a
    // cache then stays with the session until it closes.
    found = t_ended ? nullptr : t_caches.Find(serial_);
    if (found == nullptr) {
      auto cache = std::make_shared<ThreadCache>();
      found = cache.get();
      if (!t_ended) t_caches.Add(serial_, self_, cache);
      std::lock_guard lock(mutex_);
      threads_.push_back(std::move(cache));
      CountThreads();
    }
  }
  last_used_ = {serial_, found};
  return *found;
}

Session::PoolCache& Session::NewCache(const PoolView& pool) {
  PoolCache*& mine = Cache().pools[pool.index];
  std::lock_guard lifetime(LifetimeMutex());
  std::lock_guard lock(mutex_);
  if (mine != nullptr) {
    LetGo(*mine);
    mine->pool = nullptr;  // which is gone
  }
  const auto unused = std::find_if(caches_.begin(), caches_.end(), [&](const PoolCache* cache) {
    return !cache->in_use && cache->IsOf(pool);
  });
  if (unused != caches_.end()) {
    mine = *unused;
  } else {
    mine = MakeCache(pool);
    caches_.push_back(mine);
  }
  mine->in_use = true;
  const bool counted = held_limit_ != 0 && !Mutant(48);
  if (inlining_ && !t_ended && !counted && Keeps(pool) && !Mutant(77) && !Mutant(98) &&
      !Mutant(117))
    mine->thread.store(internal::ThisThread(), std::memory_order_relaxed);
  return *mine;
}

// REQUIRES: LifetimeMutex and mutex_ are held.
Session::PoolCache* Session::MakeCache(const PoolView& pool) {
  if (IdleCaches().empty()) IdleCaches().push_back(new PoolCache);
  PoolCache* cache = IdleCaches().back();
  IdleCaches().pop_back();
  cache->record_shift = pool.record_shift;
  cache->chunk_size_bytes = pool.chunk_size_bytes;
  cache->counts.store(0, std::memory_order_relaxed);
  cache->label = LoanCache::kLoaned;
  cache->records = pool.records;
  cache->cache_cap = &pool.shared->cache_cap;
  cache->open_use = pool.open_use;
  cache->payload = pool.payload;
  cache->stride_bytes = pool.stride_bytes;
  cache->headers = reinterpret_cast<std::byte*>(pool.headers);
  cache->pool = &pool;
  cache->owner.store(owner_, std::memory_order_relaxed);
  cache->given_back.store(given_back_, std::memory_order_relaxed);
  cache->reported_label = LoanCache::kLoaned;
  // Sessions and threads start in different places, so that they claim from different words.
  cache->home = (id_ * 0x9e3779b1u + static_cast<uint32_t>(internal::ThisThread() >> 12)) %
                std::max(1u, (pool.live_chunk_count() + 63) / 64);
  cache->group = cache->home;
  return cache;
}

// The thread that has it goes, or its pool. REQUIRES: mutex_ is held.
void Session::LetGo(PoolCache& cache) {
  cache.SetCount(0);
  if (!Mutant(75)) cache.thread.store(0, std::memory_order_relaxed);
  cache.in_use = false;
}

void Session::CountThreads() {
  manager_->session_entry(id_).cache_thread_count.store(static_cast<uint32_t>(threads_.size()),
                                                        std::memory_order_relaxed);
}

void Session::SetOwner(void* owner, void (*given_back)(void* owner) noexcept) {
  owner_ = owner;
  given_back_ = given_back;
}

void Session::StopInlining() {
  std::lock_guard lock(mutex_);
  if (Mutant(92)) return;
  inlining_ = false;
  for (PoolCache* cache : caches_) cache->thread.store(0, std::memory_order_relaxed);
}

void Session::Abandon() {
  *self_ = nullptr;
  for (PoolCache* cache : caches_) cache->thread.store(0, std::memory_order_relaxed);
}

uint64_t Session::Share(ChunkRef& ref) {
  ChunkManager& record = ref.pool->record(ref.chunk);
  SetPhase(record, ChunkPhase::kNone);
  ref.slot = Mutant(80) ? static_cast<uint16_t>(ref.pool->grant_slots) : 0;  // 80: an open slot
  const uint32_t generation = ShareChunk(record, id_, uint64_t{1} << ref.slot);
  return Encode(ChunkHandle{ref.pool->index, ref.pool->incarnation, ref.chunk,
                            generation + ref.pool->generation_base});
}

uint64_t Session::HandleOf(const ChunkRef& ref) {
  return Encode(ChunkHandle{ref.pool->index, ref.pool->incarnation, ref.chunk,
                            ref.pool->record(ref.chunk).generation.load(std::memory_order_relaxed) +
                                ref.pool->generation_base});
}

Code Session::Open(uint64_t handle_bits, ChunkRef* out) {
  const ChunkHandle handle = DecodeHandle(handle_bits);
  const PoolView* pool = manager_->pool(handle.pool);
  if (pool == nullptr || pool->incarnation != handle.incarnation ||
      handle.chunk >= pool->live_chunk_count()) {
    return Code::kStale;
  }
  uint16_t slot;
  const uint32_t generation = handle.generation - pool->generation_base;
  switch (OpenChunk(pool->record(handle.chunk), *pool, generation, id_, &slot)) {
    case OpenResult::kOpened:
      *out = {pool, handle.chunk, slot};
      CountAcquired();
      return Code::kOk;
    case OpenResult::kHoldersFull:
      return Code::kHoldersFull;
    case OpenResult::kStaleClosed:
      ToCache(*pool, handle.chunk);
      return Code::kStale;
    case OpenResult::kStale:
      break;
  }
  return Code::kStale;
}

void Session::FlushAll(ThreadCache& thread) {
  for (uint32_t index = 0; index < kMaxPools; ++index) {
    PoolCache* cache = thread.pools[index];
    if (cache == nullptr) continue;
    const PoolView& pool = cache->view();  // gone, perhaps
    if (!manager_->Knows(index, &pool) || !cache->IsOf(pool)) {
      cache->SetCount(0);  // the daemon's
      continue;
    }
    if (cache->count() > 0) Flush(*cache, 0);
    if (cache->label != cache->reported_label && pool.IsOpen()) ReportLoans(*cache);
  }
}

void Session::FlushThisThread() { FlushAll(Cache()); }

void Session::ThreadEnds(ThreadCache& thread) {
  FlushAll(thread);
  std::lock_guard lock(mutex_);
  for (PoolCache* cache : thread.pools) {
    if (cache != nullptr) LetGo(*cache);
  }
  held_by_ended_threads_ += thread.held();
  std::erase_if(threads_, [&](const auto& other) { return other.get() == &thread; });
  CountThreads();
}

void Session::Close() {
  std::lock_guard lifetime(LifetimeMutex());
  if (*self_ == nullptr) return;
  *self_ = nullptr;
  std::lock_guard lock(mutex_);
  for (const auto& thread : threads_) FlushAll(*thread);
  threads_.clear();
}

void Session::Disown() {
  std::lock_guard lifetime(LifetimeMutex());
  *self_ = nullptr;
}

int64_t Session::held() const {
  std::lock_guard lock(mutex_);
  int64_t sum = held_by_ended_threads_;
  for (const auto& thread : threads_) sum += thread->held();
  for (const PoolCache* cache : caches_) {
    const uint64_t counts = cache->counts.load(std::memory_order_acquire);  // PAIR session.released
    sum += static_cast<int64_t>((counts >> 32) - (counts & 0xffffffff));
  }
  return static_cast<int32_t>(sum);  // each is known modulo 2^32
}

}  // namespace zerocp::shm
