// Taking from a channel: one cursor in each publisher's lane.
//
// Invariants. U1: a waiting subscriber takes over (slot or word gets this session's id) before it
// moves the cursor, so at no instant is a taken message without a living owner. U2: per publisher,
// messages come in order and once. U3: a lossy subscriber, whose messages the publisher may take
// back, writes a claim before the compare-exchange on the cursor and takes over after it; claim and
// cursor tell recovery whether it won. U4: what was published before the publisher served this
// subscriber (Cursor::start) has no grant: if it is in the history it is opened, as by a handle;
// what comes after `start` is taken by its grant only.
//
// Threads and processes. One thread at a time. Peers: the publishers of the channel, and the
// daemon.
//
// Crash. Killed before take-over, the message is drained, or let go by its claim; after it, swept
// as this session's. Stopped between the compare-exchange and take-over while the publisher dies,
// it is delivered by its claim.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "shm/channel.h"
#include "shm/channel_registry.h"
#include "shm/deadline.h"
#include "shm/session.h"

namespace zerocp::shm {

// A look at the lanes of a subscriber that another thread of its process may take, while the port
// is used or not: it reads the lane stamp and two words of each. A lane that was retired since may
// hold anything, so that what is found may not be there.
class LaneLook {
 public:
  // A message, or that lanes came or ended since the last take.
  bool FindsNews() const {
    if (lane_stamp_->load(std::memory_order_acquire) != stamp_) return true;  // PAIR lane.stamp
    for (const Place& place : places_) {
      const uint64_t word = place.cursor->load(std::memory_order_acquire);
      if (CursorEpoch(word) == epoch_ &&
          QueuedCount(place.tail->load(std::memory_order_acquire), CursorPosition(word)) != 0) {
        return true;
      }
    }
    return false;
  }

 private:
  friend class SubscriberPort;
  struct Place {
    const std::atomic<uint64_t>* cursor;
    const std::atomic<uint64_t>* tail;
  };
  std::vector<Place> places_;
  const std::atomic<uint32_t>* lane_stamp_ = nullptr;
  uint32_t stamp_ = 0;
  uint32_t epoch_ = 0;
};

class SubscriberPort {
 public:
  static Result<std::unique_ptr<SubscriberPort>> Create(std::shared_ptr<Session> session,
                                                        const JoinInfo& info);

  // The next message. kTimeout: nothing is there now. kEndOfStream: every publisher that was there
  // has closed and nothing is left; said once, then the port waits for new publishers.
  // kPublisherDied: the same, but at least one of them died. kDetached: an operator took this
  // subscriber off; it has left then, and so after kChannelDeleted, when nothing is left to take.
  // kDamaged: a lane held something impossible and was given up.
  Code TryTake(ChunkRef* out) {
    if (IsQuiet()) return Code::kTimeout;
    Code code = TakeFromLanes(out);
    return code != Code::kTimeout ? code : Idle(out);
  }
  // As TryTake, but spins briefly, then sleeps until `deadline`.
  Code Take(Deadline deadline, ChunkRef* out);

  // The parts of Take, for who sleeps elsewhere. PrepareToSleep: from here on publishers ring;
  // returns what the bell is until then. What came before is found by a look of kSpinTime that
  // follows, or, at worst, by one after kFirstSlice.
  uint32_t PrepareToSleep();
  // Publishers need not ring any more. Nothing once the port has left.
  void StandDown();
  // The lanes as the last take saw them. Allocates, if they are more than ever.
  void LookAt(LaneLook* look) const;
  // These three from any thread.
  bool BellIs(uint32_t value) const { return bell().load(std::memory_order_acquire) == value; }
  void SleepOnBell(uint32_t value, std::chrono::nanoseconds time) const;
  // `change`: also who is only about to sleep.
  void WakeSleeper(bool change) const;

  // Says in shared memory that nothing will be taken any more, for when the daemon cannot be told:
  // it, or the next one, lets go of what waits. The last call.
  void Leave();
  // True after kDetached, kChannelDeleted and Leave: the channel's memory must not be touched any
  // more.
  bool left() const { return left_; }

