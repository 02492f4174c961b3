#include "server/pool_manager.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "server/error.h"
#include "shm/census.h"
#include "shm/memory_budget.h"

namespace zerocp {
namespace {

using Clock = std::chrono::system_clock;

bool Agrees(uint64_t wanted, uint64_t actual) { return wanted == 0 || wanted == actual; }

absl::Status AddressRangeFull(const shm::PoolSpec& spec, shm::MemPoolManager& manager) {
  constexpr uint64_t kUnlimited = uint64_t{1} << 60;
  shm::MemPoolAllocator scratch(kUnlimited, kUnlimited, manager.session_capacity());
  const uint64_t needed =
      shm::MemPoolAllocator::CommittedSizes(*scratch.Plan(spec), spec.max_chunk_count)
          .total_bytes();
  const uint64_t available = manager.allocator().management_extents().free_bytes() +
                             manager.allocator().chunk_extents().free_bytes();
  return MakeError(
      Reason::kSegmentFull,
      fmt::format("pool \"{}\" needs {} bytes of address space for its max_chunk_count of {} (by "
                  "default 4 times chunk_count), {} are free; give a smaller one, or start the "
                  "daemon with a larger --reserve",
                  spec.name, needed, spec.max_chunk_count, available),
      {{"resource", PoolResource(spec.name)},
       {"requestedBytes", std::to_string(needed)},
       {"availableBytes", std::to_string(available)},
       {"limitedBy", "address range"}});
}

// Of everything that can change, and of the uid, so that a pool created anew has others.
std::string Etag(const PoolInfo& pool) {
  return fmt::format("\"{}-{:x}{}\"", pool.uid.substr(0, 8), pool.spec.chunk_count,
                     pool.spec.auto_grow ? "-a" : "");
}

SegmentUse Use(const shm::Segment& segment, std::string name) {
  struct stat info {};
  const bool known = fstat(segment.fd(), &info) == 0;
  return {std::move(name), known ? static_cast<uint64_t>(info.st_blocks) * 512 : 0};
}

}  // namespace

std::string PoolResource(std::string_view name) { return "pools/" + std::string(name); }

std::string UuidText(const std::array<uint8_t, 16>& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", uuid[i]);
  }
  return text;
}

PoolManager::PoolManager(Core& core, std::function<void()> on_reserve)
    : core_(core), on_reserve_(std::move(on_reserve)), drain_(*core.manager) {
  MutexLock lock(core_.mutex);
  drain_.AdoptGaps(core_.attached);
  for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
    const shm::PoolView* view = core_.manager->pool(index);
    if (view == nullptr) continue;
    const std::string& name = view->name;
    if (!view->IsOpen()) spdlog::info("pool {}: its deletion goes on", name);
    if (!shm::IsValidName(name) || !entries_.emplace(name, Learn(index)).second) {
      spdlog::error("pool {} of the adopted segments has no usable name and is not shown", index);
    }
  }
}

PoolManager::Entry PoolManager::Learn(uint32_t index) const {
  const shm::MemPool& entry = core_.manager->pool_entry(index);
  std::array<uint8_t, 16> uid;
  std::memcpy(uid.data(), entry.uid, uid.size());
  const auto since_epoch = std::chrono::nanoseconds(entry.create_time_ns);
  return {
      index, UuidText(uid),
      Clock::time_point(std::chrono::duration_cast<Clock::duration>(since_epoch)),
      entry.auto_grow.load(std::memory_order_relaxed) != static_cast<uint8_t>(shm::AutoGrow::kOff)};
}

std::optional<PoolManager::Entry> PoolManager::Find(std::string_view name) {
  MutexLock lock(mutex_);
  auto found = entries_.find(name);
  return found == entries_.end() ? std::nullopt : std::optional<Entry>(found->second);
}

