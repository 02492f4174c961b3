#include "server/pool_watch.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>
#include <utility>

#include "shm/mutant.h"

namespace zerocp {
namespace {

using std::chrono::milliseconds;

constexpr uint32_t kBatch = 16384;  // records read under one lock: a millisecond
constexpr uint32_t kChunksEveryMs = 10'000;
constexpr uint32_t kChunksEveryMsWhenLow = 1'000;
constexpr size_t kMostSums = 100;

}  // namespace

uint64_t FreeByHints(const shm::PoolView& view) {
  uint64_t free = 0;
  for (uint32_t word = 0; word < view.hints.word_count[0]; ++word) {
    free += static_cast<uint64_t>(
        std::popcount(view.hints.level[0][word].load(std::memory_order_relaxed)));
  }
  return std::min<uint64_t>(free, view.live_chunk_count());
}

PoolWatch::PoolWatch(Core& core, std::function<Clock::time_point()> now)
    : core_(core), now_(std::move(now)), start_(now_()) {}

PoolWatch::~PoolWatch() { Stop(); }

void PoolWatch::Start(std::function<void()> also) {
  thread_ = std::thread([this, also = std::move(also)] { Run(also); });
}

void PoolWatch::Stop() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void PoolWatch::Run(const std::function<void()>& also) {
  for (;;) {
    Look();
    also();
    MutexLock lock(mutex_);
    const auto next = Clock::now() + kInterval;
    while (!stopped_ && Clock::now() < next) changed_.wait_until(mutex_, next);
    if (stopped_) return;
  }
}

uint32_t PoolWatch::NowMs() const {
  return static_cast<uint32_t>(std::chrono::duration_cast<milliseconds>(now_() - start_).count());
}

// A pool that was created anew under the index starts from nothing.
PoolWatch::Pool& PoolWatch::PoolOf(const shm::PoolView& view) {
  Pool& pool = pools_[view.index];
  if (std::memcmp(pool.uid.data(), view.shared->uid, pool.uid.size()) != 0) {
    pool = Pool();
    std::memcpy(pool.uid.data(), view.shared->uid, pool.uid.size());
    pool.least_free.fill(UINT64_MAX);
    pool.exhausted_count = view.shared->exhausted_count.load(std::memory_order_relaxed);
  }
  return pool;
}

void PoolWatch::LookAtFree(const shm::PoolView& view, uint32_t now_ms) {
  Pool& pool = PoolOf(view);
  const uint64_t exhausted = view.shared->exhausted_count.load(std::memory_order_relaxed);
  // A loan that was refused since the last look saw none.
  const bool none = exhausted != std::exchange(pool.exhausted_count, exhausted);
  const uint64_t free = none && !Mutant(23) ? 0 : FreeByHints(view);
  const uint32_t second = now_ms / 1000;
  const uint32_t passed = std::min(second - pool.second, kSeconds + 1);
  for (uint32_t i = 0; i < passed; ++i)
    pool.least_free[(second - i) % pool.least_free.size()] = UINT64_MAX;
  pool.second = second;
  uint64_t& least = pool.least_free[second % pool.least_free.size()];
  least = std::min(least, free);
  pool.low = free * 8 < view.live_chunk_count();
}

void PoolWatch::Look() {
  const uint32_t now_ms = NowMs();
  bool chunks = false;
  {
    MutexLock core_lock(core_.mutex);
    MutexLock lock(mutex_);
    uint32_t every = kChunksEveryMs;
    for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
      const shm::PoolView* view = core_.manager->pool(index);
      if (view == nullptr) continue;
      LookAtFree(*view, now_ms);
      if (pools_[index].low) every = kChunksEveryMsWhenLow;
    }
    next_chunks_ms_ = std::min(next_chunks_ms_, now_ms + every);
    if (now_ms >= next_chunks_ms_) {
      chunks = true;
      next_chunks_ms_ = now_ms + every;
    }
  }
  if (chunks) LookAtChunks();
}

void PoolWatch::ForEachChunk(
    const std::function<void(const shm::PoolView&, uint32_t chunk, Seen&)>& visit) {
  for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
    for (uint32_t begin = 0;; begin += kBatch) {
      MutexLock core_lock(core_.mutex);
      const shm::PoolView* view = core_.manager->pool(index);
      if (view == nullptr) break;
      const uint32_t live = view->live_chunk_count();
      if (begin >= live) break;
      MutexLock lock(mutex_);
      std::vector<Seen>& seen = PoolOf(*view).seen;
      if (seen.size() < live) seen.resize(live);
      const uint32_t end = std::min(live, begin + kBatch);
      for (uint32_t chunk = begin; chunk < end; ++chunk) visit(*view, chunk, seen[chunk]);
    }
  }
}

