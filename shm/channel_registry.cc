#include "shm/channel_registry.h"

#include <sys/random.h>
#include <time.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "shm/futex.h"
#include "shm/mutant.h"
#include "shm/settle.h"

namespace zerocp::shm {
namespace {

// Behind every lane_stamp, in arithmetic modulo 2^32.
constexpr uint32_t kNothingKnown = 1u << 30;
static_assert(kLaneEntries <= 64);  // JoinInfo::ended_lanes

std::string Quoted(std::string_view name) { return "\"" + std::string(name) + "\""; }

Status CheckType(const ChannelRegistry::Channel& channel, std::string_view message_type) {
  const std::string& mine = channel.spec.message_type;
  if (message_type.empty() || mine.empty() || message_type == mine) return Status();
  return Status(Code::kTypeMismatch, "channel " + Quoted(channel.spec.name) +
                                         " carries messages of type " + Quoted(mine) + ", not " +
                                         Quoted(message_type));
}

// True if nobody can still find a message in the lane, and none waits to be let go.
bool IsEmptied(const ChannelRegistry::Channel& channel, const ChannelRegistry::LaneRecord& record,
               const LaneView& lane) {
  const uint64_t tail = lane.lane->tail.load(std::memory_order_acquire);
  for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
    const uint64_t cursor = lane.cursors[k].word.load(std::memory_order_acquire);
    if (CursorEpoch(cursor) == 0) continue;
    const uint64_t queued = QueuedCount(tail, CursorPosition(cursor));
    const bool waits_for_the_gone = record.session != 0 && queued > 0 && queued <= lane.capacity;
    if (waits_for_the_gone || (channel.subscribers[k].session != 0 &&
                               CursorEpoch(cursor) == channel.subscribers[k].epoch)) {
      return false;
    }
  }
  return true;
}

}  // namespace

ChannelRegistry::ChannelRegistry(MemPoolManager& manager) : manager_(manager) {}

Result<uint32_t> ChannelRegistry::Create(const ChannelSpec& wanted) {
  if (auto found = shm::Validate(wanted); !found.empty()) {
    return Status(Code::kInvalid, "channel " + Quoted(wanted.name) + ": " + found.front().field +
                                      " " + found.front().description);
  }
  if (Find(wanted.name) != nullptr) {
    return Status(Code::kAlreadyExists, "channel " + Quoted(wanted.name) + " exists");
  }
  const PoolView* pool = manager_.FindPool(wanted.pool);
  if (pool == nullptr) {
    return Status(Code::kNotFound,
                  "channel " + Quoted(wanted.name) + ": there is no pool " + Quoted(wanted.pool));
  }
  const auto free = std::find_if(channels_.begin(), channels_.end(),
                                 [](const auto& c) { return !c.has_value(); });
  if (free == channels_.end()) {
    return Status(Code::kLimit, "there are " + std::to_string(kMaxChannels) +
                                    " channels already, and no more can be");
  }
  const uint32_t index = static_cast<uint32_t>(free - channels_.begin());

  Channel channel;
  channel.spec = wanted;
  channel.spec.queue_capacity =
      std::bit_ceil(wanted.queue_capacity == 0 ? kDefaultQueueCapacity : wanted.queue_capacity);
  channel.pool = pool->index;
  channel.geometry.queue_capacity = channel.spec.queue_capacity;
  channel.geometry.max_subscriber_count = MaxSubscribers(*pool, wanted.history_count);
  channel.subscribers.resize(channel.geometry.max_subscriber_count);
  Result<uint64_t> offset = AllocateZeroed(channel.geometry.region_bytes());
  if (!offset.ok()) return offset.status();
  channel.geometry.region_offset = *offset;
  channel.view = ChannelView::At(manager_.ManagementAt(*offset, channel.geometry.region_bytes()),
                                 channel.geometry);
  if (getrandom(channel.uid.data(), channel.uid.size(), 0) !=
      static_cast<ssize_t>(channel.uid.size())) {
    return Status::FromErrno(Code::kInternal, "getrandom", errno);
  }
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  channel.create_time_ns = int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;

  ChannelEntry& entry = manager_.channel_entry(index);
  entry.queue_capacity = channel.geometry.queue_capacity;
  entry.max_subscriber_count = channel.geometry.max_subscriber_count;
  entry.pool = pool->index;
  entry.when_full = static_cast<uint8_t>(channel.spec.when_full);
  entry.max_held_count = channel.spec.max_held_count;
  entry.history_count = channel.spec.history_count;
  entry.region_offset = *offset;
  std::memcpy(entry.uid, channel.uid.data(), sizeof(entry.uid));
  entry.create_time_ns = channel.create_time_ns;
  std::memset(entry.name, 0, sizeof(entry.name));
  wanted.name.copy(entry.name, sizeof(entry.name) - 1);
  std::memset(entry.message_type, 0, sizeof(entry.message_type));
  wanted.message_type.copy(entry.message_type, sizeof(entry.message_type));
  channel.view.header->state.store(static_cast<uint32_t>(ChannelState::kOpen),
                                   std::memory_order_release);
  entry.state.store(static_cast<uint32_t>(ChannelState::kOpen),
                    std::memory_order_release);  // PAIR channel.state
  by_name_.emplace(wanted.name, index);
  channel.index = index;
  *free = std::move(channel);
  return index;
}

