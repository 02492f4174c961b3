// The process-local view of an instance: both segments, mapped and validated, and its pools.
//
// What. The daemon creates or adopts the two segments and adds pools; clients attach by
// descriptors. Everything above works on PoolView, a private and validated copy of a pool's
// geometry resolved to addresses of this process.
//
// Invariants. M1: a PoolView never changes, but for live_chunk_count(), which only grows. M2: an
// index below live_chunk_count() may be dereferenced in every array of the view: memory is
// committed before the count says so. (A peer that forges the count of a client's view gets it as
// far as the files reach.)
//
// Threads and processes. pool() and Find() from any thread; the daemon's changes from one at a
// time.
//
// Crash. A daemon killed in CreatePool leaves the entry's state kEmpty: the pool never existed.
// What was committed for it is used again by the next extent there. One killed in GrowPool before
// the count is stored: the pool has its old size, and the next start gives that memory back. After
// it: the pool has grown, and the sweep of the next start sets the hints of the new chunks. One
// killed while it deletes a pool leaves it draining, and the next daemon goes on (pool_drain.h);
// killed in RemovePool after the state is kEmpty: the memory is given back by the next start.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "shm/layout.h"
#include "shm/mem_pool_allocator.h"
#include "shm/mem_pool_config.h"
#include "shm/segment.h"
#include "shm/status.h"
#include "shm/super_block.h"

namespace zerocp::shm {

// The free list of a pool: three levels of hint bits, see free_list.h.
struct HintLevels {
  std::atomic<uint64_t>* level[3];
  uint32_t word_count[3];
};

class MemPoolManager;

struct PoolView : PoolGeometry {
  uint8_t index;
  uint8_t incarnation;
  std::string name;  // checked, and ours: the shared one may be forged
  std::byte* records;
  ChunkHeader* headers;
  std::byte* payload;
  HintLevels hints;
  MemPool* shared;
  const std::atomic<uint32_t>* live;  // the daemon's private count; a client's: the shared one
  uint32_t generation_base;           // a handle's generation is the record's and this
  uint64_t open_use;                  // MemPool::use while this pool is open
  const std::atomic<uint64_t>* use;   // as `live`

  ChunkManager& record(uint32_t chunk) const {
    return *reinterpret_cast<ChunkManager*>(records + (uint64_t{chunk} << record_shift));
  }
  // False once the pool is being deleted: nothing may be loaned any more. A chunk was loaned only
  // if this is true after it was labelled so, or taken, or, out of a cache, if its word had no mark
  // then.
  bool IsOpen() const { return use->load(std::memory_order_relaxed) == open_use; }
  // False once the pool is gone: the index may be another's.
  bool IsCurrent() const {
    return (use->load(std::memory_order_acquire) | 1) == open_use;  // PAIR pool.use
  }
  std::byte* data(uint32_t chunk) const { return payload + uint64_t{chunk} * stride_bytes; }
  // Chunks that exist. In a client the shared word, which a peer can have forged: it is believed as
  // far as the files reach. One too large then lets this client touch pages of this pool that
  // nobody committed (SIGBUS when memory is short), one too small hides chunks; neither reaches
  // another pool.
  uint32_t live_chunk_count() const {
    const uint32_t count = live->load(std::memory_order_acquire);  // PAIR pool.chunk_count
    return count <= reached_count.load(std::memory_order_relaxed) ? count : CheckedCount(count);
  }
  uint32_t CheckedCount(uint32_t count) const;

  MemPoolManager* manager;
  // Chunks whose memory this process has found in the files; relaxed: a smaller one is looked for
  // again. The daemon's own count needs no look: max_chunk_count.
  mutable std::atomic<uint32_t> reached_count;
};

class MemPoolManager {
 public:
  struct CreateOptions {
    std::string segment_dir = "/dev/shm";
    std::string instance;  // empty: the default instance with the plain names
    uint64_t management_reserved_bytes = uint64_t{64} << 30;
    uint64_t chunk_reserved_bytes = uint64_t{1} << 40;
    uint32_t session_capacity = kDefaultSessionCapacity;
    uint32_t max_chunks_per_session = 0;  // 0: not limited
    LockIdentity lock;
  };

