#include "shm/mem_pool_manager.h"

#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>

#include <cstring>

#include "shm/free_list.h"
#include "shm/mutant.h"

namespace zerocp::shm {
namespace {

std::string SegmentName(std::string_view instance, const char* kind) {
  std::string name = "zerocp_";
  if (!instance.empty()) name.append(instance).append("_");
  return name + kind;
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
  // The daemon's offsets are its own; a client may have read a forged one.
  if (allocator_ == nullptr && !Mutant(78) && !management_.Reaches(offset + bytes)) return nullptr;
  return management_.data() + offset;
}

bool MemPoolManager::Reaches(const PoolGeometry& geometry, uint32_t count) {
  for (const Range& range : RangesOf(geometry, 0, count))
    if (!range.segment->Reaches(range.offset + range.bytes)) return false;
  return true;
}

uint32_t PoolView::CheckedCount(uint32_t count) const {
  const uint32_t reached = reached_count.load(std::memory_order_relaxed);
  count = std::min(count, max_chunk_count);
  if (count <= reached) return count;
  if (!Mutant(85) && !manager->Reaches(*this, count)) return reached;
  reached_count.store(count, std::memory_order_relaxed);
  return count;
}

Result<std::array<uint8_t, 16>> MemPoolManager::NewUuid() {
  std::array<uint8_t, 16> uuid;
  if (getrandom(uuid.data(), uuid.size(), 0) != static_cast<ssize_t>(uuid.size()))
    return Status::FromErrno(Code::kInternal, "getrandom", errno);
  return uuid;
}

Result<std::unique_ptr<MemPoolManager>> MemPoolManager::Create(const CreateOptions& options,
                                                               UniqueFd* owner_lock) {
  if (Status status = MemPoolAllocator::CheckPages(); !status.ok()) return status;
  std::unique_ptr<MemPoolManager> manager(new MemPoolManager);
  manager->options_ = options;
  manager->options_.management_reserved_bytes =
      ExtentMap::RoundUp(options.management_reserved_bytes);
  manager->options_.chunk_reserved_bytes = ExtentMap::RoundUp(options.chunk_reserved_bytes);
  Result<std::array<uint8_t, 16>> uuid = NewUuid();
  if (!uuid.ok()) return uuid.status();
  manager->instance_uuid_ = *uuid;
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
  if (Mutant(97)) block.magic.store(kMagic, std::memory_order_release);
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

// As far as the files' lengths tell: a client may have cut them, or forged an entry.
bool MemPoolManager::IsInFiles(const PoolGeometry& geometry) {
  for (const Range& range : RangesOf(geometry, 0, geometry.chunk_count))
    if (range.segment->file_bytes() < range.offset + range.bytes && !Mutant(89)) return false;
  return management_.file_bytes() >=
         geometry.hints_offset + FreeList::Bytes(geometry.max_chunk_count);
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
    if (!IsInFiles(*geometry))
      return Status(Code::kDamaged, "a segment of the instance was cut short");
    const uint64_t use = uses_[index].load() | 1;
    uses_[index].store(use);
    PublishView(index, entry, *geometry, use);
    if (copy) continue;
    // What a growth that was cut short had committed.
    for (const Range& range : RangesOf(*geometry, geometry->chunk_count, geometry->max_chunk_count))
      range.segment->Decommit(range.offset, range.bytes);
    entry.use.store(use, std::memory_order_release);  // PAIR pool.use
    if (state == static_cast<uint32_t>(PoolState::kDraining)) {
      StartDrain(index);
      SettleDrain(index);
    }
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
  manager->management_.CloseDescriptor();
  manager->chunk_.CloseDescriptor();
  return manager;
}

Status MemPoolManager::LockIfProcessDoes() {
  if (!chunk_.process_locks_memory()) return Status();
  std::vector<Range> ranges{
      {&management_, 0, MemPoolAllocator::ExtentsOffset(options_.session_capacity)}};
  for (uint32_t index = 0; index < kMaxPools; ++index) {
    const PoolView* view = pool(index);  // known from now on: the daemon keeps its addresses
    if (view == nullptr || !view->IsOpen()) continue;
    ranges.push_back({&management_, view->hints_offset, FreeList::Bytes(view->max_chunk_count)});
    for (const Range& range : RangesOf(*view, 0, view->live_chunk_count())) ranges.push_back(range);
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
  view->manager = this;
  view->reached_count.store(geometry.chunk_count, std::memory_order_relaxed);
  if (allocator_ != nullptr) {
    view->use = &uses_[index];
    chunk_counts_[index].store(geometry.chunk_count, std::memory_order_relaxed);
    view->live = &chunk_counts_[index];
    view->reached_count.store(geometry.max_chunk_count, std::memory_order_relaxed);
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
  if (!geometry.ok() || !Reaches(*geometry, geometry->chunk_count)) return nullptr;
  if (!management_.Reaches(geometry->hints_offset + FreeList::Bytes(geometry->max_chunk_count)))
    return nullptr;
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