PoolInfo PoolManager::Describe(const std::string& name, const Entry& entry) const {
  const shm::PoolView& view = *core_.manager->pool(entry.index);
  PoolInfo info;
  info.spec = {name,
               view.chunk_size_bytes,
               view.alignment_bytes,
               view.live_chunk_count(),
               view.max_chunk_count,
               view.slot_count,
               entry.auto_grow};
  info.uid = entry.uid;
  info.create_time = entry.create_time;
  info.etag = Etag(info);
  info.draining = !view.IsOpen();
  return info;
}

std::vector<PoolManager::Difference> PoolManager::Differences(const shm::PoolSpec& wanted,
                                                              const shm::PoolSpec& actual) {
  const shm::PoolSpec full = shm::WithDefaults(wanted);
  const struct {
    bool agrees;
    Difference values;
  } fields[] = {
      {Agrees(wanted.chunk_size_bytes, actual.chunk_size_bytes),
       {"chunk_size_bytes", false, wanted.chunk_size_bytes, actual.chunk_size_bytes}},
      {Agrees(wanted.chunk_alignment_bytes, actual.chunk_alignment_bytes),
       {"chunk_alignment_bytes", false, wanted.chunk_alignment_bytes,
        actual.chunk_alignment_bytes}},
      {wanted.chunk_count <= actual.chunk_count,
       {"chunk_count", true, wanted.chunk_count, actual.chunk_count}},
      {Agrees(wanted.max_chunk_count, actual.max_chunk_count),
       {"max_chunk_count", false, wanted.max_chunk_count, actual.max_chunk_count}},
      {!wanted.auto_grow || actual.auto_grow,
       {"auto_grow", true, wanted.auto_grow, actual.auto_grow}},
      {wanted.max_holders == 0 || full.max_holders == actual.max_holders,
       {"max_holders_per_chunk", false, full.max_holders, actual.max_holders}},
  };
  std::vector<Difference> differences;
  for (const auto& field : fields) {
    if (!field.agrees) differences.push_back(field.values);
  }
  return differences;
}

absl::StatusOr<CreatedPool> PoolManager::Existing(const shm::PoolSpec& wanted, const PoolInfo& pool,
                                                  CreateMode mode) const {
  if (pool.draining) return BeingDeleted(pool);
  std::string text;
  bool can_change = true;
  for (const Difference& d : Differences(wanted, pool.spec)) {
    text +=
        fmt::format("{}{} {}, not {}", text.empty() ? " with " : ", ", d.field, d.actual, d.wanted);
    can_change &= d.can_change;
  }
  if (mode.allow_existing && text.empty()) return CreatedPool{pool, false};
  const char* advice = text.empty() ? "choose another name or set allow_existing"
                       : can_change ? "change it (UpdatePool), or choose another name"
                                    : "choose another name";
  return MakeError(Reason::kPoolAlreadyExists,
                   fmt::format("pool \"{}\" exists already{}; {}", wanted.name, text, advice),
                   {{"resource", PoolResource(wanted.name)}});
}

absl::StatusOr<uint64_t> PoolManager::CheckSpace(std::span<const shm::PoolSpec> created,
                                                 std::span<const PoolChange> grown) {
  MutexLock create_lock(create_mutex_);
  return CheckSpaceSerially(created, grown);
}

