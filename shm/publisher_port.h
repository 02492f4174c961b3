// Publishing into a channel: the writer of one lane.
//
// What. How a subscriber with a full queue is met is a property of its cursor: a waiting one is
// waited for; a lossy one loses its oldest messages, each taken back by who moves the cursor over
// it.
//
// Invariants. P1: a message is in the lane from the store of `tail` on, and not before. P2: nothing
// is changed before there is room at every waiting subscriber, so a publish that times out
// published to nobody and dropped nothing. P3: the cell at a position holds until every served
// cursor is behind it. P4: only a compare-exchange moves the cursor of a lossy subscriber, so each
// position is either taken or dropped.
//
// Threads and processes. One thread at a time. Peers: the subscribers of the channel, and the
// daemon.
//
// History. The publisher keeps a slot of its own in each of its last history_count messages, and
// gives it up when the message is that far behind; so with a history nothing is ever moved.
//
// Crash. Killed before the tail store, the chunk is swept as the session's; after it, delivered.
// What was dropped and not yet taken back is swept as the session's too, and
// so is its history.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>

#include "shm/channel.h"
#include "shm/channel_registry.h"
#include "shm/deadline.h"
#include "shm/session.h"

namespace zerocp::shm {

struct Published {
  int delivered;  // subscribers that will see the message
  int dropped;    // older messages that lossy subscribers lost to make room for it
};

class PublisherPort {
 public:
  // kDamaged if `info` does not fit the segment.
  static Result<std::unique_ptr<PublisherPort>> Create(std::shared_ptr<Session> session,
                                                       const JoinInfo& info);

  // Sends an exclusive chunk whose header size is set; stamps its sequence if others than one
  // subscriber may read it. kOk: the chunk is given up. Any other code: the caller still has it and
  // nobody got it. kTimeout; kChannelDeleted: the channel was deleted; kInvalid: a chunk of another
  // pool than the channel's, with fewer grant slots than the channel has subscribers at most.
  Code Publish(const ChunkRef& chunk, Deadline deadline, Published* published);
  // Waits until at least `count` subscribers are served. kTimeout, kChannelDeleted.
  Code WaitForSubscribers(int count, Deadline deadline, int* present);

  // Takes back what waits for subscribers that have gone, or were detached: those may be the chunks
  // that a loan waits for.
  void LookWhoIsGone();
  // Lets go of what is kept for late joiners: before the publisher leaves. The last call but Leave.
  void LetGoOfHistory();
  // Says in shared memory that nothing will be published any more, for when the daemon cannot be
  // told. The last call.
  void Leave() { lane_.lane->left.store(1, std::memory_order_release); }

  const PoolView& pool() const { return *pool_; }
  const JoinInfo& info() const { return info_; }

 private:
  PublisherPort(std::shared_ptr<Session> session, const JoinInfo& info);
  void Refresh();
  void Serve(uint32_t index, uint32_t epoch);
  void SetActive(uint64_t active) {
    active_ = active;
    active_count_ = std::popcount(active);
    sent_label_ =
        Encode(ChunkLabel{ChunkPhase::kSent, static_cast<uint8_t>(std::countr_zero(active)),
                          static_cast<uint16_t>(info_.channel + 1)});
  }
  bool IsOpen() const;
  void Detach(uint32_t index);
  void GiveUp(Cursor& cursor, uint32_t index);
  void TakeBack(uint64_t cell, uint32_t index);
  Code MakeRoom(Deadline deadline, int* dropped);
  Code WaitForRoom(Deadline deadline);
  int DropOldest(uint32_t index);
  uint64_t FreeCells(uint64_t subscribers, uint64_t wanted);
  void SleepUntilRoom(uint32_t wanted, Deadline deadline);
  void RingWaiters(uint64_t waiters);

  std::shared_ptr<Session> session_;
  JoinInfo info_;
  ChannelView channel_;
  LaneView lane_;
  const PoolView* pool_;
  uint64_t tail_ = 0;
  uint64_t waited_at_ = ~uint64_t{0};  // tail_ of the last message that met a full queue
  uint64_t room_ = 0;                  // tail_ may reach this without another look at the cursors
  uint32_t stamp_ = 0;                 // subscriber_stamp of the last Refresh
  uint64_t active_ = 0;                // bit k: subscriber k is served
  int active_count_ = 0;               // bits in it
  uint32_t sent_label_ = 0;            // of a chunk in the lane; tells one subscriber only
  uint64_t lossy_ = 0;                 // bit k: by dropping
  uint64_t history_bit_ = 0;           // of the slot that keeps a message for late joiners; 0: none
  uint32_t shortest_queue_ = 0;        // of those that are waited for
  std::array<uint32_t, kMaxSubscribers> epoch_{};      // that is served
  std::array<uint32_t, kMaxSubscribers> capacity_{};   // of its queue, at most the lane's
  std::array<uint64_t, kMaxSubscribers> room_of_{};    // as room_, for each by what its cursor was
  std::array<uint32_t, kMaxSubscribers> last_rung_{};  // bell values this port left
};

}  // namespace zerocp::shm
