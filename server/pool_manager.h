// Pools: policy over shm::MemPoolManager.
//
// What a client could have overwritten is not believed: names, uids and times are read once, at
// adoption or creation, and kept here.
//
// Threads. All functions from any thread. Create and Update take seconds for a large pool:
// creations are serial, with each other and with deletions, and so are the growths of one pool and
// its deletion; nothing else waits for them.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/core.h"
#include "shm/audit.h"
#include "shm/mem_pool_config.h"
#include "shm/pool_drain.h"
#include "shm/segment.h"

namespace zerocp {

// How a resource is created.
struct CreateMode {
  bool validate_only = false;   // check everything, change nothing
  bool allow_existing = false;  // one that is there already and agrees is as good
};

struct PoolInfo {
  shm::PoolSpec spec;  // every field as it is in force
  std::string uid;     // empty in a preview
  std::optional<std::chrono::system_clock::time_point> create_time;  // unset in a preview
  std::string etag;       // strong, quotes included; empty in a preview
  bool creating = false;  // its memory is being reserved; as a preview otherwise
  bool draining = false;  // being deleted: nothing can be loaned, gone with its last chunk
};

// What is to change in a pool.
struct PoolChange {
  std::string name;
  std::string etag;  // must be the pool's; empty: any
  std::optional<uint32_t> chunk_count = {};
  std::optional<bool> auto_grow = {};
  // What is said of fields that cannot change: it must be so. 0: nothing.
  shm::PoolSpec immutable = {};
};

// Which pool is to go, and how.
struct PoolDeletion {
  std::string name;
  std::string etag = {};       // must be the pool's; empty: any
  bool validate_only = false;  // check everything, change nothing
  bool allow_missing = false;  // none is as good
  bool drain = false;          // also if it is in use yet: then when all is back
};

struct CreatedPool {
  PoolInfo pool;
  bool created = false;  // false: it existed, or was only validated
};

struct PoolStats {
  std::string name;
  shm::PoolCounts counts;
  uint64_t loan_count = 0;
  uint64_t exhausted_count = 0;
  uint64_t recovered_chunk_count = 0;
  std::optional<uint64_t> least_free_count;  // of the last minute; PoolWatch knows
};

struct SegmentUse {
  std::string name;
  uint64_t used_bytes = 0;  // real memory
};

struct MemoryUse {
  SegmentUse management;
  SegmentUse chunk;
};

// "pools/video".
std::string PoolResource(std::string_view name);
// "1f0c8a52-....": a UUID as text.
std::string UuidText(const std::array<uint8_t, 16>& uuid);

class PoolManager {
 public:
  // Finds the pools that are there. `on_reserve` is called, without a lock of Core, each time
  // before memory is reserved for a pool: for tests. REQUIRES: `core` outlives this.
  explicit PoolManager(Core& core, std::function<void()> on_reserve = {});

  // FIELD_INVALID, POOL_ALREADY_EXISTS, POOL_LIMIT, SEGMENT_FULL, SHM_FILESYSTEM_FULL,
  // MEMORY_LIMIT, SERVER_DRAINING.
  absl::StatusOr<CreatedPool> Create(const shm::PoolSpec& wanted, CreateMode mode = {});
  // Changes a pool, while clients use it. `chunk_count` is absolute and only grows, so that a
  // repeated call does nothing. With `validate_only` checks everything, changes nothing, and
  // returns the pool as it would be. POOL_NOT_FOUND, ETAG_MISMATCH, POOL_SHRINK_UNSUPPORTED,
  // FIELD_INVALID, SHM_FILESYSTEM_FULL, MEMORY_LIMIT, SERVER_DRAINING.
  // `before`: gets the pool as it was.
  absl::StatusOr<PoolInfo> Update(const PoolChange& change, bool validate_only = false,
                                  PoolInfo* before = nullptr);
  // Deletes a pool, and gives its memory back to the system. Chunks in caches of clients do not
  // count as held. Returns the pool as it was, `draining` if it has to wait for chunks; nullopt if
  // it was missing. POOL_NOT_FOUND, ETAG_MISMATCH, POOL_IN_USE (a channel uses it, or, without
  // `drain`, a deleted channel that has members yet, or applications that hold chunks).
  absl::StatusOr<std::optional<PoolInfo>> Delete(const PoolDeletion& deletion);
  // OPERATION_IN_PROGRESS while the pool is being created.
  absl::Status CheckNotCreating(std::string_view name);
  // Whoever reserves memory gives up, now and from now on: the daemon stops.
  void StopReserving() { stopping_ = true; }
  // Every kInterval: takes what came back to pools that are being deleted.
  static constexpr std::chrono::milliseconds kInterval{100};
  void Tick();
  // Gives each pool that grows by itself a quarter more chunks if a loan waits there and none is
  // free: at most kGrowBytes at a time, or one chunk, so that loans wait briefly, and no more than
  // there is memory for. If not even one can be added, says so to the loans and in the log, and
  // leaves the pool alone for kGrowPause.
  static constexpr uint64_t kGrowBytes = uint64_t{64} << 20;
  static constexpr std::chrono::seconds kGrowPause{1};
  void GrowExhausted();
  // Clients change this word when they wait for GrowExhausted.
  std::atomic<uint32_t>& bell() const { return core_.manager->super_block().daemon_bell; }
  // POOL_NOT_FOUND.
  absl::StatusOr<PoolInfo> Get(std::string_view name);
  // In name order, with the one that is being created.
  std::vector<PoolInfo> List();
  // Of the pools named, of all if none is, in name order. POOL_NOT_FOUND. Reads every record.
  absl::StatusOr<std::vector<PoolStats>> Stats(const std::vector<std::string>& names = {});
  // The counters that belong to counts of the records.
  PoolStats StatsOf(const shm::PoolCounts& counts);
  // In the pool table. POOL_NOT_FOUND.
  absl::StatusOr<uint32_t> IndexOf(std::string_view name);
  // Name of the pool with this index in the pool table; empty if there is none.
  std::string NameOf(uint32_t index);
  MemoryUse Memory() const;
  // POOL_NOT_FOUND.
  static absl::Status NotFound(std::string_view name);
  // Whether there is room for all these creations and growths at once: bytes of real memory that
  // they need. SEGMENT_FULL, SHM_FILESYSTEM_FULL, MEMORY_LIMIT. REQUIRES: the specs are valid, the
  // pools that are to grow are there, and nobody deletes them.
  absl::StatusOr<uint64_t> CheckSpace(std::span<const shm::PoolSpec> created,
                                      std::span<const PoolChange> grown);
  // A field in which a pool is not as it is wanted.
  struct Difference {
    const char* field;
    bool can_change;
    uint64_t wanted, actual;
  };
  // In field order. What `wanted` leaves 0 agrees, and so do more chunks than are wanted.
  static std::vector<Difference> Differences(const shm::PoolSpec& wanted,
                                             const shm::PoolSpec& actual);