absl::StatusOr<uint64_t> PoolManager::CheckSpaceSerially(std::span<const shm::PoolSpec> created,
                                                         std::span<const PoolChange> grown) {
  shm::MemPoolAllocator& allocator = core_.manager->allocator();
  uint64_t needed = 0;
  absl::Status status;
  std::vector<shm::PoolGeometry> plans;
  for (const shm::PoolSpec& spec : created) {
    const shm::Result<shm::PoolGeometry> plan = allocator.Plan(spec);
    if (!plan.ok()) {
      status = AddressRangeFull(spec, *core_.manager);
      break;
    }
    plans.push_back(*plan);
    needed += shm::MemPoolAllocator::CommittedSizes(*plan, spec.chunk_count).total_bytes();
  }
  for (const shm::PoolGeometry& plan : plans) allocator.Forget(plan);
  if (!status.ok()) return status;
  for (const PoolChange& growth : grown) {
    const auto entry = Find(growth.name);
    if (!entry) return NotFound(growth.name);
    const shm::PoolView& view = *core_.manager->pool(entry->index);
    const uint32_t before = view.live_chunk_count();
    if (growth.chunk_count.value_or(0) <= before) continue;
    needed += shm::MemPoolAllocator::CommittedSizes(view, *growth.chunk_count).total_bytes() -
              shm::MemPoolAllocator::CommittedSizes(view, before).total_bytes();
  }
  const shm::MemoryBudget budget = shm::AvailableMemory(core_.manager->options().segment_dir);
  if (needed <= budget.available_bytes) return needed;
  const std::string resource =
      created.size() + grown.size() > 1
          ? "pools"
          : PoolResource(created.empty() ? grown.front().name : created.front().name);
  return OutOfMemory(resource, needed, budget);
}

absl::StatusOr<CreatedPool> PoolManager::Create(const shm::PoolSpec& wanted, CreateMode mode) {
  if (auto violations = shm::Validate(wanted); !violations.empty())
    return InvalidArgument(violations);
  MutexLock create_lock(create_mutex_);
  if (auto pool = Get(wanted.name); pool.ok()) return Existing(wanted, *pool, mode);
  if (List().size() >= shm::kMaxPools) {
    return MakeError(
        Reason::kPoolLimit,
        fmt::format("there are {} pools already, and an instance holds no more; use one of "
                    "them, or start another instance",
                    shm::kMaxPools),
        {{"resource", "pools"}, {"limit", std::to_string(shm::kMaxPools)}});
  }
  const shm::PoolSpec spec = shm::WithDefaults(wanted);
  const absl::StatusOr<uint64_t> needed = CheckSpaceSerially({&spec, 1}, {});
  if (!needed.ok()) return needed.status();
  if (mode.validate_only) return CreatedPool{{spec, "", std::nullopt, ""}, false};

  const auto start = std::chrono::steady_clock::now();
  SetCreating(spec);
  const shm::Result<uint32_t> index =
      core_.manager->CreatePool(spec, Reserving(spec.name, *needed));
  if (!index.ok()) SetCreating(std::nullopt);
  if (index.code() == shm::Code::kUnavailable) return Stopped(PoolResource(spec.name));
  if (index.code() == shm::Code::kNoMemory) {  // somebody else took it meanwhile
    spdlog::warn("pool {} was not created: {}", spec.name, index.status().message());
    return OutOfMemory(PoolResource(spec.name), *needed,
                       shm::AvailableMemory(core_.manager->options().segment_dir));
  }
  if (!index.ok()) return FromShm(index.status(), Resource::kPool, PoolResource(spec.name));
  const Entry entry = Learn(*index);
  {
    MutexLock lock(mutex_);
    entries_.emplace(spec.name, entry);
    creating_.reset();
  }
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  spdlog::info(
      "pool {} created: {} chunks of {} bytes, {} bytes of memory, room for {} chunks{}, in {:.1f} "
      "ms",
      spec.name, spec.chunk_count, spec.chunk_size_bytes, *needed, spec.max_chunk_count,
      spec.auto_grow ? ", grows by itself" : "", took.count());
  core_.events.Add(EventKind::kPoolChanged, PoolResource(spec.name),
                   fmt::format("created: {} chunks of {} bytes, room for {}", spec.chunk_count,
                               spec.chunk_size_bytes, spec.max_chunk_count));
  const absl::StatusOr<PoolInfo> pool = Get(spec.name);
  if (!pool.ok()) return pool.status();
  return CreatedPool{*pool, true};
}