void PoolWatch::LookAtChunks() {
  const uint32_t now_ms = NowMs();
  ForEachChunk([&](const shm::PoolView& view, uint32_t chunk, Seen& seen) {
    const auto use = static_cast<uint32_t>(shm::UseOf(view, chunk));
    if (seen.use != use) seen = {use, now_ms};
  });
}

shm::Census PoolWatch::TakeCensus() {
  size_t chunks = 0;
  for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
    MutexLock lock(core_.mutex);
    if (const shm::PoolView* view = core_.manager->pool(index)) chunks += view->live_chunk_count();
  }
  shm::Census census;
  std::vector<uint32_t> channels;
  {
    MutexLock lock(core_.mutex);
    channels = core_.registry.List();
  }
  for (uint32_t index : channels) {
    MutexLock lock(core_.mutex);
    const shm::ChannelRegistry::Channel* channel = core_.registry.channel(index);
    if (channel != nullptr) census.Add(index, *channel, *core_.manager, chunks);
  }
  census.Finish();
  return census;
}

PoolWatch::List PoolWatch::ListHeld(const Filter& filter, std::optional<Key> after, size_t limit) {
  LookAtChunks();  // what was never seen has no age
  List list;
  list.census = TakeCensus();
  const uint32_t now_ms = NowMs();
  const auto age = [&](uint32_t seen_ms) {
    return milliseconds(now_ms - std::min(now_ms, seen_ms));
  };
  std::map<Key, Held> page;
  std::map<std::tuple<uint32_t, uint16_t, uint16_t, shm::HoldPhase>, Sum> sums;
  std::vector<shm::Holding> holders;
  ForEachChunk([&](const shm::PoolView& view, uint32_t chunk, const Seen& seen) {
    if (filter.pool && *filter.pool != view.index) return;
    list.census.HoldersOf(view, chunk, &holders);
    const bool same = seen.use == static_cast<uint32_t>(shm::UseOf(view, chunk));
    const Key key{same ? seen.at_ms : now_ms, view.index, chunk};
    bool wanted = false;
    for (const shm::Holding& h : holders) {
      if (filter.session && *filter.session != h.session) continue;
      if (!filter.history_of.empty() && (h.phase != shm::HoldPhase::kHistory ||
                                         list.census.ChannelName(h.channel) != filter.history_of)) {
        continue;
      }
      wanted = true;
      Sum& sum = sums[{view.index, h.session, h.channel, h.phase}];
      sum.sum = {h.session, view.index, h.channel, h.phase, sum.sum.chunk_count + 1};
      sum.pool = view.name;
      sum.oldest_min_age = std::max(sum.oldest_min_age, age(key.seen_ms));
    }
    if (!wanted || (after && key <= *after)) return;
    const bool full = page.size() > limit;
    if (full && page.rbegin()->first < key) return;
    page[key] = {key,
                 view.name,
                 view.record(chunk).generation.load(std::memory_order_relaxed),
                 std::min<uint64_t>(view.headers[chunk].size_bytes.load(std::memory_order_relaxed),
                                    view.chunk_size_bytes),
                 age(key.seen_ms),
                 holders};
    if (full) page.erase(std::prev(page.end()));
  });
  list.more = page.size() > limit;
  if (list.more) page.erase(std::prev(page.end()));
  for (auto& [key, held] : page) list.chunks.push_back(std::move(held));
  for (auto& [key, sum] : sums) list.sums.push_back(std::move(sum));
  std::stable_sort(list.sums.begin(), list.sums.end(), [](const Sum& a, const Sum& b) {
    return a.sum.chunk_count > b.sum.chunk_count;
  });
  if (list.sums.size() > kMostSums) list.sums.resize(kMostSums);
  return list;
}

PoolWatch::HeldSamples PoolWatch::CountHeldSamples() {
  const shm::Census census = TakeCensus();
  HeldSamples held;
  if (!census.HasSubscribers()) return held;
  std::vector<shm::Holding> holders;
  ForEachChunk([&](const shm::PoolView& view, uint32_t chunk, const Seen&) {
    census.HoldersOf(view, chunk, &holders);
    for (const shm::Holding& h : holders) {
      if (census.IsSample(h)) ++held[{h.channel - 1u, h.subscriber}];
    }
  });
  return held;
}

std::optional<uint64_t> PoolWatch::LeastFree(uint32_t index) {
  MutexLock core_lock(core_.mutex);
  const shm::PoolView* view = core_.manager->pool(index);
  if (view == nullptr) return std::nullopt;
  MutexLock lock(mutex_);
  LookAtFree(*view, NowMs());
  const auto& least = pools_[index].least_free;
  return *std::min_element(least.begin(), least.end());
}

}  // namespace zerocp
