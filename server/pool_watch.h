// Looks at the pools now and then: how long chunks have been held, and how low a pool has been.
//
// The data plane stores no time. A look remembers, for each chunk that is not free, its present use
// (shm::UseOf) and when that was first seen: what has been seen for so long has been held at least
// so long. Looks at all records come every 10 s, every second while a pool is low, and before each
// list; the number of free chunks is taken from the hints every 100 ms.
//
// Threads. All functions from any thread; a thread of its own looks between Start and Stop. Records
// are read in batches, each under core.mutex, so that nothing waits long for a large pool.
#pragma once

#include <array>
#include <chrono>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/core.h"
#include "server/mutex.h"
#include "shm/census.h"

namespace zerocp {

class PoolWatch {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kInterval{100};

  // REQUIRES: `core` outlives this.
  explicit PoolWatch(Core& core, std::function<Clock::time_point()> now = Clock::now);
  // Stops.
  ~PoolWatch();
  PoolWatch(const PoolWatch&) = delete;
  PoolWatch& operator=(const PoolWatch&) = delete;

  // `also` is called by the thread after each look.
  void Start(std::function<void()> also = [] {});
  void Stop();
  // What the thread does every kInterval.
  void Look();

  // Orders held chunks, the oldest first.
  struct Key {
    uint32_t seen_ms = 0;  // since this object was made
    uint32_t pool = 0;
    uint32_t chunk = 0;
    auto operator<=>(const Key&) const = default;
  };
  struct Filter {
    std::optional<uint32_t> pool;     // index
    std::optional<uint16_t> session;  // that holds it
    std::string history_of;           // channel that keeps it; empty: all
  };
  struct Held {
    Key key;
    std::string pool;
    uint32_t generation = 0;
    uint64_t size_bytes = 0;
    std::chrono::milliseconds min_age{0};
    std::vector<shm::Holding> holders;
  };
  struct Sum {
    shm::HolderSum sum;
    std::string pool;
    std::chrono::milliseconds oldest_min_age{0};
  };
  struct List {
    std::vector<Held> chunks;  // after `after`, at most `limit`
    bool more = false;
    std::vector<Sum> sums;  // of everything that passes the filter, the largest first
    shm::Census census;
  };
  List ListHeld(const Filter& filter, std::optional<Key> after, size_t limit);

  // Samples that subscribers hold, by channel and subscriber index. Reads every record.
  using HeldSamples = std::map<std::pair<uint32_t, uint32_t>, uint64_t>;
  HeldSamples CountHeldSamples();

  // Least number of free chunks of the last 60 s; nullopt if the pool was not looked at yet.
  std::optional<uint64_t> LeastFree(uint32_t pool);

 private:
  static constexpr uint32_t kSeconds = 60;
  struct Seen {
    uint32_t use = 0;  // 0: free
    uint32_t at_ms = 0;
  };
  struct Pool {
    std::array<uint8_t, 16> uid{};
    std::vector<Seen> seen;  // by chunk
    uint64_t exhausted_count = 0;
    std::array<uint64_t, kSeconds + 1> least_free;  // by second, in a ring
    uint32_t second = 0;                            // of the last look
    bool low = false;
  };

  uint32_t NowMs() const;
  // Calls `visit` for every chunk with what is remembered of it, in batches under both mutexes.
  void ForEachChunk(const std::function<void(const shm::PoolView&, uint32_t chunk, Seen&)>& visit);
  Pool& PoolOf(const shm::PoolView& view) ZEROCP_REQUIRES(mutex_);
  void LookAtFree(const shm::PoolView& view, uint32_t now_ms) ZEROCP_REQUIRES(mutex_);
  void LookAtChunks();
  shm::Census TakeCensus();
  void Run(const std::function<void()>& also);

  Core& core_;
  const std::function<Clock::time_point()> now_;
  const Clock::time_point start_;
  Mutex mutex_;  // after core.mutex
  std::array<Pool, shm::kMaxPools> pools_ ZEROCP_GUARDED_BY(mutex_);
  uint32_t next_chunks_ms_ ZEROCP_GUARDED_BY(mutex_) = 0;
  ConditionVariable changed_;
  bool stopped_ ZEROCP_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// Chunks that the free list's hints show as free: at least one if any was given back.
uint64_t FreeByHints(const shm::PoolView& view);

}  // namespace zerocp
