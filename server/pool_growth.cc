// How PoolManager grows pools: when it is told to, and by itself.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "server/error.h"
#include "server/pool_manager.h"
#include "shm/free_list.h"
#include "shm/memory_budget.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

constexpr std::chrono::seconds kWarnEvery{10};

}  // namespace

absl::StatusOr<PoolInfo> PoolManager::Update(const PoolChange& change, bool validate_only,
                                             PoolInfo* before) {
  for (;;) {
    const auto entry = Find(change.name);
    if (!entry) return NotFound(change.name);
    MutexLock growth_lock(growth_mutexes_[entry->index]);
    const auto again = Find(change.name);
    if (again && again->uid == entry->uid) return Change(change, validate_only, before);
  }
}

absl::StatusOr<PoolInfo> PoolManager::Change(const PoolChange& change, bool validate_only,
                                             PoolInfo* was) {
  absl::StatusOr<PoolInfo> pool = Get(change.name);
  if (!pool.ok()) return pool;
  if (was != nullptr) *was = *pool;
  const std::string resource = PoolResource(change.name);
  if (absl::Status status = CheckEtag(resource, pool->etag, change.etag); !status.ok())
    return status;
  if (pool->draining) return BeingDeleted(*pool);
  std::vector<shm::Violation> violations;
  for (const Difference& d : Differences(change.immutable, pool->spec)) {
    violations.push_back(
        {fmt::format("pool.{}", d.field),
         fmt::format("is immutable: the pool has {}, not {}", d.actual, d.wanted)});
  }
  if (!violations.empty()) return InvalidArgument(violations);
  const uint32_t before = pool->spec.chunk_count;
  const bool auto_grow = change.auto_grow.value_or(pool->spec.auto_grow);
  uint32_t wanted = change.chunk_count.value_or(before);
  if (auto_grow) wanted = std::max(wanted, before);  // it has grown beyond that by itself
  if (wanted < before) {
    return MakeError(
        Reason::kPoolShrinkUnsupported,
        fmt::format("{} has {} chunks, and a pool never shrinks to {}; leave it, or create another",
                    resource, before, wanted),
        {{"resource", resource},
         {"chunkCount", std::to_string(before)},
         {"requestedChunkCount", std::to_string(wanted)}});
  }
  if (wanted > pool->spec.max_chunk_count) {
    return InvalidArgument({{"pool.chunk_count", fmt::format("is {}, more than the pool's "
                                                             "max_chunk_count of {}",
                                                             wanted, pool->spec.max_chunk_count)}});
  }
  if (absl::Status status = Grow(*pool, wanted, validate_only, "grown"); !status.ok())
    return status;
  if (validate_only) {
    pool->spec.chunk_count = wanted;
    pool->spec.auto_grow = auto_grow;
    return pool;
  }
  if (auto_grow != pool->spec.auto_grow) SetAutoGrow(change.name, auto_grow);
  return Get(change.name);
}

absl::Status PoolManager::Grow(const PoolInfo& pool, uint32_t chunk_count, bool validate_only,
                               std::string_view how) {
  const std::string& name = pool.spec.name;
  const std::string resource = PoolResource(name);
  const uint32_t before = pool.spec.chunk_count;
  if (chunk_count == before) return absl::OkStatus();
  const uint32_t index = Find(name)->index;
  // Goes with the growth mutex only.
  const shm::PoolView& view = *core_.manager->pool(index);
  const uint64_t needed = shm::MemPoolAllocator::CommittedSizes(view, chunk_count).total_bytes() -
                          shm::MemPoolAllocator::CommittedSizes(view, before).total_bytes();
  const auto budget = [this] { return shm::AvailableMemory(core_.manager->options().segment_dir); };
  if (const auto there = budget(); needed > there.available_bytes)
    return OutOfMemory(resource, needed, there);
  if (validate_only) return absl::OkStatus();
  const shm::Status grown = core_.manager->GrowPool(index, chunk_count, Reserving(name, needed));
  if (grown.code() == shm::Code::kUnavailable) return Stopped(resource);
  if (grown.code() == shm::Code::kNoMemory)  // somebody else took it meanwhile
    return OutOfMemory(resource, needed, budget());
  if (!grown.ok()) return FromShm(grown, Resource::kPool, resource);
  spdlog::info("pool {} {}: {} chunks, {} before, {} bytes of memory more", name, how, chunk_count,
               before, needed);
  core_.events.Add(EventKind::kPoolChanged, resource,
                   fmt::format("{}: {} chunks, {} before", how, chunk_count, before));
  return absl::OkStatus();
}

