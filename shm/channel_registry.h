// The daemon's side of channels: creating them, letting publishers and subscribers in and out, and
// giving lane memory back. Keeps all geometry in private memory.
//
// Invariants. R1: a subscriber index is given out again only when recovery of its last owner is
// complete. R2: a lane's memory is used again only when no living subscriber can be looking at it:
// each has acknowledged a lane_stamp at which the lane was no longer listed.
//
// Threads and processes. Daemon only, one thread at a time. Clients' words (cursors,
// acknowledgements) are read as hints and bounded.
//
// Crash. Every entry is stored before the stamp that announces it; a daemon killed between the two
// rings and bumps every stamp again at its next start.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shm/channel.h"
#include "shm/channel_config.h"
#include "shm/mem_pool_manager.h"
#include "shm/status.h"

namespace zerocp::shm {

// What a member needs to start; travels in the attach protocol.
struct JoinInfo {
  uint32_t channel;  // index in the channel table
  uint32_t pool;
  ChannelGeometry geometry;
  uint32_t index;  // of the lane entry or of the subscriber entry
  uint32_t epoch;
  uint64_t lane_offset;  // publishers only
  uint64_t
      ended_lanes;  // subscribers only: bit i: what lane entry i holds had ended before the join
  uint32_t queue_capacity;      // subscribers only: of its own
  bool lossy;                   // subscribers only: served by dropping
  uint32_t max_held_count = 0;  // subscribers only: samples it may hold at once; 0: not limited
  uint32_t history_count = 0;   // last messages of each publisher that it keeps for late joiners

  // Slot of a record in which a publisher keeps a message of its history.
  uint32_t history_slot() const { return geometry.max_subscriber_count; }
  // Grant slots that a chunk needs to travel on the channel.
  uint32_t grant_slots() const { return geometry.max_subscriber_count + (history_count > 0); }
};

class ChannelRegistry {
 public:
  struct LaneRecord {
    LaneState state = LaneState::kFree;
    uint16_t session = 0;
    uint32_t epoch = 0;
    uint64_t offset = 0;
    uint32_t stamp = 0;  // lane_stamp at the last change of state
  };
  struct SubscriberRecord {
    uint16_t session = 0;  // 0: free
    uint32_t epoch = 0;
    uint32_t queue_capacity = 0;
    bool lossy = false;
    // Of lanes that are gone; only since the daemon's start.
    uint64_t retired_taken_count = 0;
    uint64_t retired_missed_count = 0;
  };
  // What a subscriber has to do with all lanes of its channel. Bounded, whatever the words say.
  struct SubscriberCounts {
    uint64_t queued_count = 0;   // now
    uint64_t fullest_count = 0;  // of these in the lane with most
    uint64_t taken_count = 0;    // since it joined
    uint64_t missed_count = 0;   // the same: dropped in its place
  };
  struct Channel {
    ChannelSpec spec;  // defaults filled in
    uint32_t index = 0;
    bool closed = false;  // its name is free for another
    uint32_t pool = 0;
    ChannelGeometry geometry;
    ChannelView view;
    std::array<uint8_t, 16> uid{};
    int64_t create_time_ns = 0;
    std::array<LaneRecord, kLaneEntries> lanes;
    std::vector<SubscriberRecord> subscribers;
    uint64_t retired_published_count = 0;  // messages of lanes that are gone
    uint64_t retired_waited_count = 0;     // the same of publishes that met a full queue

    LaneView Lane(const LaneRecord& record, const MemPoolManager& manager) const {
      return LaneView::At(manager.ManagementAt(record.offset, geometry.lane_bytes()), geometry);
    }
  };

  // REQUIRES: `manager` outlives this.
  explicit ChannelRegistry(MemPoolManager& manager);
  // Reads the channels of an adopted instance, as if a stranger had written them. kDamaged names
  // the first that cannot be used; those are left out.
  Status Adopt();
  // The same without a store, a wake-up or a wait: what is read stays as it is. REQUIRES: nobody
  // writes there (MemPoolManager::Inspect); only the functions that count are called then.
  Status Inspect();

