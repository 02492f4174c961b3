// What ChannelRegistry counts for statistics, from words that clients write.
#include <algorithm>

#include "shm/channel_registry.h"
#include "shm/mutant.h"

namespace zerocp::shm {

uint32_t ChannelRegistry::PublisherCount(const Channel& channel) {
  return static_cast<uint32_t>(
      std::count_if(channel.lanes.begin(), channel.lanes.end(),
                    [](const LaneRecord& lane) { return lane.state == LaneState::kOpen; }));
}

uint32_t ChannelRegistry::SubscriberCount(const Channel& channel) {
  return static_cast<uint32_t>(
      std::count_if(channel.subscribers.begin(), channel.subscribers.end(),
                    [](const SubscriberRecord& s) { return s.session != 0; }));
}

uint64_t ChannelRegistry::PublishedCount(const Channel& channel) const {
  uint64_t sum = channel.retired_published_count;
  for (const LaneRecord& lane : channel.lanes) {
    if (lane.state != LaneState::kFree) {
      sum += channel.Lane(lane, manager_).lane->tail.load(std::memory_order_relaxed);
    }
  }
  return sum;
}

uint64_t ChannelRegistry::WaitedCount(const Channel& channel) const {
  uint64_t sum = channel.retired_waited_count;
  for (const LaneRecord& lane : channel.lanes) {
    if (lane.state != LaneState::kFree)
      sum += channel.Lane(lane, manager_).lane->waited.load(std::memory_order_relaxed);
  }
  return sum;
}

uint64_t ChannelRegistry::QueuedCount(const Channel& channel, uint32_t k) const {
  uint64_t sum = 0;
  for (const LaneRecord& lane : channel.lanes) sum += QueuedCount(channel, lane, k);
  return sum;
}

uint64_t ChannelRegistry::QueuedCount(const Channel& channel, const LaneRecord& record,
                                      uint32_t k) const {
  if (record.state == LaneState::kFree || record.state == LaneState::kRetired) return 0;
  const LaneView lane = channel.Lane(record, manager_);
  const uint64_t cursor = lane.cursors[k].word.load(std::memory_order_acquire);
  if (CursorEpoch(cursor) != channel.subscribers[k].epoch) return 0;
  uint64_t position;  // the one message that is kept for it is in no queue
  if (IsGivenUp(lane.cursors[k], CursorEpoch(cursor), &position)) return 0;
  const uint64_t tail = lane.lane->tail.load(std::memory_order_acquire);
  return std::min<uint64_t>(shm::QueuedCount(tail, CursorPosition(cursor)), lane.capacity);
}

// Adds what the subscriber has taken from a lane and what was dropped there. A cursor that counts
// for an earlier user of the index, or is impossible, adds nothing.
void ChannelRegistry::AddUsed(const Channel& channel, const LaneRecord& record, uint32_t k,
                              uint64_t* taken, uint64_t* missed) const {
  const LaneView lane = channel.Lane(record, manager_);
  const Cursor& cursor = lane.cursors[k];
  const uint32_t epoch = cursor.start_epoch.load(std::memory_order_acquire);
  if (channel.subscribers[k].session == 0 ||  // PAIR cursor.start_epoch
      (epoch != channel.subscribers[k].epoch && !Mutant(38))) {
    return;
  }
  const uint64_t start = cursor.start.load(std::memory_order_relaxed);
  uint64_t word;
  uint64_t dropped;
  uint64_t again = cursor.word.load(std::memory_order_acquire);  // PAIR cursor.word
  int tries = 8;
  do {  // the drops are at least those of the position, and hardly more
    word = again;
    dropped = cursor.dropped.load(std::memory_order_acquire);  // PAIR cursor.dropped
    again = cursor.word.load(std::memory_order_acquire);
  } while (again != word && --tries > 0);
  const uint64_t tail = lane.lane->tail.load(std::memory_order_acquire);
  const uint64_t passed = shm::QueuedCount(CursorPosition(word), start);
  if (passed > shm::QueuedCount(tail, start)) return;
  *missed += std::min(dropped, passed);
  *taken += passed - std::min(dropped, passed);
}

ChannelRegistry::SubscriberCounts ChannelRegistry::CountsOf(const Channel& channel,
                                                            uint32_t k) const {
  const SubscriberRecord& subscriber = channel.subscribers[k];
  SubscriberCounts counts{0, 0, subscriber.retired_taken_count, subscriber.retired_missed_count};
  for (const LaneRecord& lane : channel.lanes) {
    if (lane.state == LaneState::kFree) continue;
    const uint64_t queued = QueuedCount(channel, lane, k);
    counts.queued_count += queued;
    counts.fullest_count = std::max(counts.fullest_count, queued);
    AddUsed(channel, lane, k, &counts.taken_count, &counts.missed_count);
  }
  return counts;
}

}  // namespace zerocp::shm