Result<uint64_t> ChannelRegistry::AllocateZeroed(uint64_t bytes) {
  Result<uint64_t> offset = manager_.allocator().management_extents().Allocate(bytes);
  if (!offset.ok()) return offset;
  Segment& segment = manager_.mutable_management_segment();
  segment.Decommit(*offset, bytes);  // what was there before reads as zeros then (L3)
  if (Status status = segment.Commit(*offset, bytes); !status.ok()) {
    manager_.allocator().management_extents().Free(*offset);
    return status;
  }
  return offset;
}

void ChannelRegistry::FreeExtent(uint64_t offset, uint64_t bytes) {
  manager_.mutable_management_segment().Decommit(offset, bytes);
  manager_.allocator().management_extents().Free(offset);
}

uint32_t ChannelRegistry::FreeLane(const Channel& channel) {
  uint32_t index = 0;
  while (index < kLaneEntries && channel.lanes[index].state != LaneState::kFree) ++index;
  return index;
}

Result<JoinInfo> ChannelRegistry::JoinAsPublisher(std::string_view name,
                                                  std::string_view message_type, uint16_t session) {
  Channel* channel = Find(name);
  if (channel == nullptr) return NotFound(name);
  if (Status status = CheckType(*channel, message_type); !status.ok()) return status;
  if (PublisherCount(*channel) >= kMaxPublishers) {
    return Status(Code::kLimit, "channel " + Quoted(name) + " has " +
                                    std::to_string(kMaxPublishers) +
                                    " publishers, and no more can be");
  }
  uint32_t index = FreeLane(*channel);
  // Publishers may come and go faster than the tick retires what they leave: first it is emptied,
  // then free, at once where nobody has to acknowledge that.
  for (int step = 0; step < 2 && index == kLaneEntries; ++step) {
    RetireLanes();
    index = FreeLane(*channel);
  }
  if (index == kLaneEntries) {
    return Status(
        Code::kLimit,
        "channel " + Quoted(name) + ": all " + std::to_string(kLaneEntries) +
            " lanes wait for a subscriber that does not take; see the channel's statistics");
  }
  // STEP join_publisher.memory
  Result<uint64_t> offset = AllocateZeroed(channel->geometry.lane_bytes());
  if (!offset.ok()) return offset.status();
  LaneRecord& lane = channel->lanes[index];
  lane = {LaneState::kOpen, session, lane.epoch + 1, *offset, 0};
  LaneEntry& entry = channel->view.lanes[index];
  entry.session.store(session, std::memory_order_relaxed);
  // STEP join_publisher.entry
  entry.epoch.store(lane.epoch, std::memory_order_relaxed);
  entry.offset.store(lane.offset, std::memory_order_relaxed);
  StoreLaneState(*channel, index, LaneState::kOpen);
  RingAll(*channel);
  JoinInfo info{channel->index, channel->pool, channel->geometry, index, lane.epoch, *offset, 0, 0,
                false};
  info.history_count = channel->spec.history_count;
  return info;
}

