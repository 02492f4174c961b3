#include "shm/mem_pool_manager.h"

#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <cstring>

#include "shm/free_list.h"
#include "shm/futex.h"
#include "shm/mutant.h"
#include "shm/settle.h"

namespace zerocp::shm {
namespace {

std::string SegmentName(std::string_view instance, const char* kind) {
  std::string name = "zerocp_";
  if (!instance.empty()) name.append(instance).append("_");
  return name + kind;
}

Status FillRandom(void* bytes, size_t size) {
  if (getrandom(bytes, size, 0) != static_cast<ssize_t>(size)) {
    return Status::FromErrno(Code::kInternal, "getrandom", errno);
  }
  return Status();
}

int64_t RealTimeNs() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

std::string MemPoolManager::ManagementName(std::string_view instance) {
  return SegmentName(instance, "memory_management");
}
std::string MemPoolManager::ChunkName(std::string_view instance) {
  return SegmentName(instance, "memory_chunk");
}

MemPool& MemPoolManager::pool_entry(uint32_t index) const {
  return reinterpret_cast<MemPool*>(management_.data() + kPoolTableOffset)[index];
}
SessionEntry& MemPoolManager::session_entry(uint16_t id) const {
  return reinterpret_cast<SessionEntry*>(management_.data() + kSessionTableOffset)[id];
}
ChannelEntry& MemPoolManager::channel_entry(uint32_t index) const {
  return reinterpret_cast<ChannelEntry*>(management_.data() + kSessionTableOffset +
                                         uint64_t{options_.session_capacity} *
                                             sizeof(SessionEntry))[index];
}
uint64_t MemPoolManager::instance_id() const {
  uint64_t id;
  std::memcpy(&id, instance_uuid_.data(), sizeof(id));
  return id;
}

std::byte* MemPoolManager::ManagementAt(uint64_t offset, uint64_t bytes) const {
  const uint64_t end = options_.management_reserved_bytes;
  if (offset % kLine != 0 || offset < kSessionTableOffset || offset > end || bytes > end - offset)
    return nullptr;
  return management_.data() + offset;
}

Result<std::unique_ptr<MemPoolManager>> MemPoolManager::Create(const CreateOptions& options,
                                                               UniqueFd* owner_lock) {
  if (Status status = MemPoolAllocator::CheckPages(); !status.ok()) return status;
  std::unique_ptr<MemPoolManager> manager(new MemPoolManager);
  manager->options_ = options;
  manager->options_.management_reserved_bytes =
      ExtentMap::RoundUp(options.management_reserved_bytes);
  manager->options_.chunk_reserved_bytes = ExtentMap::RoundUp(options.chunk_reserved_bytes);
  if (Status status = FillRandom(manager->instance_uuid_.data(), 16); !status.ok()) return status;
  const CreateOptions& o = manager->options_;

  Result<Segment> management =
      Segment::Create(o.segment_dir, ManagementName(o.instance), o.management_reserved_bytes);
  if (!management.ok()) return management.status();
  manager->management_ = std::move(*management);
  // Whoever finds the file empty may take it for a creation that was cut short, but only with this
  // lock; if another has it, the file is the other's to remove.
  Result<UniqueFd> lock = Segment::Lock(manager->management_.path());
  if (!lock.ok()) return Status(Code::kAlreadyExists, lock.status().message());
  if (pwrite(manager->management_.fd(), &kUnfinishedMagic, sizeof(kUnfinishedMagic), 0) !=
      static_cast<ssize_t>(sizeof(kUnfinishedMagic))) {
    const Status status = Status::FromErrno(Code::kNoMemory, manager->management_.path(), errno);
    (void)manager->management_.Unlink();
    return status;
  }
  Result<Segment> chunk =
      Segment::Create(o.segment_dir, ChunkName(o.instance), o.chunk_reserved_bytes);
  if (!chunk.ok()) {
    (void)manager->management_.Unlink();
    return chunk.status();
  }
  manager->chunk_ = std::move(*chunk);
  manager->allocator_ = std::make_unique<MemPoolAllocator>(
      o.management_reserved_bytes, o.chunk_reserved_bytes, o.session_capacity);
  const uint64_t extents = MemPoolAllocator::ExtentsOffset(o.session_capacity);
  if (Status status = manager->management_.Commit(0, extents); !status.ok()) {
    (void)manager->Destroy();
    return status;
  }

  SuperBlock& block = manager->super_block();
  block.layout_version = kLayoutVersion;
  block.limits_hash = LimitsHash();
  std::memcpy(block.instance_uuid, manager->instance_uuid_.data(), 16);
  block.management_reserved_bytes = o.management_reserved_bytes;
  block.chunk_reserved_bytes = o.chunk_reserved_bytes;
  block.session_capacity = o.session_capacity;
  block.channel_capacity = kMaxChannels;
  block.pool_table_offset = kPoolTableOffset;
  block.session_table_offset = kSessionTableOffset;
  block.channel_table_offset =
      kSessionTableOffset + uint64_t{o.session_capacity} * sizeof(SessionEntry);
  block.extents_offset = extents;
  StoreLock(o.lock, block);
  CopyName(block.instance_name, o.instance);
  block.max_chunks_per_session.store(o.max_chunks_per_session, std::memory_order_relaxed);
  block.magic.store(kMagic, std::memory_order_release);  // last (L1)  PAIR superblock.magic
  if (owner_lock != nullptr) *owner_lock = std::move(*lock);
  return manager;
}

Result<LockIdentity> MemPoolManager::ReadLock(const std::string& segment_dir,
                                              std::string_view instance) {
  Result<Segment> management = Segment::Open(segment_dir, ManagementName(instance));
  if (!management.ok()) return management.status();
  if (IsUnfinished(*management)) return NotFinished(*management);
  auto block = std::make_unique<SuperBlock>();
  if (Status status = ReadSuperBlock(*management, block.get()); !status.ok()) return status;
  if (block->magic.load(std::memory_order_acquire) != kMagic) {
    return Status(Code::kDamaged, management->path() + ": no complete super block");
  }
  return LockOf(*block);
}

LockIdentity MemPoolManager::lock() const { return LockOf(super_block()); }

Result<std::unique_ptr<MemPoolManager>> MemPoolManager::Load(const CreateOptions& options,
                                                             bool copy) {
  std::unique_ptr<MemPoolManager> manager(new MemPoolManager);
  manager->options_ = options;
  Result<Segment> management =
      Segment::Open(options.segment_dir, ManagementName(options.instance), copy);
  if (!management.ok()) return management.status();
  if (copy && IsUnfinished(*management)) return NotFinished(*management);
  Result<Segment> chunk = Segment::Open(options.segment_dir, ChunkName(options.instance), copy);
  if (!chunk.ok()) {
    return chunk.code() != Code::kNotFound
               ? chunk.status()
               : Status(Code::kDamaged,
                        management->path() + " is there, but its chunk segment is not");
  }
  auto block = std::make_unique<SuperBlock>();  // a private copy: what was checked is what is used
  if (Status status = ReadSuperBlock(*management, block.get()); !status.ok()) return status;
  if (Status status = CheckSuperBlock(*block, management->file_bytes()); !status.ok())
    return status;

  CreateOptions& o = manager->options_;
  o.management_reserved_bytes = block->management_reserved_bytes;
  o.chunk_reserved_bytes = block->chunk_reserved_bytes;
  o.session_capacity = block->session_capacity;
  std::memcpy(manager->instance_uuid_.data(), block->instance_uuid, 16);
  manager->management_ = std::move(*management);
  manager->chunk_ = std::move(*chunk);
  if (Status status = copy ? manager->management_.MapCopy(o.management_reserved_bytes)
                           : manager->management_.Map(o.management_reserved_bytes);
      !status.ok())
    return status;
  if (Status status = manager->chunk_.Map(o.chunk_reserved_bytes, copy); !status.ok())
    return status;
  if (Status status = manager->AdoptPools(copy); !status.ok()) return status;
  return manager;
}

Status MemPoolManager::AdoptPools(bool copy) {
  allocator_ = std::make_unique<MemPoolAllocator>(
      options_.management_reserved_bytes, options_.chunk_reserved_bytes, options_.session_capacity);
  for (uint32_t index = 0; index < kMaxPools; ++index) {
    MemPool& entry = pool_entry(index);
    const uint32_t state = entry.state.load(std::memory_order_acquire);  // PAIR pool.state
    uses_[index].store(entry.use.load(std::memory_order_relaxed));
    if (state == static_cast<uint32_t>(PoolState::kEmpty)) continue;
    if (state > static_cast<uint32_t>(PoolState::kDraining))
      return Status(Code::kDamaged, "pool table: impossible state " + std::to_string(state));
    Result<PoolGeometry> geometry = allocator_->Adopt(entry);
    if (!geometry.ok()) return geometry.status();
    if (chunk_.file_bytes() <
            geometry->payload_offset + geometry->stride_bytes * geometry->chunk_count ||
        management_.file_bytes() <
            geometry->records_offset + geometry->record_bytes() * geometry->chunk_count) {
      return Status(Code::kDamaged, "a segment of the instance was cut short");
    }
    const uint64_t use = uses_[index].load() | 1;
    uses_[index].store(use);
    PublishView(index, entry, *geometry, use);
    if (copy) continue;
    entry.use.store(use, std::memory_order_release);  // PAIR pool.use
    if (state == static_cast<uint32_t>(PoolState::kDraining)) StartDrain(index);
  }
  return Status();
}

Result<std::unique_ptr<MemPoolManager>> MemPoolManager::Adopt(const CreateOptions& options) {
  Result<std::unique_ptr<MemPoolManager>> manager = Load(options, false);
  if (!manager.ok()) return manager;
  SuperBlock& shared = (*manager)->super_block();
  StoreLock(options.lock, shared);
  shared.max_chunks_per_session.store(options.max_chunks_per_session, std::memory_order_relaxed);
  return manager;
}

Result<std::unique_ptr<MemPoolManager>> MemPoolManager::Inspect(const CreateOptions& options) {
  return Load(options, true);
}

Result<std::unique_ptr<MemPoolManager>> MemPoolManager::Attach(UniqueFd management, UniqueFd chunk,
                                                               bool read_only) {
  std::unique_ptr<MemPoolManager> manager(new MemPoolManager);
  manager->management_ = Segment::FromDescriptor(std::move(management));
  manager->chunk_ = Segment::FromDescriptor(std::move(chunk));
  auto block = std::make_unique<SuperBlock>();
  if (Status status = ReadSuperBlock(manager->management_, block.get()); !status.ok())
    return status;
  if (Status status = CheckSuperBlock(*block, manager->management_.file_bytes()); !status.ok())
    return status;

  CreateOptions& o = manager->options_;
  o.management_reserved_bytes = block->management_reserved_bytes;
  o.chunk_reserved_bytes = block->chunk_reserved_bytes;
  o.session_capacity = block->session_capacity;
  o.instance.assign(block->instance_name,
                    strnlen(block->instance_name, sizeof(block->instance_name)));
  std::memcpy(manager->instance_uuid_.data(), block->instance_uuid, 16);
  if (Status status = manager->management_.Map(o.management_reserved_bytes); !status.ok())
    return status;
  if (Status status = manager->chunk_.Map(o.chunk_reserved_bytes, read_only); !status.ok())
    return status;
  if (manager->chunk_.process_locks_memory()) {
    if (Status status = manager->LockMemory(); !status.ok()) return status;
  }
  manager->management_.CloseDescriptor();
  manager->chunk_.CloseDescriptor();
  return manager;
}

Status MemPoolManager::LockMemory() {
  std::vector<Range> ranges{
      {&management_, 0, MemPoolAllocator::ExtentsOffset(options_.session_capacity)}};
  for (uint32_t index = 0; index < kMaxPools; ++index) {
    const MemPool& entry = pool_entry(index);
    if (entry.state.load(std::memory_order_acquire) !=  // PAIR pool.state
        static_cast<uint32_t>(PoolState::kActive)) {
      continue;
    }
    const Result<PoolGeometry> geometry = MemPoolAllocator::Validate(
        entry, options_.management_reserved_bytes, options_.chunk_reserved_bytes);
    if (!geometry.ok()) continue;
    ranges.push_back(
        {&management_, geometry->hints_offset, FreeList::Bytes(geometry->max_chunk_count)});
    for (const Range& range : RangesOf(*geometry, 0, geometry->chunk_count))
      ranges.push_back(range);
  }
  uint64_t bytes = 0;
  for (const Range& range : ranges) bytes += range.bytes;
  const auto at = [](const Range& range) { return range.segment->data() + range.offset; };
  for (const Range& range : ranges) {
    if (mlock(at(range), range.bytes) == 0) continue;
    const int error = errno;
    for (const Range& locked : ranges) munlock(at(locked), locked.bytes);  // the text needs memory
    return Status::FromErrno(Code::kNoMemory,
                             "mlockall(MCL_FUTURE) asks for all pools in locked memory, " +
                                 std::to_string(bytes) + " bytes; RLIMIT_MEMLOCK is " +
                                 LimitText(RLIMIT_MEMLOCK) +
                                 " for all that this process locks: raise it, or have smaller "
                                 "pools, or munlockall() while connecting",
                             error);
  }
  return Status();
}

Status MemPoolManager::Destroy() {
  Status chunk = chunk_.Unlink();
  Status management = management_.Unlink();
  return management.ok() ? chunk : management;
}

Result<uint32_t> MemPoolManager::CreatePool(const PoolSpec& wanted) {
  if (auto found = shm::Validate(wanted); !found.empty()) {
    return Status(Code::kInvalid, "pool \"" + wanted.name + "\": " + found.front().field + " " +
                                      found.front().description);
  }
  if (FindPool(wanted.name) != nullptr) {
    return Status(Code::kAlreadyExists, "pool \"" + wanted.name + "\" exists");
  }
  uint32_t index = 0;
  while (index < kMaxPools && pool(index) != nullptr) ++index;
  if (index == kMaxPools) {
    return Status(Code::kLimit,
                  "there are " + std::to_string(kMaxPools) + " pools already, and no more can be");
  }
  uint8_t uid[16];
  if (Status status = FillRandom(uid, sizeof(uid)); !status.ok()) return status;
  const PoolSpec spec = WithDefaults(wanted);
  Result<PoolGeometry> planned = allocator_->Plan(spec);
  if (!planned.ok()) return planned.status();
  const PoolGeometry& g = *planned;

  // Old bytes may be left from a daemon that was killed here; all-zero is the empty state (L3).
  const uint64_t hint_bytes = FreeList::Bytes(g.max_chunk_count);
  management_.Decommit(g.hints_offset, hint_bytes);
  Status status = management_.Commit(g.hints_offset, hint_bytes);
  if (status.ok()) status = CommitChunks(g, 0, g.chunk_count);
  if (!status.ok()) {
    management_.Decommit(g.hints_offset, hint_bytes);
    allocator_->Forget(g);
    return status;
  }

  MemPool& entry = pool_entry(index);
  const uint8_t incarnation = static_cast<uint8_t>(entry.incarnation % 15 + 1);
  entry.max_chunk_count = g.max_chunk_count;
  entry.alignment_bytes = g.alignment_bytes;
  entry.chunk_size_bytes = g.chunk_size_bytes;
  entry.stride_bytes = g.stride_bytes;
  entry.records_offset = g.records_offset;
  entry.hints_offset = g.hints_offset;
  entry.headers_offset = g.headers_offset;
  entry.payload_offset = g.payload_offset;
  entry.incarnation = incarnation;
  entry.record_shift = g.record_shift;
  entry.revocable = g.revocable ? 1 : 0;
  SetAutoGrow(index, spec.auto_grow ? AutoGrow::kOn : AutoGrow::kOff);
  entry.grant_slots = g.grant_slots;
  entry.slot_count = g.slot_count;
  std::memcpy(entry.uid, uid, sizeof(entry.uid));
  entry.create_time_ns = RealTimeNs();
  entry.loan_count.store(0, std::memory_order_relaxed);
  entry.exhausted_count.store(0, std::memory_order_relaxed);
  entry.recovered_chunk_count.store(0, std::memory_order_relaxed);
  entry.pressure.store(0, std::memory_order_relaxed);
  // Enough for a first user; Recovery::Tick sets it by the number of threads.
  entry.cache_cap.store(std::min(32u, g.chunk_count / 8), std::memory_order_relaxed);
  CopyName(entry.name, spec.name);
  entry.chunk_count.store(g.chunk_count, std::memory_order_release);  // PAIR pool.chunk_count

  FreeList::SetRange(FreeList::At(management_.data() + g.hints_offset, g.max_chunk_count), 0,
                     g.chunk_count);
  const uint64_t use = (uses_[index].load() + 2) | 1;
  uses_[index].store(use);
  PublishView(index, entry, g, use);
  entry.use.store(use, std::memory_order_release);  // PAIR pool.use
  entry.state.store(static_cast<uint32_t>(PoolState::kActive),
                    std::memory_order_release);  // PAIR pool.state
  return index;
}

std::array<MemPoolManager::Range, 3> MemPoolManager::RangesOf(const PoolGeometry& g, uint32_t from,
                                                              uint32_t to) {
  const uint64_t count = to - from;
  return {{{&management_, g.records_offset + g.record_bytes() * from, g.record_bytes() * count},
           {&chunk_, g.headers_offset + sizeof(ChunkHeader) * from, sizeof(ChunkHeader) * count},
           {&chunk_, g.payload_offset + g.stride_bytes * from, g.stride_bytes * count}}};
}

Status MemPoolManager::CommitChunks(const PoolGeometry& g, uint32_t from, uint32_t to) {
  const std::array<Range, 3> ranges = RangesOf(g, from, to);
  for (const Range& range : ranges) {
    // To the byte: the page at either end may be another chunk's too.
    range.segment->Decommit(range.offset, range.bytes);
    Status status = range.segment->Commit(range.offset, range.bytes);
    if (!status.ok()) {
      for (const Range& undo : ranges) undo.segment->Decommit(undo.offset, undo.bytes);
      return status;
    }
  }
  return Status();
}

Status MemPoolManager::GrowPool(uint32_t index, uint32_t chunk_count) {
  const PoolView& view = *pool(index);
  const uint32_t before = view.live_chunk_count();
  if (chunk_count < before || chunk_count > view.max_chunk_count) {
    return Status(Code::kInvalid, "pool \"" + view.name + "\" has " + std::to_string(before) +
                                      " chunks and can have " + std::to_string(before) + " to " +
                                      std::to_string(view.max_chunk_count));
  }
  if (chunk_count == before) return Status();
  if (Status status = CommitChunks(view, before, chunk_count); !status.ok()) return status;
  // Memory, then count, then hints: who follows a hint finds a count that has its chunk.
  chunk_counts_[index].store(chunk_count, std::memory_order_release);
  view.shared->chunk_count.store(chunk_count, std::memory_order_release);  // PAIR pool.chunk_count
  if (!Mutant(15)) FreeList::SetRange(view.hints, before, chunk_count);
  // The exchange is a full barrier: a loan that did not see the chunks is seen here.
  if (view.shared->pressure.exchange(0) != 0) FutexWake(view.shared->pressure);
  return Status();
}

void MemPoolManager::SetAutoGrow(uint32_t index, AutoGrow value) {
  pool_entry(index).auto_grow.store(static_cast<uint8_t>(value), std::memory_order_relaxed);
}

void MemPoolManager::WakeLoans(uint32_t index) {
  MemPool& entry = pool_entry(index);
  entry.pressure.store(0);
  FutexWake(entry.pressure);
}

void MemPoolManager::StartDrain(uint32_t index) {
  MemPool& entry = pool_entry(index);
  // The state first: a daemon that adopts goes by it.
  entry.state.store(static_cast<uint32_t>(PoolState::kDraining), std::memory_order_release);
  const uint64_t closed = uses_[index].load() & ~uint64_t{1};
  uses_[index].store(closed);
  entry.use.store(closed);  // PAIR pool.use
  Settle();
  WakeLoans(index);
}

PoolGeometry MemPoolManager::RemovePool(uint32_t index, uint32_t generation) {
  const PoolGeometry g = *pool(index);
  MemPool& entry = pool_entry(index);
  if (!Mutant(28)) entry.generation_base += generation + 1;
  const uint64_t gone = (uses_[index].load() | 1) + 1;
  uses_[index].store(gone);
  entry.use.store(gone);  // PAIR pool.use
  entry.state.store(static_cast<uint32_t>(PoolState::kEmpty));
  {
    std::lock_guard lock(views_mutex_);
    pools_[index].store(nullptr, std::memory_order_release);
    views_[index].reset();
  }
  const uint64_t count = g.max_chunk_count;
  chunk_.Decommit(g.headers_offset, ExtentMap::RoundUp(sizeof(ChunkHeader) * count));
  chunk_.Decommit(g.payload_offset, ExtentMap::RoundUp(g.stride_bytes * count));
  allocator_->ForgetChunks(g);
  return g;
}

void MemPoolManager::DecommitFreeChunks() {
  ExtentMap& extents = allocator_->chunk_extents();
  for (const Extent& extent : extents.ReserveRest(chunk_.file_bytes())) {
    chunk_.Decommit(extent.offset, extent.bytes);
    extents.Free(extent.offset);
  }
}

void MemPoolManager::PublishView(uint32_t index, const MemPool& entry, const PoolGeometry& geometry,
                                 uint64_t open_use) {
  auto view = std::make_unique<PoolView>();
  static_cast<PoolGeometry&>(*view) = geometry;
  view->index = static_cast<uint8_t>(index);
  view->incarnation = entry.incarnation;
  view->name.assign(entry.name, strnlen(entry.name, kNameBytes));
  view->records = management_.data() + geometry.records_offset;
  view->headers = reinterpret_cast<ChunkHeader*>(chunk_.data() + geometry.headers_offset);
  view->payload = chunk_.data() + geometry.payload_offset;
  view->hints = FreeList::At(management_.data() + geometry.hints_offset, geometry.max_chunk_count);
  view->shared = &pool_entry(index);
  view->live = &view->shared->chunk_count;
  view->generation_base = entry.generation_base;
  view->open_use = open_use;
  view->use = &view->shared->use;
  if (allocator_ != nullptr) {
    view->use = &uses_[index];
    chunk_counts_[index].store(geometry.chunk_count, std::memory_order_relaxed);
    view->live = &chunk_counts_[index];
  }
  std::lock_guard lock(views_mutex_);
  if (!view->IsCurrent()) return;  // what was read may be of two pools
  if (views_[index] != nullptr) {
    if (views_[index]->open_use == open_use) return;  // another thread of this client was faster
    old_views_.push_back(std::move(views_[index]));
  }
  views_[index] = std::move(view);
  pools_[index].store(views_[index].get(), std::memory_order_release);  // PAIR manager.view
}

const PoolView* MemPoolManager::LoadPool(uint32_t index) {
  if (allocator_ != nullptr) return nullptr;  // the daemon knows its pools; the table is for others
  const MemPool& entry = pool_entry(index);
  const uint64_t open_use = entry.use.load(std::memory_order_acquire) | 1;  // PAIR pool.use
  const uint32_t state = entry.state.load(std::memory_order_acquire);       // PAIR pool.state
  if (state != static_cast<uint32_t>(PoolState::kActive) &&
      state != static_cast<uint32_t>(PoolState::kDraining)) {
    return nullptr;
  }
  if (const uint16_t session = session_.load(std::memory_order_relaxed); session != 0) {
    // Before the last look at `use`, in PublishView: either that sees that the pool is gone, or the
    // daemon, which stores `use` first, sees this and keeps the records' addresses.
    session_entry(session).known_serials[index].store(static_cast<uint16_t>(open_use >> 1));
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  Result<PoolGeometry> geometry = MemPoolAllocator::Validate(
      entry, options_.management_reserved_bytes, options_.chunk_reserved_bytes);
  if (!geometry.ok()) return nullptr;
  PublishView(index, entry, *geometry, open_use);
  const PoolView* view = pools_[index].load(std::memory_order_acquire);
  return view != nullptr && view->IsCurrent() ? view : nullptr;
}

const PoolView* MemPoolManager::FindPool(std::string_view name) {
  for (uint32_t index = 0; index < kMaxPools; ++index) {
    // Looks at no other pool: one that is known is not forgotten so soon (PoolDrain).
    const MemPool& entry = pool_entry(index);
    if (allocator_ == nullptr &&
        name != std::string_view(entry.name, strnlen(entry.name, kNameBytes)))
      continue;
    const PoolView* view = pool(index);
    if (view != nullptr && name == view->name) return view;
  }
  return nullptr;
}

}  // namespace zerocp::shm
