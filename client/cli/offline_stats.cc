#include "client/cli/offline_stats.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <sstream>
#include <utility>
#include <vector>

#include "client/cli/exit_code.h"
#include "client/cli/output.h"
#include "client/cli/table.h"
#include "client/cli/words.h"
#include "shm/audit.h"
#include "shm/census.h"
#include "shm/channel_registry.h"
#include "shm/mem_pool_manager.h"
#include "shm/memory_budget.h"
#include "shm/runtime_dir.h"
#include "zerocp/v1/observer_service.pb.h"

namespace zerocp::cli {
namespace {

using shm::Code;
using shm::MemPoolManager;
using shm::Result;
using shm::SessionState;
using shm::Status;

constexpr size_t kShownHolderLines = 10;  // per pool

int Failed(const Status& status) {
  Failed(kFailed, status.message());
  switch (status.code()) {
    case Code::kNotFound:
    case Code::kUnavailable:
      return kNoSegments;
    case Code::kDenied:
      return kNotPermitted;
    case Code::kVersionMismatch:
      return kOtherLayout;
    case Code::kDamaged:
      return kDamagedSegments;
    case Code::kInvalid:
      return kUsage;
    default:
      return kFailed;
  }
}

// A name in a segment, which anybody may have written.
std::string NameText(const char* name, size_t size) {
  return Printable(std::string(name, strnlen(name, size)));
}

// The instances that may be meant, in the order in which clients look for their daemons.
std::vector<std::string> CandidateInstances(const OfflineOptions& options,
                                            const std::string& runtime_dir) {
  std::vector<std::string> names;
  if (options.instance) names.push_back(*options.instance);
  for (const std::string& dir : shm::CandidateRuntimeDirs(runtime_dir)) {
    const std::unique_ptr<char, decltype(&std::free)> resolved(realpath(dir.c_str(), nullptr),
                                                               &std::free);
    names.push_back(shm::InstanceNameFor(resolved != nullptr ? resolved.get() : dir));
  }
  return names;
}

// The first that is there. kNotFound names every path tried.
Result<std::unique_ptr<MemPoolManager>> Open(const OfflineOptions& options,
                                             const std::string& runtime_dir) {
  std::string tried;
  for (const std::string& instance : CandidateInstances(options, runtime_dir)) {
    MemPoolManager::CreateOptions wanted;
    wanted.segment_dir = options.segment_dir;
    wanted.instance = instance;
    std::string path = options.segment_dir;
    path.append("/").append(MemPoolManager::ManagementName(instance));
    Result<std::unique_ptr<MemPoolManager>> opened = MemPoolManager::Inspect(wanted);
    if (opened.ok()) return opened;
    if (opened.code() != Code::kNotFound) {
      const std::string& message = opened.status().message();
      const bool named = message.find(path) != std::string::npos;
      return named ? opened.status() : Status(opened.code(), path.append(": ").append(message));
    }
    tried.append(tried.empty() ? "" : ", ").append(path);
  }
  return Status(Code::kNotFound,
                "there are no segments; looked for " + tried +
                    " (--runtime-dir, --instance and --segment-dir as for zerocpd say where)");
}

// "a daemon is alive, process 77": whoever holds the lock on the segment, or the one that it names.
std::string DaemonText(const MemPoolManager& manager) {
  struct stat info {};
  if (fstat(manager.management_segment().fd(), &info) != 0) return "the segment is gone";
  const shm::LockIdentity named = manager.lock();
  Result<pid_t> pid = shm::FileLockHolder(info.st_dev, info.st_ino);
  if (pid.ok() && *pid == 0) pid = shm::FileLockHolder(named.device, named.inode);
  if (!pid.ok()) return "whether a daemon is alive is unknown: " + pid.status().message();
  return *pid != 0 ? "a daemon is alive, process " + std::to_string(*pid) : "no daemon is alive";
}

std::string Header(const MemPoolManager& manager) {
  const std::string& instance = manager.options().instance;
  return "read offline: " + manager.management_segment().path() + ", instance " +
         (instance.empty() ? "(default)" : instance) + ": " + DaemonText(manager) + "\n";
}

v1::PoolStats ToProto(const shm::PoolView& pool) {
  const shm::PoolCounts counts = shm::Count(pool);
  v1::PoolStats proto;
  proto.set_pool("pools/" + pool.name);
  proto.set_chunk_count(static_cast<int64_t>(counts.chunk_count));
  proto.set_free_chunk_count(static_cast<int64_t>(counts.free_count));
  proto.set_cached_chunk_count(static_cast<int64_t>(counts.cached_count));
  proto.set_writing_chunk_count(static_cast<int64_t>(counts.writing_count));
  proto.set_shared_chunk_count(static_cast<int64_t>(counts.shared_count));
  proto.set_min_free_chunk_count_1m(static_cast<int64_t>(counts.free_count));
  constexpr auto kOrder = std::memory_order_relaxed;
  proto.set_loan_count(static_cast<int64_t>(pool.shared->loan_count.load(kOrder)));
  proto.set_exhausted_count(static_cast<int64_t>(pool.shared->exhausted_count.load(kOrder)));
  proto.set_recovered_chunk_count(
      static_cast<int64_t>(pool.shared->recovered_chunk_count.load(kOrder)));
  return proto;
}

// Samples that subscribers hold, by channel number and index.
using HeldCounts = std::map<std::pair<uint16_t, uint8_t>, int32_t>;

v1::ChannelStats ToProto(const shm::ChannelRegistry& registry,
                         const shm::ChannelRegistry::Channel& channel, const HeldCounts& held,
                         const MemPoolManager& manager) {
  v1::ChannelStats proto;
  proto.set_channel("channels/" + channel.spec.name);
  proto.set_publisher_count(static_cast<int32_t>(shm::ChannelRegistry::PublisherCount(channel)));
  proto.set_published_count(static_cast<int64_t>(registry.PublishedCount(channel)));
  proto.set_waited_count(static_cast<int64_t>(registry.WaitedCount(channel)));
  std::vector<v1::SubscriberStats> subscribers;
  for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
    const auto& subscriber = channel.subscribers[k];
    if (subscriber.session == 0) continue;
    v1::SubscriberStats line;
    line.set_subscriber(proto.channel() + "/subscribers/" + std::to_string(k) + "-" +
                        std::to_string(subscriber.epoch));
    const shm::SessionEntry& session = manager.session_entry(subscriber.session);
    line.set_client_name(NameText(session.name, sizeof(session.name)));
    const auto counts = registry.CountsOf(channel, k);
    line.set_queued_count(static_cast<int64_t>(counts.queued_count));
    line.set_state(shm::ChannelRegistry::IsStopped(channel, k) ? v1::SubscriberStats::STATE_DETACHED
                                                               : v1::SubscriberStats::STATE_ACTIVE);
    line.set_fullest_queued_count(static_cast<int64_t>(counts.fullest_count));
    line.set_queue_capacity(static_cast<int32_t>(subscriber.queue_capacity));
    const auto holds =
        held.find({static_cast<uint16_t>(channel.index + 1), static_cast<uint8_t>(k)});
    line.set_held_count(holds == held.end() ? 0 : holds->second);
    line.set_taken_count(static_cast<int64_t>(counts.taken_count));
    line.set_missed_count(static_cast<int64_t>(counts.missed_count));
    subscribers.push_back(std::move(line));
  }
  std::stable_sort(subscribers.begin(), subscribers.end(), [](const auto& a, const auto& b) {
    return a.queued_count() > b.queued_count();
  });
  for (v1::SubscriberStats& line : subscribers) *proto.add_subscribers() = std::move(line);
  return proto;
}

void AddSegment(v1::Stats& stats, v1::Segment::Kind kind, const shm::Segment& segment,
                const std::string& name, uint64_t available_bytes) {
  struct stat info {};
  const bool known = fstat(segment.fd(), &info) == 0;
  v1::Segment& proto = *stats.add_segments();
  proto.set_kind(kind);
  proto.set_shm_name(name);
  proto.set_size_bytes(known ? int64_t{info.st_blocks} * 512 : 0);
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
  proto.set_free_size_bytes(static_cast<int64_t>(std::min(available_bytes, kMost)));
}

// The pools that are there, in name order.
std::map<std::string, const shm::PoolView*> PoolsOf(MemPoolManager& manager) {
  std::map<std::string, const shm::PoolView*> pools;
  for (uint32_t index = 0; index < shm::kMaxPools; ++index) {
    if (const shm::PoolView* pool = manager.pool(index)) pools.emplace(pool->name, pool);
  }
  return pools;
}

shm::Census CensusOf(MemPoolManager& manager, shm::ChannelRegistry& registry) {
  size_t chunks = 0;
  for (const auto& [name, pool] : PoolsOf(manager)) chunks += pool->live_chunk_count();
  shm::Census census;
  for (uint32_t index : registry.List())
    census.Add(index, *registry.channel(index), manager, chunks);
  census.Finish();
  return census;
}

HeldCounts HeldBySubscribers(MemPoolManager& manager, const shm::Census& census) {
  HeldCounts held;
  std::vector<shm::Holding> holders;
  for (const auto& [name, pool] : PoolsOf(manager)) {
    for (uint32_t chunk = 0; chunk < pool->live_chunk_count(); ++chunk) {
      census.HoldersOf(*pool, chunk, &holders);
      for (const shm::Holding& h : holders) {
        if (census.IsSample(h)) ++held[{h.channel, h.subscriber}];
      }
    }
  }
  return held;
}

v1::GetStatsResponse StatsOf(MemPoolManager& manager, shm::ChannelRegistry& registry,
                             const shm::Census& census) {
  v1::GetStatsResponse response;
  v1::Stats& stats = *response.mutable_stats();
  const auto now_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                          std::chrono::system_clock::now().time_since_epoch())
                          .count();
  stats.mutable_read_time()->set_seconds(now_ns / 1'000'000'000);
  stats.mutable_read_time()->set_nanos(static_cast<int32_t>(now_ns % 1'000'000'000));
  for (const auto& [name, pool] : PoolsOf(manager)) *stats.add_pools() = ToProto(*pool);
  const std::string& instance = manager.options().instance;
  const uint64_t available = shm::AvailableMemory(manager.options().segment_dir).available_bytes;
  AddSegment(stats, v1::Segment::KIND_MANAGEMENT, manager.management_segment(),
             MemPoolManager::ManagementName(instance), available);
  AddSegment(stats, v1::Segment::KIND_CHUNK, manager.chunk_segment(),
             MemPoolManager::ChunkName(instance), available);
  int32_t attached = 0;
  int32_t orphaned = 0;
  for (uint32_t id = shm::kFirstSession; id < manager.session_capacity(); ++id) {
    const auto state = manager.session_entry(static_cast<uint16_t>(id)).state.load();
    if (state == static_cast<uint32_t>(SessionState::kAttached)) ++attached;
    if (state == static_cast<uint32_t>(SessionState::kOrphaned)) ++orphaned;
  }
  stats.set_attached_session_count(attached);
  stats.set_orphaned_session_count(orphaned);
  const HeldCounts held = HeldBySubscribers(manager, census);
  for (uint32_t index : registry.List()) {
    const shm::ChannelRegistry::Channel& channel = *registry.channel(index);
    if (!channel.closed) *stats.add_channels() = ToProto(registry, channel, held, manager);
  }
  return response;
}

// True if the process that attached still runs: same id, same start.
bool IsAlive(const shm::SessionEntry& session) {
  std::ifstream file("/proc/" + std::to_string(session.pid) + "/stat");
  std::string text;  // the process may end meanwhile: getline() does not throw
  std::getline(file, text, '\0');
  const size_t name_end = text.rfind(')');  // the name may hold anything
  if (name_end == std::string::npos) return false;
  std::istringstream fields(text.substr(name_end + 1));
  std::string state, skipped;
  fields >> state;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  uint64_t start_time = 0;
  return fields >> start_time && start_time == session.start_time && state != "Z" && state != "X";
}

std::string StateText(uint32_t state) {
  constexpr std::array<const char*, 5> kNames{"free", "attached", "dead", "orphaned", "revoked"};
  return state < kNames.size() ? kNames[state] : "impossible";
}

std::string SessionTable(MemPoolManager& manager) {
  const std::vector<uint64_t> held = shm::HeldCounts(manager);
  Table table({">SESSION", "CLIENT", "STATE", ">PID", ">UID", "PROCESS", ">CHUNKS HELD"});
  for (uint32_t id = shm::kFirstSession; id < manager.session_capacity(); ++id) {
    const shm::SessionEntry& entry = manager.session_entry(static_cast<uint16_t>(id));
    const uint32_t state = entry.state.load(std::memory_order_acquire);
    if (state == static_cast<uint32_t>(SessionState::kFree)) continue;
    table.Add({std::to_string(id), NameText(entry.name, sizeof(entry.name)), StateText(state),
               std::to_string(entry.pid), std::to_string(entry.uid),
               IsAlive(entry) ? "alive" : "gone", std::to_string(held[id])});
  }
  return table.ToString();
}

// Who holds most of each pool.
std::string HolderTable(MemPoolManager& manager, const shm::Census& census) {
  const auto pools = PoolsOf(manager);
  Table table({"POOL", ">CHUNKS", "PHASE", "CHANNEL", ">SESSION", "CLIENT"});
  std::vector<shm::Holding> holders;
  for (const auto& [name, pool] : pools) {
    shm::HolderSums sums;
    for (uint32_t chunk = 0; chunk < pool->live_chunk_count(); ++chunk) {
      census.HoldersOf(*pool, chunk, &holders);
      for (const shm::Holding& holding : holders) sums.Add(*pool, holding);
    }
    for (const shm::HolderSum& sum : sums.Largest(kShownHolderLines)) {
      const bool known =
          sum.session >= shm::kFirstSession && sum.session < manager.session_capacity();
      const shm::SessionEntry* entry = known ? &manager.session_entry(sum.session) : nullptr;
      table.Add({name, std::to_string(sum.chunk_count), shm::Name(sum.phase),
                 census.ChannelName(sum.channel),
                 sum.session == 0 ? "" : std::to_string(sum.session),
                 known ? NameText(entry->name, sizeof(entry->name)) : ""});
    }
    if (sums.size() > kShownHolderLines) {
      table.Add({name, "", "and " + std::to_string(sums.size() - kShownHolderLines) + " more", "",
                 "", ""});
    }
  }
  return table.ToString();
}

}  // namespace

int OfflineStats(const OfflineOptions& options, const std::string& runtime_dir, Format format) {
  Result<std::unique_ptr<MemPoolManager>> opened = Open(options, runtime_dir);
  if (!opened.ok()) return Failed(opened.status());
  MemPoolManager& manager = **opened;
  shm::ChannelRegistry registry(manager);
  const Status damage = registry.Inspect();
  if (format != Format::kTable) {
    std::fputs(Header(manager).c_str(), stderr);
  } else {
    Print(Header(manager));
  }
  const shm::Census census = CensusOf(manager, registry);
  const int shown =
      Show(WordNamed("stats"), v1::GetStatsRequest(), StatsOf(manager, registry, census), format);
  if (format == Format::kTable)
    Print("\n" + SessionTable(manager) + "\n" + HolderTable(manager, census));
  if (damage.ok()) return shown;
  return Failed(Status(
      damage.code(), "what is damaged is left out; no daemon starts over it: " + damage.message()));
}

}  // namespace zerocp::cli