Result<JoinInfo> ChannelRegistry::JoinAsSubscriber(std::string_view name,
                                                   std::string_view message_type, uint16_t session,
                                                   const SubscriberSpec& spec) {
  Channel* channel = Find(name);
  if (channel == nullptr) return NotFound(name);
  if (Status status = CheckType(*channel, message_type); !status.ok()) return status;
  if (spec.queue_capacity > channel->geometry.queue_capacity) {
    return Status(Code::kInvalid, "a queue of " + std::to_string(spec.queue_capacity) +
                                      " was asked for; channel " + Quoted(name) + " has " +
                                      std::to_string(channel->geometry.queue_capacity) +
                                      ", and a subscriber's may be shorter only");
  }
  // Lanes that have ended wait for it from now on; those that can go without it go before.
  for (int step = 0; step < 2; ++step) RetireLanes();
  uint32_t k = 0;
  while (k < channel->subscribers.size() && channel->subscribers[k].session != 0) ++k;
  if (k == channel->subscribers.size()) {
    return Status(Code::kLimit,
                  "channel " + Quoted(name) + " has " + std::to_string(k) +
                      " subscribers; its pool's max_holders_per_chunk allows no more");
  }
  SubscriberRecord& subscriber = channel->subscribers[k];
  subscriber = {session, UnknownEpoch(*channel, k),
                spec.queue_capacity == 0 ? channel->geometry.queue_capacity : spec.queue_capacity,
                spec.lossy || channel->spec.when_full == WhenFull::kDropOldest};
  if (channel->view.subscribers[k].stopped_epoch.load() == subscriber.epoch)
    channel->view.subscribers[k].stopped_epoch.store(0);
  for (const LaneRecord& lane : channel->lanes) {
    if (lane.state == LaneState::kFree) continue;
    // Of the last subscriber with this epoch, 16,383 of them ago.
    Cursor& cursor = channel->Lane(lane, manager_).cursors[k];
    if (cursor.stopped_epoch.load(std::memory_order_relaxed) == subscriber.epoch)
      cursor.stopped_epoch.store(0, std::memory_order_relaxed);
    if (CursorEpoch(cursor.given_up.load(std::memory_order_relaxed)) == subscriber.epoch)
      cursor.given_up.store(0, std::memory_order_relaxed);
  }
  SubscriberEntry& entry = channel->view.subscribers[k];
  // STEP join.session
  entry.session.store(session, std::memory_order_relaxed);
  entry.lossy.store(subscriber.lossy ? 1 : 0, std::memory_order_relaxed);
  entry.queue_capacity.store(subscriber.queue_capacity, std::memory_order_relaxed);
  // It knows nothing yet: no lane that is there now is freed before it has looked (R2).
  // STEP join.ack
  entry.lane_ack.store(
      channel->view.header->lane_stamp.load(std::memory_order_relaxed) - kNothingKnown,
      std::memory_order_relaxed);
  // STEP join.entry
  entry.epoch.store(EncodeSubscriber(subscriber.epoch, true), std::memory_order_release);
  // STEP join.stamp
  channel->view.header->subscriber_stamp.fetch_add(1, std::memory_order_release);  // PAIR sub.stamp
  RingAll(*channel);
  uint64_t ended = 0;
  for (uint32_t i = 0; i < kLaneEntries; ++i) {
    const LaneState state = channel->lanes[i].state;
    if (state != LaneState::kFree && state != LaneState::kOpen) ended |= uint64_t{1} << i;
  }
  return JoinInfo{channel->index,
                  channel->pool,
                  channel->geometry,
                  k,
                  subscriber.epoch,
                  0,
                  ended,
                  subscriber.queue_capacity,
                  subscriber.lossy,
                  channel->spec.max_held_count,
                  channel->spec.history_count};
}

// Of index `k`, the next that no publisher serves or has served last: to one that has published
// nothing for 16,383 joins the new subscriber would be the old one.
uint32_t ChannelRegistry::UnknownEpoch(const Channel& channel, uint32_t k) const {
  const auto knows = [&](const LaneRecord& lane, uint32_t epoch) {
    if (lane.state == LaneState::kFree) return false;
    const Cursor& cursor = channel.Lane(lane, manager_).cursors[k];
    return cursor.start_epoch.load(std::memory_order_acquire) == epoch ||
           CursorEpoch(cursor.word.load(std::memory_order_acquire)) == epoch;
  };
  uint32_t epoch = NextEpoch(channel.subscribers[k].epoch);
  while (!Mutant(54) && std::any_of(channel.lanes.begin(), channel.lanes.end(),
                                    [&](const LaneRecord& lane) { return knows(lane, epoch); })) {
    epoch = NextEpoch(epoch);
  }
  return epoch;
}

Status ChannelRegistry::LeavePublisher(uint32_t index, uint32_t lane, uint16_t session) {
  Channel* found = channel(index);
  if (found == nullptr || lane >= kLaneEntries || found->lanes[lane].state != LaneState::kOpen ||
      found->lanes[lane].session != session) {
    return Status(Code::kNotFound, "this session does not publish there");
  }
  CloseLane(*found, lane, LaneState::kClosed);
  RingAll(*found);
  return Status();
}