  // File names: "zerocp_memory_management" and "zerocp_memory_chunk" for the default instance,
  // "zerocp_<instance>_memory_..." for others.
  static std::string ManagementName(std::string_view instance);
  static std::string ChunkName(std::string_view instance);

  // Makes both segments, empty of pools. `owner_lock` gets the lock on the management segment
  // (Segment::Lock), taken before anything is in it. kAlreadyExists if a name is taken; kNoMemory.
  static Result<std::unique_ptr<MemPoolManager>> Create(const CreateOptions& options,
                                                        UniqueFd* owner_lock = nullptr);
  // Takes over the segments of a daemon that is gone. REQUIRES: the lock is held, and nobody holds
  // the one that the super block names (see ReadLock). kNotFound: neither exists. kVersionMismatch,
  // kDamaged: they cannot be used; the message says why.
  static Result<std::unique_ptr<MemPoolManager>> Adopt(const CreateOptions& options);
  // A copy of the management segment as it is now, of a living daemon's instance or a dead one's,
  // read as Adopt does. Changes nothing, needs no lock. For who counts: nothing may be stored, and
  // of the chunk segment, which may be cut at any time, nothing may be read. Only `segment_dir` and
  // `instance` of the options matter. Errors as Adopt's; kDenied: it is another user's, and this is
  // not root; kUnavailable: it is being created, or its creation was cut short.
  static Result<std::unique_ptr<MemPoolManager>> Inspect(const CreateOptions& options);
  // What the super block of existing segments says of its owner; for the decision to adopt.
  // kNotFound; kDenied (see Segment::Open); kUnavailable: it is being created, or its creation was
  // cut short; kDamaged: no complete super block.
  static Result<LockIdentity> ReadLock(const std::string& segment_dir, std::string_view instance);
  // A client's view. The descriptors are closed after mapping. `read_only`: `chunk` cannot be
  // written through; nothing but payloads and their headers is there. kVersionMismatch names both
  // versions; kNoMemory: a limit of this process.
  static Result<std::unique_ptr<MemPoolManager>> Attach(UniqueFd management, UniqueFd chunk,
                                                        bool read_only = false);

  // Unlinks both names, the management segment's last: it is the one that says whose they are.
  // Daemon only; mappings stay valid.
  Status Destroy();

  // For the daemon.

  // Creates a pool and its memory. Returns its index. kInvalid, kAlreadyExists, kLimit, kNoMemory.
  // Long for large pools; everything else may go on meanwhile, except another CreatePool.
  // kUnavailable: `progress`, told of chunks' memory, wanted no more.
  Result<uint32_t> CreatePool(const PoolSpec& spec, const Progress& progress = {});
  // Adds chunks to a pool until it has `chunk_count`; clients see them without doing anything. kOk
  // and nothing done if it has as many. kInvalid: it has more, or may not have so many; kNoMemory,
  // kUnavailable (see CreatePool): nothing was kept. REQUIRES: as CreatePool.
  Status GrowPool(uint32_t index, uint32_t chunk_count, const Progress& progress = {});
  // Whether GrowPool is to be expected when a loan finds no chunk.
  void SetAutoGrow(uint32_t index, AutoGrow value);
  // Loans that wait for a chunk look again, and fail if they need not.
  void WakeLoans(uint32_t index);
  // Steps of deleting a pool; PoolDrain has those between. StartDrain: nothing comes out of its
  // free list any more. SettleDrain: nor out of caches, what was on its way to be cached can be
  // seen, and loans that wait for the pool fail. It takes twice as long as Settle, and looks at
  // every record, so nothing that others wait for is to be locked; recovery and audits may go on,
  // they know marks. RemovePool: the pool is gone, its memory is the system's, and its address
  // range in the chunk segment is free; that in the management segment is the caller's to free.
  // REQUIRES: each chunk is the daemon's; `generation` is at least each record's.
  void StartDrain(uint32_t index);
  void SettleDrain(uint32_t index);
  PoolGeometry RemovePool(uint32_t index, uint32_t generation);
  // Gives back what a daemon that was killed in RemovePool had not.
  void DecommitFreeChunks();
  MemPoolAllocator& allocator() { return *allocator_; }
  const Segment& management_segment() const { return management_; }
  const Segment& chunk_segment() const { return chunk_; }
  Segment& mutable_management_segment() { return management_; }
  const CreateOptions& options() const { return options_; }