  // kInvalid, kAlreadyExists, kNotFound (the pool), kLimit, kNoMemory. Returns the index.
  Result<uint32_t> Create(const ChannelSpec& spec);
  // kNotFound, kTypeMismatch, kLimit, kNoMemory. REQUIRES: the session is attached.
  Result<JoinInfo> JoinAsPublisher(std::string_view channel, std::string_view message_type,
                                   uint16_t session);
  // Also kInvalid: a longer queue than the channel's.
  Result<JoinInfo> JoinAsSubscriber(std::string_view channel, std::string_view message_type,
                                    uint16_t session, const SubscriberSpec& spec = {});
  // A publisher leaves in order: what it published stays deliverable. kNotFound unless the lane is
  // its.
  Status LeavePublisher(uint32_t channel, uint32_t lane, uint16_t session);
  // A subscriber has stopped taking for good. What is left in its queue is let go
  // (Recovery::Drain). kNotFound unless the index is its.
  Status LeaveSubscriber(uint32_t channel, uint32_t index, uint16_t session);
  // Stops a subscriber that lives: publishers do not wait for it any more. It takes at most the
  // message that it is taking now, says so at its next call (`left_epoch`), and keeps its index
  // until then or its death (R1). It settles (settle.h). kNotFound unless `epoch` is the index's.
  Status StopSubscriber(uint32_t channel, uint32_t index, uint32_t epoch);
  // Takes the name from a channel: publishing ends, subscribers take what is there. The channel is
  // gone with its last member (RetireLanes). kNotFound.
  Status Close(std::string_view name);
  // Frees the memory of lanes that are closed, empty and out of everybody's sight, and of closed
  // channels that nobody is a member of.
  void RetireLanes();

  // nullptr if there is none.
  Channel* channel(uint32_t index);
  // The open one of that name.
  Channel* Find(std::string_view name);
  // Indices of all channels in name order, closed ones included: one name may come several times.
  std::vector<uint32_t> List() const;
  // Subscribers that a channel of this pool can have: one slot of each chunk for each, and one for
  // its history.
  static uint16_t MaxSubscribers(const PoolView& pool, uint32_t history_count);
  static uint32_t PublisherCount(const Channel& channel);
  static uint32_t SubscriberCount(const Channel& channel);
  uint64_t PublishedCount(const Channel& channel) const;
  // Publishes that met a full queue.
  uint64_t WaitedCount(const Channel& channel) const;
  // Messages of all lanes that wait for subscriber `index`.
  uint64_t QueuedCount(const Channel& channel, uint32_t index) const;
  // Exact, but while a publisher is dropping: then up to one round of drops counts as missed
  // instead of taken. Never more taken than was.
  SubscriberCounts CountsOf(const Channel& channel, uint32_t index) const;
  // Of QueuedCount, in one lane. At most the queue capacity, whatever the words say.
  uint64_t QueuedCount(const Channel& channel, const LaneRecord& lane, uint32_t index) const;

  // For recovery.

  // True while a subscriber that StopSubscriber stopped has not been let out.
  static bool IsStopped(const Channel& channel, uint32_t index);
  // Nobody can take as this subscriber any more: publishers stop serving it.
  void CloseSubscriber(Channel& channel, uint32_t index);
  // kLaneEntries: none.
  static uint32_t FreeLane(const Channel& channel);
  // Frees the index. REQUIRES: its queue was drained (R1).
  void FreeSubscriber(Channel& channel, uint32_t index);
  void CloseLane(Channel& channel, uint32_t lane, LaneState state);
  // Wakes everybody who waits on the channel, whatever for.
  void RingAll(Channel& channel);

 private:
  static Status NotFound(std::string_view name);
  bool IsSession(uint16_t id) const;
  uint32_t UnknownEpoch(const Channel& channel, uint32_t index) const;
  Result<uint64_t> AllocateZeroed(uint64_t bytes);
  void FreeExtent(uint64_t offset, uint64_t bytes);
  void StoreLaneState(Channel& channel, uint32_t lane, LaneState state);
  void TellSubscribers(Channel& channel);
  void StopTaking(Channel& channel, uint32_t index);
  void AddUsed(const Channel& channel, const LaneRecord& lane, uint32_t index, uint64_t* taken,
               uint64_t* missed) const;
  void FreeClosed();
  Status ReadChannel(uint32_t index);
  void Announce(Channel& channel);

  MemPoolManager& manager_;
  std::array<std::optional<Channel>, kMaxChannels> channels_;
  std::multimap<std::string, uint32_t, std::less<>> by_name_;  // at most one of a name is open
};

}  // namespace zerocp::shm