absl::Status PoolManager::CheckUnused(const PoolInfo& pool, uint32_t index, bool drain) {
  const std::string resource = PoolResource(pool.spec.name);
  for (uint32_t other : core_.registry.List()) {
    const shm::ChannelRegistry::Channel& channel = *core_.registry.channel(other);
    if (channel.pool != index || (channel.closed && drain)) continue;
    return MakeError(
        Reason::kPoolInUse,
        fmt::format("{} is the pool of channel \"{}\"{}", resource, channel.spec.name,
                    channel.closed
                        ? ", which was deleted and still has members; let them close, or "
                          "set drain"
                        : "; delete that first"),
        {{"resource", resource}, {"channel", "channels/" + channel.spec.name}});
  }
  if (drain) return absl::OkStatus();
  shm::Census census;
  const std::vector<uint32_t> channels = core_.registry.List();
  for (uint32_t channel : channels)
    census.Add(channel, *core_.registry.channel(channel), *core_.manager, pool.spec.chunk_count);
  census.Finish();
  shm::HolderSums sums;
  std::vector<shm::Holding> holders;
  const shm::PoolView& view = *core_.manager->pool(index);
  uint64_t held = 0;
  for (uint32_t chunk = 0; chunk < view.live_chunk_count(); ++chunk) {
    census.HoldersOf(view, chunk, &holders);
    bool counts = false;
    for (const shm::Holding& holding : holders) {
      if (holding.phase == shm::HoldPhase::kCached) continue;
      sums.Add(view, holding);
      counts = true;
    }
    held += counts ? 1 : 0;
  }
  if (held == 0) return absl::OkStatus();
  return MakeError(Reason::kPoolInUse,
                   fmt::format("{} of the {} chunks of {} are held by {}; wait for them, or set "
                               "drain",
                               held, pool.spec.chunk_count, resource,
                               shm::DescribeHolders(sums, census, *core_.manager)),
                   {{"resource", resource}, {"heldChunkCount", std::to_string(held)}});
}

absl::StatusOr<std::optional<PoolInfo>> PoolManager::Delete(const PoolDeletion& deletion) {
  MutexLock create_lock(create_mutex_);
  const auto entry = Find(deletion.name);
  if (!entry) {
    if (deletion.allow_missing) return std::optional<PoolInfo>();
    return NotFound(deletion.name);
  }
  MutexLock growth_lock(growth_mutexes_[entry->index]);
  PoolInfo pool;
  {
    MutexLock lock(core_.mutex);
    pool = Describe(deletion.name, *entry);
    if (absl::Status status = CheckEtag(PoolResource(deletion.name), pool.etag, deletion.etag);
        !status.ok())
      return status;
    if (absl::Status status = CheckUnused(pool, entry->index, deletion.drain); !status.ok())
      return status;
    if (deletion.validate_only) return std::optional(pool);
    if (!pool.draining) {
      spdlog::info("pool {} is being deleted: {} chunks", deletion.name, pool.spec.chunk_count);
      drain_.Begin(entry->index);
    }
  }
  // Not under core.mutex. No Tick takes a step meanwhile: create_mutex_ is held.
  if (!pool.draining) core_.manager->SettleDrain(entry->index);
  MutexLock lock(core_.mutex);
  pool.draining = !Drain(deletion.name, entry->index);
  return std::optional(pool);
}

bool PoolManager::Drain(const std::string& name, uint32_t index) {
  for (uint32_t other : core_.registry.List()) {
    if (core_.registry.channel(other)->pool == index) return false;  // deleted, and has members yet
  }
  if (!drain_.Step(index, core_.attached)) return false;
  MutexLock lock(mutex_);
  entries_.erase(name);
  spdlog::info("pool {} deleted", name);
  core_.events.Add(EventKind::kPoolChanged, PoolResource(name), "deleted");
  return true;
}

void PoolManager::Tick() {
  if (!create_mutex_.try_lock()) return;  // a large pool is being created: later
  TickSerially();
  create_mutex_.unlock();
}