Status ChannelRegistry::LeaveSubscriber(uint32_t index, uint32_t k, uint16_t session) {
  Channel* found = channel(index);
  if (found == nullptr || k >= found->subscribers.size() ||
      found->subscribers[k].session != session) {
    return Status(Code::kNotFound, "this session does not subscribe there");
  }
  CloseSubscriber(*found, k);
  RingAll(*found);
  return Status();
}

// First the word beside each cursor, then, when it is known that the subscriber can be in the
// middle of nothing but the take of the message at its cursor, the entry that publishers look at.
Status ChannelRegistry::StopSubscriber(uint32_t index, uint32_t k, uint32_t epoch) {
  Channel* found = channel(index);
  if (found == nullptr || k >= found->subscribers.size() || found->subscribers[k].session == 0 ||
      found->subscribers[k].epoch != epoch) {
    return Status(Code::kNotFound, "there is no such subscriber");
  }
  StopTaking(*found, k);
  TellSubscribers(*found);
  return Status();
}

void ChannelRegistry::StopTaking(Channel& channel, uint32_t k) {
  const uint32_t epoch = channel.subscribers[k].epoch;
  channel.view.subscribers[k].stopped_epoch.store(epoch, std::memory_order_release);
  for (const LaneRecord& record : channel.lanes) {
    if (record.state == LaneState::kFree) continue;
    // STEP stop.cursor
    channel.Lane(record, manager_)
        .cursors[k]
        .stopped_epoch.store(epoch, std::memory_order_release);  // PAIR cursor.stopped
  }
  Settle(manager_);
  CloseSubscriber(channel, k);
}

bool ChannelRegistry::IsStopped(const Channel& channel, uint32_t k) {
  return channel.subscribers[k].session != 0 &&
         channel.view.subscribers[k].stopped_epoch.load(std::memory_order_acquire) ==
             channel.subscribers[k].epoch;
}

Status ChannelRegistry::Close(std::string_view name) {
  Channel* found = Find(name);
  if (found == nullptr) return NotFound(name);
  found->closed = true;
  constexpr auto kClosed = static_cast<uint32_t>(ChannelState::kClosed);
  manager_.channel_entry(found->index).state.store(kClosed, std::memory_order_release);
  // STEP delete.state
  found->view.header->state.store(kClosed, std::memory_order_release);
  found->view.header->subscriber_stamp.fetch_add(1, std::memory_order_release);  // PAIR sub.stamp
  TellSubscribers(*found);
  return Status();
}

// Makes everybody look at the tables.
void ChannelRegistry::TellSubscribers(Channel& channel) {
  // STEP delete.lane_stamp
  channel.view.header->lane_stamp.fetch_add(1, std::memory_order_release);  // PAIR lane.stamp
  RingAll(channel);
}

void ChannelRegistry::CloseSubscriber(Channel& channel, uint32_t k) {
  SubscriberEntry& entry = channel.view.subscribers[k];
  // STEP close_subscriber.entry
  entry.epoch.store(EncodeSubscriber(channel.subscribers[k].epoch, false),
                    std::memory_order_release);
  // STEP close_subscriber.stamp
  channel.view.header->subscriber_stamp.fetch_add(1, std::memory_order_release);  // PAIR sub.stamp
  channel.view.header->waiters.fetch_and(~(uint64_t{1} << k));
}

void ChannelRegistry::FreeSubscriber(Channel& channel, uint32_t k) {
  channel.subscribers[k].session = 0;
  // STEP free_subscriber.session
  channel.view.subscribers[k].session.store(0, std::memory_order_relaxed);
}

void ChannelRegistry::CloseLane(Channel& channel, uint32_t lane, LaneState state) {
  if (channel.lanes[lane].state != LaneState::kOpen) return;
  StoreLaneState(channel, lane, state);
}

// PAIR lane.stamp: the entry first, then the stamp that announces it.
void ChannelRegistry::StoreLaneState(Channel& channel, uint32_t lane, LaneState state) {
  channel.lanes[lane].state = state;
  // STEP lane.state
  channel.view.lanes[lane].state.store(static_cast<uint16_t>(state), std::memory_order_release);
  // STEP lane.stamp
  channel.lanes[lane].stamp =
      channel.view.header->lane_stamp.fetch_add(1, std::memory_order_release) + 1;
}