  // Of the message that was taken last: counted per publisher from 1.
  uint64_t sequence() const { return sequence_; }
  // Messages lost between the message that was taken last and the one taken before it.
  uint64_t missed_before() const { return missed_before_; }
  // All that were lost: taken and missed messages are together those published since the join.
  uint64_t missed_count() const { return missed_count_; }
  const JoinInfo& info() const { return info_; }

 private:
  struct LaneRef {
    LaneView view;
    uint32_t entry;
    uint32_t epoch;
    uint16_t publisher;
    uint64_t tail;          // as last read; not read again while the cursor is behind it
    uint64_t expected;      // lossy: position behind the last message that was taken
    uint64_t history_next;  // position of the next message of the history
    bool history_begun;     // one was taken: what leaves the history from then on is missed
  };

  static constexpr uint64_t kNotServedYet = ~uint64_t{0};
  // LaneRef::history_next: not looked at yet; all taken.
  static constexpr uint64_t kHistoryUnseen = ~uint64_t{0};
  static constexpr uint64_t kHistoryDone = ~uint64_t{1};

  SubscriberPort(std::shared_ptr<Session> session, const JoinInfo& info);
  std::atomic<uint32_t>& bell() const { return channel_.subscribers[info_.index].bell; }
  // Two loads instead of a look at everything, for who polls one publisher.
  bool IsQuiet() const {
    return quiet_tail_ != nullptr &&
           quiet_tail_->load(std::memory_order_acquire) == quiet_at_ &&  // PAIR lane.tail
           channel_.header->lane_stamp.load(std::memory_order_acquire) ==
               stamp_;  // PAIR lane.stamp
  }
  Code TakeFromLanes(ChunkRef* out);
  [[gnu::always_inline]] inline Code TakeFrom(LaneRef& lane, ChunkRef* out);
  Code TakeFromHistory(LaneRef& lane, ChunkRef* out);
  Code OpenMessage(const LaneRef& lane, uint64_t position, ChunkRef* out);
  bool IsCrowded();
  [[gnu::always_inline]] inline bool TakeOver(const LaneRef& lane, const Cell& cell, ChunkRef* out);
  static void PrefetchAhead(const LaneRef& lane, uint64_t position, const PoolView& pool);
  void CountMissed(LaneRef& lane, uint64_t position);
  Code Idle(ChunkRef* out);
  Code Detached();
  void LookForNewLanes();
  void RefreshLanes(uint32_t stamp);
  Code Damaged(LaneRef& lane);
  void RingPublisher(const LaneRef& lane, uint64_t position);

  std::shared_ptr<Session> session_;
  JoinInfo info_;
  uint32_t taken_label_;  // of a moved message that was taken
  ChannelView channel_;
  std::vector<LaneRef> lanes_;
  size_t next_lane_ = 0;
  uint32_t taken_in_a_row_ = 0;
  uint32_t stamp_ = 0;        // lane_stamp of lanes_
  bool stamp_known_ = false;  // false: look at the lane table whatever the stamp says
  // The only lane's, if it is served, nothing was in it at that tail, and all else is known.
  const std::atomic<uint64_t>* quiet_tail_ = nullptr;
  uint64_t quiet_at_ = 0;
  uint64_t sequence_ = 0;
  uint64_t missed_count_ = 0;
  uint64_t missed_before_ = 0;
  uint64_t told_missed_count_ = 0;  // missed_count_ when the last message was taken
  // Since when as many others as can open it hold the next message of a history; zero: no.
  std::chrono::steady_clock::time_point crowded_since_{};
  uint32_t ended_count_ = 0;  // lanes that ended since the last kEndOfStream
  bool publisher_died_ = false;
  bool left_ = false;
  Code why_left_ = Code::kDetached;  // or kChannelDeleted
  std::array<uint32_t, kLaneEntries> finished_epoch_{};
  std::array<uint32_t, kLaneEntries> last_rung_{};
};

}  // namespace zerocp::shm
