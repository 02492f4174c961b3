// How ChannelRegistry reads the channels of an instance that another daemon has left, or still
// runs.
#include <string.h>

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "shm/channel_registry.h"
#include "shm/mutant.h"

namespace zerocp::shm {
namespace {

// A fixed-size text field that a stranger may have filled without a NUL.
std::string ReadText(const char* text, size_t size) {
  return std::string(text, strnlen(text, size));
}

}  // namespace

Status ChannelRegistry::Adopt() {
  Status first_damage = Inspect();
  for (auto& channel : channels_) {
    if (channel) Announce(*channel);
  }
  return first_damage;
}

Status ChannelRegistry::Inspect() {
  Status first_damage;
  for (uint32_t index = 0; index < kMaxChannels; ++index) {
    if (manager_.channel_entry(index).state.load(
            std::memory_order_acquire) ==  // PAIR channel.state
        static_cast<uint32_t>(ChannelState::kFree)) {
      continue;
    }
    Status status = ReadChannel(index);
    if (!status.ok() && first_damage.ok()) first_damage = status;
  }
  return first_damage;
}

Status ChannelRegistry::ReadChannel(uint32_t index) {
  const ChannelEntry& entry = manager_.channel_entry(index);
  Channel channel;
  channel.spec.name = ReadText(entry.name, sizeof(entry.name));
  channel.spec.message_type = ReadText(entry.message_type, sizeof(entry.message_type));
  channel.spec.queue_capacity = entry.queue_capacity;
  channel.spec.when_full = static_cast<WhenFull>(entry.when_full);
  channel.spec.max_held_count = entry.max_held_count;
  channel.spec.history_count = entry.history_count;
  channel.pool = entry.pool;
  const PoolView* pool = manager_.pool(channel.pool);
  const auto damaged = [&](const std::string& what) {
    return Status(Code::kDamaged, "channel " + std::to_string(index) + ": " + what);
  };
  const uint32_t state = entry.state.load(std::memory_order_acquire);
  channel.index = index;
  channel.closed = state == static_cast<uint32_t>(ChannelState::kClosed);
  if (state > static_cast<uint32_t>(ChannelState::kClosed))
    return damaged("its state is impossible");
  if (pool == nullptr) return damaged("its pool does not exist");
  channel.spec.pool = pool->name;
  channel.geometry = {entry.region_offset, entry.queue_capacity, entry.max_subscriber_count};
  if (!shm::Validate(channel.spec).empty() ||
      (!channel.closed && Find(channel.spec.name) != nullptr) ||
      channel.spec.when_full > WhenFull::kDropOldest ||
      !std::has_single_bit(channel.geometry.queue_capacity) ||
      channel.geometry.max_subscriber_count != MaxSubscribers(*pool, channel.spec.history_count)) {
    return damaged("its entry is impossible");
  }
  ExtentMap& extents = manager_.allocator().management_extents();
  const uint64_t end = manager_.management_segment().file_bytes();
  const auto reserve = [&](uint64_t offset, uint64_t bytes) {
    if ((offset <= end && bytes <= end - offset) || Mutant(88))
      return extents.Reserve(offset, bytes);
    return damaged("memory at " + std::to_string(offset) + " of " + std::to_string(bytes) +
                   " bytes is behind the file's end at " + std::to_string(end));
  };
  if (Status status = reserve(channel.geometry.region_offset, channel.geometry.region_bytes());
      !status.ok()) {
    return status;
  }
  std::copy(std::begin(entry.uid), std::end(entry.uid), channel.uid.begin());
  channel.create_time_ns = entry.create_time_ns;
  channel.view = ChannelView::At(
      manager_.ManagementAt(channel.geometry.region_offset, channel.geometry.region_bytes()),
      channel.geometry);
  channel.subscribers.resize(channel.geometry.max_subscriber_count);
  for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
    const SubscriberEntry& shared = channel.view.subscribers[k];
    const uint16_t session = shared.session.load(std::memory_order_acquire);
    const uint32_t queue = shared.queue_capacity.load(std::memory_order_relaxed);
    channel.subscribers[k] = {IsSession(session) ? session : uint16_t{0},
                              SubscriberEpoch(shared.epoch.load(std::memory_order_acquire)),
                              std::clamp(queue, 1u, channel.geometry.queue_capacity),
                              shared.lossy.load(std::memory_order_relaxed) != 0};
  }
  for (uint32_t i = 0; i < kLaneEntries; ++i) {
    const LaneEntry& shared = channel.view.lanes[i];
    LaneRecord lane{static_cast<LaneState>(shared.state.load(std::memory_order_acquire)),
                    shared.session.load(std::memory_order_relaxed),
                    shared.epoch.load(std::memory_order_relaxed),
                    shared.offset.load(std::memory_order_relaxed), 0};
    // 0: its publisher was recovered.
    const bool session_fits = lane.session == 0 || IsSession(lane.session);
    if (lane.state > LaneState::kRetired || !session_fits ||
        (lane.state != LaneState::kFree &&
         !reserve(lane.offset, channel.geometry.lane_bytes()).ok())) {
      lane.state = LaneState::kFree;  // damaged: nobody is served by it any more
    }
    if (lane.state == LaneState::kFree) lane.session = 0;
    channel.lanes[i] = lane;
  }
  by_name_.emplace(channel.spec.name, index);
  channels_[index] = std::move(channel);
  return Status();
}

// What the daemon before was about to say is said.
void ChannelRegistry::Announce(Channel& channel) {
  channel.view.header->state.store(
      static_cast<uint32_t>(channel.closed ? ChannelState::kClosed : ChannelState::kOpen),
      std::memory_order_release);
  for (uint32_t i = 0; i < kLaneEntries; ++i) {  // those that are damaged are free
    channel.view.lanes[i].state.store(static_cast<uint16_t>(channel.lanes[i].state),
                                      std::memory_order_release);
  }
  for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
    if (IsStopped(channel, k)) StopTaking(channel, k);
  }
  // Whoever was to be told by the daemon before is told now.
  // STEP announce.stamp
  channel.view.header->subscriber_stamp.fetch_add(1, std::memory_order_release);
  // STEP announce.lane_stamp
  const uint32_t stamp =
      channel.view.header->lane_stamp.fetch_add(1, std::memory_order_release) + 1;
  for (LaneRecord& lane : channel.lanes) lane.stamp = stamp;
  RingAll(channel);
}

}  // namespace zerocp::shm