 private:
  struct Entry {
    uint32_t index = 0;
    std::string uid;
    std::chrono::system_clock::time_point create_time;
    bool auto_grow = false;
    std::chrono::steady_clock::time_point next_growth = {};
    std::chrono::steady_clock::time_point next_warning = {};
  };

  std::optional<Entry> Find(std::string_view name);
  Entry Learn(uint32_t index) const;
  PoolInfo Describe(const std::string& name, const Entry& entry) const ZEROCP_REQUIRES(core_.mutex);
  static absl::Status BeingDeleted(const PoolInfo& pool);
  absl::Status CheckUnused(const PoolInfo& pool, uint32_t index, bool drain)
      ZEROCP_REQUIRES(core_.mutex);
  // True: the pool is gone.
  bool Drain(const std::string& name, uint32_t index) ZEROCP_REQUIRES(core_.mutex);
  absl::StatusOr<CreatedPool> Existing(const shm::PoolSpec& wanted, const PoolInfo& pool,
                                       CreateMode mode) const;
  absl::StatusOr<uint64_t> CheckSpaceSerially(std::span<const shm::PoolSpec> created,
                                              std::span<const PoolChange> grown)
      ZEROCP_REQUIRES(create_mutex_);
  void SetCreating(const std::optional<shm::PoolSpec>& spec);
  static absl::Status Stopped(const std::string& resource);
  void GrowByItself(const std::string& name, uint32_t index);
  // From here to GrowByOneStep: REQUIRES: growth_mutexes_ of the pool.
  absl::StatusOr<PoolInfo> Change(const PoolChange& change, bool validate_only, PoolInfo* before);
  // Adds chunks; does nothing if `validate_only`, but checks. `how` is for the log.
  absl::Status Grow(const PoolInfo& pool, uint32_t chunk_count, bool validate_only,
                    std::string_view how);
  void SetAutoGrow(const std::string& name, bool value);
  // The pool, if it still is the one at `index` and needs growth.
  std::optional<PoolInfo> FindToGrow(const std::string& name, uint32_t index);
  void GrowByOneStep(const PoolInfo& pool, uint32_t index);
  bool NeedsGrowth(Entry& entry) const ZEROCP_REQUIRES(core_.mutex);
  void TickSerially() ZEROCP_REQUIRES(create_mutex_);
  // For reserving `bytes` for a pool: logs how far it is, and ends it when the daemon stops.
  shm::Progress Reserving(const std::string& name, uint64_t bytes);

  Core& core_;
  const std::function<void()> on_reserve_;
  std::atomic<bool> stopping_{false};
  // In the order in which they are taken, with core.mutex before mutex_. A pool begins to go under
  // all four, and goes under all but its growth mutex: nothing grows that is being deleted.
  Mutex create_mutex_;                                // one Create or deletion at a time
  std::array<Mutex, shm::kMaxPools> growth_mutexes_;  // one Update or growth of a pool at a time
  Mutex mutex_;
  shm::PoolDrain drain_ ZEROCP_GUARDED_BY(core_.mutex);
  std::map<std::string, Entry, std::less<>> entries_ ZEROCP_GUARDED_BY(mutex_);
  std::optional<PoolInfo> creating_ ZEROCP_GUARDED_BY(mutex_);
};

}  // namespace zerocp
