#include "server/channel_manager.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>

#include "server/error.h"
#include "shm/memory_budget.h"

namespace zerocp {
namespace {

using Channel = shm::ChannelRegistry::Channel;

// Nothing of a channel can change: the uid tells it from one that is created anew with its name.
std::string Etag(const Channel& channel) {
  return fmt::format("\"{}\"", UuidText(channel.uid).substr(0, 8));
}

ChannelInfo Describe(const Channel& channel) {
  return {channel.spec, channel.geometry.max_subscriber_count, Etag(channel)};
}

// The channel as it would be.
ChannelInfo Preview(shm::ChannelSpec spec, const shm::PoolView& pool) {
  const uint16_t subscribers = shm::ChannelRegistry::MaxSubscribers(pool, spec.history_count);
  return {ChannelManager::WithDefaults(std::move(spec)), subscribers, ""};
}

absl::StatusOr<CreatedChannel> Existing(const shm::ChannelSpec& wanted, const Channel& channel,
                                        CreateMode mode) {
  std::string difference;
  for (const ChannelManager::Difference& d : ChannelManager::Differences(wanted, channel.spec)) {
    difference +=
        fmt::format("{}{} {}, not {}", difference.empty() ? "" : ", ", d.field, d.actual, d.wanted);
  }
  if (mode.allow_existing && difference.empty()) return CreatedChannel{Describe(channel), false};
  return MakeError(Reason::kChannelAlreadyExists,
                   fmt::format("channel \"{}\" exists already{}; choose another name{}",
                               wanted.name, difference.empty() ? "" : " with " + difference,
                               difference.empty() ? " or set allow_existing" : ""),
                   {{"resource", ChannelResource(wanted.name)}});
}

absl::Status NotFound(std::string_view name) {
  return MakeError(
      Reason::kChannelNotFound,
      fmt::format("there is no channel \"{}\"; ListChannels shows those that are", name),
      {{"resource", ChannelResource(name)}});
}

}  // namespace

std::string_view NameOf(shm::WhenFull when_full) {
  return when_full == shm::WhenFull::kWait ? "WHEN_FULL_WAIT" : "WHEN_FULL_DROP_OLDEST";
}

shm::ChannelSpec ChannelManager::WithDefaults(shm::ChannelSpec spec) {
  if (spec.queue_capacity == 0) spec.queue_capacity = shm::kDefaultQueueCapacity;
  spec.queue_capacity = std::bit_ceil(spec.queue_capacity);
  return spec;
}

std::vector<ChannelManager::Difference> ChannelManager::Differences(
    const shm::ChannelSpec& wanted, const shm::ChannelSpec& actual) {
  std::vector<Difference> differences;
  const auto compare = [&](const char* field, const auto& wants, const auto& has) {
    if (wants != has)
      differences.push_back({field, fmt::format("{}", wants), fmt::format("{}", has)});
  };
  const auto quoted = [](const std::string& text) { return '"' + text + '"'; };
  compare("pool", quoted(wanted.pool), quoted(actual.pool));
  if (wanted.queue_capacity != 0)
    compare("queue_capacity", std::bit_ceil(wanted.queue_capacity), actual.queue_capacity);
  compare("when_full", NameOf(wanted.when_full), NameOf(actual.when_full));
  compare("max_held_count", wanted.max_held_count, actual.max_held_count);
  compare("history_count", wanted.history_count, actual.history_count);
  compare("message_type", quoted(wanted.message_type), quoted(actual.message_type));
  return differences;
}

std::string ChannelResource(std::string_view name) { return "channels/" + std::string(name); }

std::string SubscriberResource(const SubscriberName& name) {
  return fmt::format("channels/{}/subscribers/{}-{}", name.channel, name.index, name.epoch);
}

absl::Status ChannelManager::CheckSpace(const ChannelInfo& channel) {
  const shm::ChannelGeometry geometry{0, channel.spec.queue_capacity,
                                      static_cast<uint16_t>(channel.max_subscriber_count)};
  const uint64_t needed = shm::ExtentMap::RoundUp(geometry.region_bytes());
  shm::ExtentMap& extents = core_.manager->allocator().management_extents();
  const shm::Result<uint64_t> offset = extents.Allocate(needed);
  if (!offset.ok()) {
    return MakeError(
        Reason::kSegmentFull,
        fmt::format("channel \"{}\": {}", channel.spec.name, offset.status().message()),
        {{"resource", ChannelResource(channel.spec.name)},
         {"requestedBytes", std::to_string(needed)},
         {"availableBytes", std::to_string(extents.free_bytes())},
         {"limitedBy", "address range"}});
  }
  extents.Free(*offset);
  const shm::MemoryBudget budget = shm::AvailableMemory(core_.manager->options().segment_dir);
  if (needed > budget.available_bytes) {
    return OutOfMemory(ChannelResource(channel.spec.name), needed, budget);
  }
  return absl::OkStatus();
}

absl::StatusOr<CreatedChannel> ChannelManager::Create(const shm::ChannelSpec& wanted,
                                                      CreateMode mode) {
  if (auto violations = shm::Validate(wanted); !violations.empty())
    return InvalidArgument(violations);
  MutexLock lock(core_.mutex);
  if (const Channel* channel = core_.registry.Find(wanted.name))
    return Existing(wanted, *channel, mode);
  const shm::PoolView* pool = core_.manager->FindPool(wanted.pool);
  if (pool == nullptr) {
    return MakeError(Reason::kPoolNotFound,
                     fmt::format("channel \"{}\": there is no pool \"{}\"; create it first",
                                 wanted.name, wanted.pool),
                     {{"resource", PoolResource(wanted.pool)}});
  }
  if (!pool->IsOpen()) {
    return MakeError(
        Reason::kPoolDraining,
        fmt::format("channel \"{}\": pool \"{}\" is being deleted", wanted.name, wanted.pool),
        {{"resource", PoolResource(wanted.pool)}});
  }
  if (core_.registry.List().size() >= shm::kMaxChannels) {
    return MakeError(Reason::kChannelLimit,
                     fmt::format("there are {} channels already, and an instance holds no more",
                                 shm::kMaxChannels),
                     {{"resource", "channels"}, {"limit", std::to_string(shm::kMaxChannels)}});
  }
  const ChannelInfo preview = Preview(wanted, *pool);
  if (absl::Status status = CheckSpace(preview); !status.ok()) return status;
  if (mode.validate_only) return CreatedChannel{preview, false};

  const shm::Result<uint32_t> index = core_.registry.Create(wanted);
  if (!index.ok()) return FromShm(index.status(), Resource::kChannel, ChannelResource(wanted.name));
  const ChannelInfo info = Describe(*core_.registry.channel(*index));
  spdlog::info("channel {} created: pool {}, queue of {}, {}, at most {} subscribers",
               info.spec.name, info.spec.pool, info.spec.queue_capacity,
               NameOf(info.spec.when_full), info.max_subscriber_count);
  core_.events.Add(EventKind::kChannelChanged, ChannelResource(info.spec.name),
                   fmt::format("created: pool {}, queue of {}, {}", info.spec.pool,
                               info.spec.queue_capacity, NameOf(info.spec.when_full)));
  return CreatedChannel{info, true};
}

absl::StatusOr<ChannelInfo> ChannelManager::Get(std::string_view name) {
  MutexLock lock(core_.mutex);
  if (const Channel* channel = core_.registry.Find(name)) return Describe(*channel);
  return NotFound(name);
}

absl::Status ChannelManager::Delete(std::string_view name, bool even_if_in_use, bool allow_missing,
                                    std::string_view etag) {
  MutexLock lock(core_.mutex);
  const Channel* channel = core_.registry.Find(name);
  if (channel == nullptr) return allow_missing ? absl::OkStatus() : NotFound(name);
  if (absl::Status status = CheckEtag(ChannelResource(name), Etag(*channel), etag); !status.ok())
    return status;
  const uint32_t publishers = shm::ChannelRegistry::PublisherCount(*channel);
  const uint32_t subscribers = shm::ChannelRegistry::SubscriberCount(*channel);
  if (!even_if_in_use && publishers + subscribers > 0) {
    return MakeError(
        Reason::kChannelInUse,
        fmt::format("channel \"{}\" has {} and {}; let them close, or set even_if_in_use", name,
                    Counted(publishers, "publisher"), Counted(subscribers, "subscriber")),
        {{"resource", ChannelResource(name)},
         {"publisherCount", std::to_string(publishers)},
         {"subscriberCount", std::to_string(subscribers)}});
  }
  if (const shm::Status closed = core_.registry.Close(name); !closed.ok())
    return FromShm(closed, Resource::kChannel, ChannelResource(name));
  core_.registry.RetireLanes();  // without members it is gone now
  const std::string told =
      fmt::format("deleted: {} and {} were told", Counted(publishers, "publisher"),
                  Counted(subscribers, "subscriber"));
  spdlog::info("channel {} {}", name, told);
  core_.events.Add(EventKind::kChannelChanged, ChannelResource(name), told);
  return absl::OkStatus();
}

absl::StatusOr<ChannelManager::Detached> ChannelManager::DetachSubscriber(
    const SubscriberName& name) {
  MutexLock lock(core_.mutex);
  const Channel* channel = core_.registry.Find(name.channel);
  const bool there = channel != nullptr && name.index < channel->subscribers.size();
  const uint64_t queued = there ? core_.registry.QueuedCount(*channel, name.index) : 0;
  const bool stopped = there && shm::ChannelRegistry::IsStopped(*channel, name.index);
  if (!there || !core_.registry.StopSubscriber(channel->index, name.index, name.epoch).ok()) {
    return MakeError(Reason::kSubscriberNotFound,
                     fmt::format("there is no subscriber \"{}\"; GetStats shows those that are",
                                 SubscriberResource(name)),
                     {{"resource", SubscriberResource(name)}});
  }
  if (stopped) return Detached{queued, true};
  spdlog::warn("{} of session id {} detached by an operator; {} waited for it",
               SubscriberResource(name), channel->subscribers[name.index].session,
               Counted(queued, "message"));
  core_.events.Add(EventKind::kChannelChanged, ChannelResource(name.channel),
                   fmt::format("{} detached by an operator; {} waited for it",
                               SubscriberResource(name), Counted(queued, "message")));
  return Detached{queued, false};
}

std::vector<ChannelInfo> ChannelManager::List(std::string_view after, size_t limit) {
  MutexLock lock(core_.mutex);
  std::vector<ChannelInfo> channels;
  for (uint32_t index : core_.registry.List()) {
    const Channel& channel = *core_.registry.channel(index);
    if (channel.closed || channel.spec.name <= after) continue;
    if (channels.size() == limit) break;
    channels.push_back(Describe(channel));
  }
  return channels;
}

std::vector<ChannelStats> ChannelManager::Stats() {
  MutexLock lock(core_.mutex);
  std::vector<ChannelStats> all;
  for (uint32_t index : core_.registry.List()) {
    const Channel& channel = *core_.registry.channel(index);
    if (channel.closed) continue;
    ChannelStats stats{channel.spec.name,
                       index,
                       shm::ChannelRegistry::PublisherCount(channel),
                       core_.registry.PublishedCount(channel),
                       core_.registry.WaitedCount(channel),
                       {}};
    for (uint32_t i = 0; i < channel.subscribers.size(); ++i) {
      const uint16_t session = channel.subscribers[i].session;
      if (session == 0) continue;
      const auto counts = core_.registry.CountsOf(channel, i);
      SubscriberStats line;
      line.index = i;
      line.epoch = channel.subscribers[i].epoch;
      line.session = session;
      line.detached = shm::ChannelRegistry::IsStopped(channel, i);
      line.queued_count = counts.queued_count;
      line.fullest_queued_count = counts.fullest_count;
      line.queue_capacity = channel.subscribers[i].queue_capacity;
      line.taken_count = counts.taken_count;
      line.missed_count = counts.missed_count;
      stats.subscribers.push_back(line);
    }
    std::stable_sort(stats.subscribers.begin(), stats.subscribers.end(),
                     [](const SubscriberStats& a, const SubscriberStats& b) {
                       return a.queued_count > b.queued_count;
                     });
    all.push_back(std::move(stats));
  }
  return all;
}

shm::AuditReport ChannelManager::Audit() {
  MutexLock lock(core_.mutex);
  shm::AuditReport report = shm::Audit(*core_.manager, core_.registry, core_.attached);
  if (!report.violations.empty()) {
    const auto& first = report.violations.front();
    core_.events.Add(EventKind::kDamageFound, "",
                     fmt::format("an audit found {} invariants broken; the first: {}: {}",
                                 report.violations.size(), first.invariant, first.detail));
  }
  return report;
}

}  // namespace zerocp