void PoolManager::SetAutoGrow(const std::string& name, bool value) {
  MutexLock lock(mutex_);
  Entry& entry = entries_.find(name)->second;
  entry.auto_grow = value;
  entry.next_growth = {};
  core_.manager->SetAutoGrow(entry.index, value ? shm::AutoGrow::kOn : shm::AutoGrow::kOff);
  const std::string text =
      value ? "grows by itself from now on" : "does not grow by itself any more";
  spdlog::info("pool {} {}", name, text);
  core_.events.Add(EventKind::kPoolChanged, PoolResource(name), text);
}

// Of the shared words only pressure and hints are believed, and that as far as the pool may grow.
bool PoolManager::NeedsGrowth(Entry& entry) const {
  const shm::PoolView& view = *core_.manager->pool(entry.index);
  const bool grows = Mutant(49) ? view.shared->auto_grow.load() != 0 : entry.auto_grow;
  if (!grows || !view.IsOpen() || std::chrono::steady_clock::now() < entry.next_growth)
    return false;
  // A pause is over. Else nothing is stored: clients read this line.
  if (view.shared->auto_grow.load() != static_cast<uint8_t>(shm::AutoGrow::kOn))
    core_.manager->SetAutoGrow(entry.index, shm::AutoGrow::kOn);
  return view.live_chunk_count() < view.max_chunk_count && view.shared->pressure.load() != 0 &&
         shm::FreeList::FindGroup(view.hints, 0) == shm::FreeList::kNone;
}

std::optional<PoolInfo> PoolManager::FindToGrow(const std::string& name, uint32_t index) {
  MutexLock core_lock(core_.mutex);
  MutexLock lock(mutex_);
  const auto found = entries_.find(name);
  if (found == entries_.end() || found->second.index != index || !NeedsGrowth(found->second))
    return std::nullopt;
  return Describe(name, found->second);
}

void PoolManager::GrowExhausted() {
  std::vector<std::pair<std::string, uint32_t>> pools;
  {
    MutexLock core_lock(core_.mutex);
    MutexLock lock(mutex_);
    for (auto& [name, entry] : entries_) {
      if (NeedsGrowth(entry)) pools.emplace_back(name, entry.index);
    }
  }
  for (const auto& [name, index] : pools) GrowByItself(name, index);
}

void PoolManager::GrowByItself(const std::string& name, uint32_t index) {
  Mutex& mutex = growth_mutexes_[index];
  if (!mutex.try_lock()) return;  // somebody grows or deletes it; the other pools go on
  if (const auto pool = FindToGrow(name, index)) GrowByOneStep(*pool, index);
  mutex.unlock();
}

void PoolManager::GrowByOneStep(const PoolInfo& pool, uint32_t index) {
  const uint32_t before = pool.spec.chunk_count;
  const uint64_t most = std::max<uint64_t>(kGrowBytes / pool.spec.chunk_size_bytes, 1);
  const uint64_t quarter = std::max(before / 4, 1u);
  const uint32_t room = pool.spec.max_chunk_count - before;
  absl::Status status;
  for (auto more = static_cast<uint32_t>(std::min({quarter, most, uint64_t{room}})); more > 0;
       more /= 2) {
    status = Grow(pool, before + more, false, "grown by itself");
    if (status.ok()) return;
  }
  MutexLock lock(mutex_);
  Entry& entry = entries_.find(pool.spec.name)->second;
  const auto now = std::chrono::steady_clock::now();
  entry.next_growth = now + kGrowPause;
  core_.manager->SetAutoGrow(index, shm::AutoGrow::kPaused);
  core_.manager->WakeLoans(index);
  if (now < entry.next_warning) return;
  entry.next_warning = now + kWarnEvery;
  spdlog::warn("pool {} has no free chunk and cannot grow by itself: {}", pool.spec.name,
               std::string(status.message()));
}

}  // namespace zerocp