void PoolManager::TickSerially() {
  MutexLock lock(core_.mutex);
  drain_.FreeGaps(core_.attached);
  std::vector<std::pair<std::string, uint32_t>> draining;
  {
    MutexLock entries_lock(mutex_);
    for (const auto& [name, entry] : entries_) {
      if (!core_.manager->pool(entry.index)->IsOpen()) draining.emplace_back(name, entry.index);
    }
  }
  for (const auto& [name, index] : draining) Drain(name, index);
}

absl::Status PoolManager::BeingDeleted(const PoolInfo& pool) {
  const std::string resource = PoolResource(pool.spec.name);
  return MakeError(Reason::kPoolDraining,
                   fmt::format("{} is being deleted: it goes with its last chunk, and its name is "
                               "free then",
                               resource),
                   {{"resource", resource}});
}

absl::Status PoolManager::NotFound(std::string_view name) {
  return MakeError(Reason::kPoolNotFound,
                   fmt::format("there is no pool \"{}\"; ListPools shows those that are", name),
                   {{"resource", PoolResource(name)}});
}

absl::StatusOr<PoolInfo> PoolManager::Get(std::string_view name) {
  MutexLock lock(core_.mutex);
  if (auto entry = Find(name)) return Describe(std::string(name), *entry);
  MutexLock entries_lock(mutex_);
  if (creating_ && creating_->spec.name == name) return *creating_;
  return NotFound(name);
}

std::vector<PoolInfo> PoolManager::List() {
  MutexLock core_lock(core_.mutex);
  MutexLock lock(mutex_);
  std::vector<PoolInfo> pools;
  for (const auto& [name, entry] : entries_) pools.push_back(Describe(name, entry));
  if (creating_) pools.push_back(*creating_);
  std::sort(pools.begin(), pools.end(),
            [](const PoolInfo& a, const PoolInfo& b) { return a.spec.name < b.spec.name; });
  return pools;
}

absl::StatusOr<std::vector<PoolStats>> PoolManager::Stats(const std::vector<std::string>& names) {
  MutexLock core_lock(core_.mutex);
  std::map<std::string, uint32_t> wanted;
  for (const std::string& name : names) {
    const auto entry = Find(name);
    if (!entry) return NotFound(name);
    wanted.emplace(name, entry->index);
  }
  if (names.empty()) {
    MutexLock lock(mutex_);
    for (const auto& [name, entry] : entries_) wanted.emplace(name, entry.index);
  }
  std::vector<PoolStats> stats;
  stats.reserve(wanted.size());
  for (const auto& [name, index] : wanted) {
    stats.push_back(StatsOf(shm::Count(*core_.manager->pool(index))));
    stats.back().name = name;
  }
  return stats;
}

PoolStats PoolManager::StatsOf(const shm::PoolCounts& counts) {
  PoolStats stats;
  stats.name = NameOf(counts.pool);
  stats.counts = counts;
  if (counts.pool < shm::kMaxPools) {
    const shm::MemPool& shared = core_.manager->pool_entry(counts.pool);
    stats.loan_count = shared.loan_count.load(std::memory_order_relaxed);
    stats.exhausted_count = shared.exhausted_count.load(std::memory_order_relaxed);
    stats.recovered_chunk_count = shared.recovered_chunk_count.load(std::memory_order_relaxed);
  }
  return stats;
}

absl::StatusOr<uint32_t> PoolManager::IndexOf(std::string_view name) {
  if (auto entry = Find(name)) return entry->index;
  return NotFound(name);
}

std::string PoolManager::NameOf(uint32_t index) {
  MutexLock lock(mutex_);
  for (const auto& [name, entry] : entries_) {
    if (entry.index == index) return name;
  }
  return {};
}

MemoryUse PoolManager::Memory() const {
  const shm::MemPoolManager& manager = *core_.manager;
  const shm::MemPoolManager::CreateOptions& options = manager.options();
  return {Use(manager.management_segment(), shm::MemPoolManager::ManagementName(options.instance)),
          Use(manager.chunk_segment(), shm::MemPoolManager::ChunkName(options.instance))};
}

}  // namespace zerocp