  // For the daemon and clients.

  // nullptr if there is no such pool. Sees pools created, and misses pools deleted, after the
  // attach. A client's views stay; the daemon's go with their pools.
  const PoolView* pool(uint32_t index) {
    if (index >= kMaxPools) return nullptr;
    const PoolView* view = pools_[index].load(std::memory_order_acquire);  // PAIR manager.view
    return view != nullptr && view->IsCurrent() ? view : LoadPool(index);
  }
  // True if `view` is that of the pool that this process knows under the index now.
  bool Knows(uint32_t index, const PoolView* view) const {
    return pools_[index].load(std::memory_order_acquire) == view;
  }
  // Clients: in whose name this process knows pools.
  void set_session(uint16_t id) { session_.store(id, std::memory_order_relaxed); }
  // Clients under mlockall(MCL_FUTURE): locks the tables and all chunks of the pools that exist;
  // does nothing in others. A pool that is deleted meanwhile may get memory again by it, which the
  // daemon takes back (PoolDrain). kNoMemory: RLIMIT_MEMLOCK. REQUIRES: set_session.
  Status LockIfProcessDoes();
  const PoolView* FindPool(std::string_view name);
  // Who owns the segments, as the super block says.
  LockIdentity lock() const;
  SuperBlock& super_block() const { return *reinterpret_cast<SuperBlock*>(management_.data()); }
  MemPool& pool_entry(uint32_t index) const;
  SessionEntry& session_entry(uint16_t id) const;
  ChannelEntry& channel_entry(uint32_t index) const;
  uint32_t session_capacity() const { return options_.session_capacity; }
  std::array<uint8_t, 16> instance_uuid() const { return instance_uuid_; }
  // First 64 bits of the uuid: what handles carry.
  uint64_t instance_id() const;
  // True if the files have the first `count` chunks.
  bool Reaches(const PoolGeometry& geometry, uint32_t count);
  // Address of [offset, offset + bytes) in the management segment; nullptr if it is not all inside,
  // behind the file's end, or misaligned. For offsets read from the segment.
  std::byte* ManagementAt(uint64_t offset, uint64_t bytes) const;

 private:
  MemPoolManager() = default;
  // Maps and checks existing segments: for the daemon, or a copy.
  static Result<std::unique_ptr<MemPoolManager>> Load(const CreateOptions& options, bool copy);
  Status AdoptPools(bool copy);
  bool IsInFiles(const PoolGeometry& geometry);
  const PoolView* LoadPool(uint32_t index);
  void PublishView(uint32_t index, const MemPool& entry, const PoolGeometry& geometry,
                   uint64_t open_use);
  static Result<std::array<uint8_t, 16>> NewUuid();
  // Bytes of one segment.
  struct Range {
    Segment* segment;
    uint64_t offset, bytes;
  };
  // Where the records, headers and payloads of chunks [from, to) are.
  std::array<Range, 3> RangesOf(const PoolGeometry& geometry, uint32_t from, uint32_t to);
  // Makes chunks [from, to) of a pool real memory that reads as zeros (L3). kNoMemory,
  // kUnavailable: gave all back.
  Status CommitChunks(const PoolGeometry& geometry, uint32_t from, uint32_t to,
                      const Progress& progress);

  CreateOptions options_;
  Segment management_;
  Segment chunk_;
  std::array<uint8_t, 16> instance_uuid_{};
  std::unique_ptr<MemPoolAllocator> allocator_;  // daemon only
  std::array<std::atomic<uint32_t>, kMaxPools>
      chunk_counts_{};                                   // daemon only: not for clients to forge
  std::array<std::atomic<uint64_t>, kMaxPools> uses_{};  // daemon only, likewise
  std::atomic<uint16_t> session_{0};                     // clients only
  std::mutex views_mutex_;
  std::array<std::unique_ptr<PoolView>, kMaxPools> views_;  // under views_mutex_
  // Clients: of pools that are gone; threads and caches may still point to them. Under
  // views_mutex_.
  std::vector<std::unique_ptr<PoolView>> old_views_;
  std::array<std::atomic<const PoolView*>, kMaxPools> pools_{};
};

}  // namespace zerocp::shm