void ChannelRegistry::RingAll(Channel& channel) {
  for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
    if (channel.subscribers[k].session == 0) continue;
    // STEP ring_all.subscriber
    channel.view.subscribers[k].bell.fetch_add(1);
    FutexWake(channel.view.subscribers[k].bell);
  }
  for (const LaneRecord& record : channel.lanes) {
    if (record.state != LaneState::kOpen) continue;
    std::atomic<uint32_t>& bell = channel.Lane(record, manager_).lane->publisher_bell;
    // STEP ring_all.publisher
    bell.fetch_add(1);
    FutexWake(bell);
  }
}

void ChannelRegistry::RetireLanes() {
  for (auto& slot : channels_) {
    if (!slot) continue;
    Channel& channel = *slot;
    const auto everybody_knows = [&](uint32_t stamp) {
      for (uint32_t k = 0; k < channel.subscribers.size() && !Mutant(73); ++k) {
        // STEP retire.ack
        const uint32_t ack = channel.view.subscribers[k].lane_ack.load(std::memory_order_acquire);
        if (channel.subscribers[k].session != 0 && static_cast<int32_t>(ack - stamp) < 0)
          return false;
      }
      return true;
    };
    for (uint32_t i = 0; i < kLaneEntries; ++i) {
      LaneRecord& lane = channel.lanes[i];
      if (lane.state == LaneState::kFree || lane.state == LaneState::kOpen ||
          !everybody_knows(lane.stamp))
        continue;
      const LaneView view = channel.Lane(lane, manager_);
      if (lane.state == LaneState::kRetired) {
        for (uint32_t k = 0; k < channel.subscribers.size() && !Mutant(37); ++k) {
          SubscriberRecord& subscriber = channel.subscribers[k];
          AddUsed(channel, lane, k, &subscriber.retired_taken_count,
                  &subscriber.retired_missed_count);
        }
        channel.retired_published_count += view.lane->tail.load(std::memory_order_relaxed);
        channel.retired_waited_count += view.lane->waited.load(std::memory_order_relaxed);
        lane.state = LaneState::kFree;
        // STEP retire.state
        channel.view.lanes[i].state.store(static_cast<uint16_t>(LaneState::kFree),
                                          std::memory_order_release);
        FreeExtent(lane.offset,
                   channel.geometry.lane_bytes());  // after nothing names it  STEP retire.memory
      } else if (IsEmptied(channel, lane, view)) {  // STEP retire.empty
        StoreLaneState(channel, i, LaneState::kRetired);
        RingAll(channel);  // so that sleepers acknowledge
      }
    }
  }
  FreeClosed();
}

void ChannelRegistry::FreeClosed() {
  for (auto& slot : channels_) {
    if (!slot || !slot->closed || SubscriberCount(*slot) != 0 ||
        std::any_of(slot->lanes.begin(), slot->lanes.end(),
                    [](const LaneRecord& lane) { return lane.state != LaneState::kFree; })) {
      continue;
    }
    const auto [begin, end] = by_name_.equal_range(slot->spec.name);
    by_name_.erase(
        std::find_if(begin, end, [&](const auto& entry) { return entry.second == slot->index; }));
    // STEP free_closed.state
    manager_.channel_entry(slot->index)
        .state.store(static_cast<uint32_t>(ChannelState::kFree), std::memory_order_release);
    FreeExtent(slot->geometry.region_offset, slot->geometry.region_bytes());
    slot.reset();
  }
}

ChannelRegistry::Channel* ChannelRegistry::channel(uint32_t index) {
  return index < kMaxChannels && channels_[index] ? &*channels_[index] : nullptr;
}

ChannelRegistry::Channel* ChannelRegistry::Find(std::string_view name) {
  const auto [begin, end] = by_name_.equal_range(name);
  const auto open = std::find_if(
      begin, end, [this](const auto& entry) { return !channels_[entry.second]->closed; });
  return open == end ? nullptr : channel(open->second);
}

bool ChannelRegistry::IsSession(uint16_t id) const {
  return id >= kFirstSession && id < manager_.session_capacity();
}

Status ChannelRegistry::NotFound(std::string_view name) {
  return Status(Code::kNotFound, "there is no channel " + Quoted(name));
}

std::vector<uint32_t> ChannelRegistry::List() const {
  std::vector<uint32_t> indices;
  for (const auto& entry : by_name_) indices.push_back(entry.second);
  return indices;
}

uint16_t ChannelRegistry::MaxSubscribers(const PoolView& pool, uint32_t history_count) {
  const uint32_t slots = std::min<uint32_t>(kMaxSubscribers, pool.grant_slots);
  return static_cast<uint16_t>(history_count > 0 ? slots - 1 : slots);
}

}  // namespace zerocp::shm
