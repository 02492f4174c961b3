#include "shm/subscriber_port.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "shm/chunk_ops.h"
#include "shm/futex.h"

namespace zerocp::shm {
namespace {

constexpr uint64_t kAhead = 3;         // messages from one that is taken to one that is fetched
constexpr uint32_t kTakesInARow = 16;  // from one lane, before the next has its turn
// How long a late joiner waits for others to let go of a message of the history before it goes on
// without it, and how often it looks.
constexpr std::chrono::seconds kCrowdPatience{1};
constexpr std::chrono::milliseconds kCrowdSlice{10};

}  // namespace

SubscriberPort::SubscriberPort(std::shared_ptr<Session> session, const JoinInfo& info)
    : session_(std::move(session)),
      info_(info),
      taken_label_(Encode(ChunkLabel{ChunkPhase::kTaken, static_cast<uint8_t>(info.index),
                                     static_cast<uint16_t>(info.channel + 1)})) {}

Result<std::unique_ptr<SubscriberPort>> SubscriberPort::Create(std::shared_ptr<Session> session,
                                                               const JoinInfo& info) {
  const ChannelGeometry& geometry = info.geometry;
  std::byte* region =
      session->manager().ManagementAt(geometry.region_offset, geometry.region_bytes());
  if (region == nullptr || geometry.queue_capacity < 1 ||
      geometry.queue_capacity > kMaxQueueCapacity ||
      !std::has_single_bit(geometry.queue_capacity) ||
      geometry.max_subscriber_count > kMaxSubscribers ||
      info.index >= geometry.max_subscriber_count || info.queue_capacity < 1 ||
      info.queue_capacity > geometry.queue_capacity ||
      info.history_count > geometry.queue_capacity) {
    return Status(Code::kDamaged, "the daemon's answer to the join does not fit the segments");
  }
  std::unique_ptr<SubscriberPort> port(new SubscriberPort(std::move(session), info));
  port->channel_ = ChannelView::At(region, geometry);
  // Publishers that had ended before this subscriber joined do not count for its end of stream.
  // Their entries stand still until it first looks at the table.
  for (uint32_t i = 0; i < kLaneEntries; ++i) {
    if ((info.ended_lanes >> i & 1) != 0) {
      port->finished_epoch_[i] = port->channel_.lanes[i].epoch.load(std::memory_order_acquire);
    }
  }
  return port;
}

// Other cores used the record and the header of a message last, and its payload: those of one that
// comes soon are fetched while this one is read. A prefetch of a wrong address does nothing.
inline void SubscriberPort::PrefetchAhead(const LaneRef& lane, uint64_t position,
                                          const PoolView& pool) {
  const Cell cell = DecodeCell(lane.view.cell(position).load(std::memory_order_relaxed));
  PrefetchToWrite(&pool.record(cell.chunk));
  __builtin_prefetch(&pool.headers[cell.chunk]);
  __builtin_prefetch(pool.data(cell.chunk));
}

// Puts this session's id on the message of `cell`. False, and nothing is done, if it is neither the
// publisher's nor, because the daemon has delivered it, this session's already.
// REQUIRES: nobody else takes the message, or this port has won the cursor.
bool SubscriberPort::TakeOver(const LaneRef& lane, const Cell& cell, ChunkRef* out) {
  const PoolView* pool = session_->manager().pool(cell.pool);
  if (cell.kind == CellKind::kNone || pool == nullptr || cell.chunk >= pool->live_chunk_count()) {
    return false;
  }
  ChunkManager& record = pool->record(cell.chunk);
  *out = {pool, cell.chunk, ChunkRef::kExclusive};
  if (cell.kind == CellKind::kMoved) {
    // STEP take_over.look
    const uint64_t owned = record.word.load(std::memory_order_relaxed);
    const bool from_publisher =
        IsOwned(owned, Kind::kLoaned, lane.publisher) && StampTag(owned) == cell.tag;
    // Or the daemon has delivered it: the publisher died.
    const bool delivered =
        IsOwned(owned, Kind::kLoaned, session_->id()) && StampTag(owned) == cell.tag + 1;
    if (!from_publisher && !delivered) return false;
    // A store, not a compare-exchange: the miss hides in the store buffer.
    if (from_publisher) {
      // STEP take_over.word
      record.word.store(NextWord(owned, Kind::kLoaned, session_->id()), std::memory_order_relaxed);
    }
    SetLabel(record, taken_label_);
    return true;
  }
  std::atomic<uint16_t>& slot = record.slots()[info_.index];
  // STEP take_over.holder
  const uint16_t holder = slot.load(std::memory_order_relaxed);
  if (info_.index >= pool->grant_slots || (holder != lane.publisher && holder != session_->id())) {
    return false;
  }
  slot.store(session_->id(), std::memory_order_relaxed);  // STEP take_over.slot
  out->slot = static_cast<uint16_t>(info_.index);
  return true;
}

Code SubscriberPort::TakeFrom(LaneRef& lane, ChunkRef* out) {
  Cursor& cursor = lane.view.cursors[info_.index];
  if (lane.history_next != kHistoryDone) [[unlikely]] {
    const Code code = TakeFromHistory(lane, out);
    if (code != Code::kEndOfStream) return code;
  }
  for (;;) {
    // STEP take.look
    uint64_t word = cursor.word.load(std::memory_order_acquire);  // PAIR cursor.word
    if (CursorEpoch(word) != info_.epoch) return Code::kTimeout;  // not served yet, or no more
    const uint64_t position = CursorPosition(word);
    // The known tail is used up; or a publisher that dropped has passed it.
    if (QueuedCount(lane.tail, position) - 1 >= lane.view.capacity) {
      // STEP take.tail
      lane.tail = lane.view.lane->tail.load(std::memory_order_acquire);  // PAIR lane.tail
    }
    const uint64_t queued = QueuedCount(lane.tail, position);
    if (queued == 0) {
      if (lanes_.size() == 1 && stamp_known_) {
        quiet_tail_ = &lane.view.lane->tail;
        quiet_at_ = lane.tail;
      }
      return Code::kTimeout;
    }
    if (session_->AtHeldLimit()) [[unlikely]]
      return Code::kHeldLimit;
    // STEP take.cell
    const uint64_t bits = lane.view.cell(position).load(std::memory_order_acquire);
    // After the cell: a cell that was written over by a publisher that does not wait for us any
    // more is believed to be ours only if this was said before.
    if (!Mutant(26) && cursor.stopped_epoch.load(std::memory_order_acquire) == info_.epoch)
        [[unlikely]] {
      return Detached();  // PAIR cursor.stopped  STEP take.stopped
    }
    if (queued > lane.view.capacity) {
      if (info_.lossy && cursor.word.load(std::memory_order_acquire) != word) continue;  // dropped
      return Damaged(lane);
    }
    if (info_.lossy) {
      // The publisher may write the cell anew meanwhile, but only after it has moved the cursor:
      // who wins the cursor has read the right cell.
      if (!Mutant(12)) {
        // STEP take.claim
        cursor.subscriber_claim.store(EncodeClaim(bits, word, kCursorS), std::memory_order_release);
      }
      const uint64_t moved = CursorWith(word ^ kCursorS, info_.epoch, position + 1);
      // STEP take.win
      if (!cursor.word.compare_exchange_strong(word, moved, std::memory_order_acq_rel,
                                               std::memory_order_relaxed)) {
        continue;
      }
      const bool taken = TakeOver(lane, DecodeCell(bits), out);
      // STEP take.unclaim
      cursor.subscriber_claim.store(0, std::memory_order_release);  // after take-over (U3)
      if (!taken) return Damaged(lane);
      CountMissed(lane, position);
      lane.expected = position + 1;
    } else {
      const auto move_cursor = [&] {
        // STEP take.cursor
        cursor.word.store(CursorWith(word, info_.epoch, position + 1), std::memory_order_release);
      };
      if (Mutant(4)) move_cursor();  // the cursor before take-over
      if (!TakeOver(lane, DecodeCell(bits), out)) return Damaged(lane);
      // Take-over before cursor (U1): the cursor's store is a release, so nobody sees it without
      // the take-over.
      if (!Mutant(4)) move_cursor();
    }
    if (queued > kAhead) PrefetchAhead(lane, position + kAhead, *out->pool);
    sequence_ = position + 1;
    missed_before_ = missed_count_ - std::exchange(told_missed_count_, missed_count_);
    session_->CountAcquired();
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (lane.view.lane->publisher_waits.load(std::memory_order_relaxed) != 0) [[unlikely]] {
      RingPublisher(lane, position + 1);
    }
    return Code::kOk;
  }
}

Code SubscriberPort::TakeFromLanes(ChunkRef* out) {
  quiet_tail_ = nullptr;
  for (size_t looked = 0; looked < lanes_.size(); ++looked) {
    if (next_lane_ >= lanes_.size()) next_lane_ = 0;
    Code code = TakeFrom(lanes_[next_lane_], out);
    if (code == Code::kOk && ++taken_in_a_row_ < kTakesInARow) return code;
    if (left_) return code;
    taken_in_a_row_ = 0;
    ++next_lane_;
    // A publisher that keeps its queue full must not keep new ones out of sight.
    if (code == Code::kOk) LookForNewLanes();
    if (code != Code::kTimeout) return code;
  }
  return Code::kTimeout;
}

// The next message that was published before this subscriber was served. kTimeout: there is none
// now; kEndOfStream: there will be none.
Code SubscriberPort::TakeFromHistory(LaneRef& lane, ChunkRef* out) {
  const Cursor& cursor = lane.view.cursors[info_.index];
  if (cursor.stopped_epoch.load(std::memory_order_acquire) == info_.epoch) return Detached();
  for (uint32_t looks = 0; looks <= info_.history_count; ++looks) {
    // The tail first: if this subscriber is not served after that, nothing before the tail is
    // granted to it. PAIR lane.tail, cursor.word
    const bool early = Mutant(33) && CursorEpoch(cursor.word.load()) == info_.epoch;
    // STEP history.tail
    const uint64_t tail = lane.view.lane->tail.load(std::memory_order_acquire);
    // STEP history.served
    const bool served =
        Mutant(33) ? early
                   : CursorEpoch(cursor.word.load(std::memory_order_acquire)) == info_.epoch;
    // STEP history.start
    const uint64_t end = served ? cursor.start.load(std::memory_order_relaxed) : tail;
    const uint64_t oldest = end - std::min<uint64_t>(end, info_.history_count);
    if (lane.history_next == kHistoryUnseen || lane.history_next < oldest) {
      if (lane.history_begun) missed_count_ += oldest - lane.history_next;
      lane.history_next = oldest;
    }
    if (lane.history_next >= end) {
      if (!served) return Code::kTimeout;
      lane.history_next = kHistoryDone;
      return Code::kEndOfStream;
    }
    if (session_->AtHeldLimit()) return Code::kHeldLimit;
    const Code code = OpenMessage(lane, lane.history_next, out);
    if (code == Code::kHoldersFull && IsCrowded()) return Code::kTimeout;
    crowded_since_ = {};
    ++lane.history_next;
    if (code != Code::kOk) {  // it has just left the history, or is left out
      if ((lane.history_begun && !Mutant(55)) || code == Code::kHoldersFull) ++missed_count_;
      continue;
    }
    sequence_ = lane.history_next;
    lane.history_begun = true;
    missed_before_ = missed_count_ - std::exchange(told_missed_count_, missed_count_);
    return Code::kOk;
  }
  return Code::kTimeout;
}

// Opens the message at `position`. kStale: the publisher keeps it no more.
Code SubscriberPort::OpenMessage(const LaneRef& lane, uint64_t position, ChunkRef* out) {
  // STEP open_message.cell
  const Cell cell = DecodeCell(lane.view.cell(position).load(std::memory_order_acquire));
  const PoolView* pool = session_->manager().pool(cell.pool);
  if (cell.kind != CellKind::kShared || pool == nullptr) return Code::kStale;
  const uint64_t handle = Encode(
      ChunkHandle{cell.pool, pool->incarnation, cell.chunk, cell.tag + pool->generation_base});
  if (Code code = session_->Open(handle, out); code != Code::kOk) return code;
  // The cell may have been written anew just before: then this is a later message.
  // STEP open_message.sequence
  const uint64_t sequence = pool->headers[cell.chunk].sequence.load(std::memory_order_relaxed);
  if (sequence == position + 1 || Mutant(34)) return Code::kOk;
  session_->Release(*out);
  return Code::kStale;
}

// True as long as it is worth waiting for one of the holders.
bool SubscriberPort::IsCrowded() {
  const auto now = std::chrono::steady_clock::now();
  if (crowded_since_ == std::chrono::steady_clock::time_point{}) crowded_since_ = now;
  return now - crowded_since_ < kCrowdPatience;
}

// What lies between the last message that was taken from the lane, or the start of its service, and
// `position` was dropped.
void SubscriberPort::CountMissed(LaneRef& lane, uint64_t position) {
  if (lane.expected == kNotServedYet) {
    lane.expected = lane.view.cursors[info_.index].start.load(std::memory_order_relaxed);
  }
  missed_count_ += QueuedCount(position, lane.expected);
}

Code SubscriberPort::Damaged(LaneRef& lane) {
  finished_epoch_[lane.entry] = lane.epoch;
  std::erase_if(lanes_, [&](const LaneRef& other) { return &other == &lane; });
  return Code::kDamaged;
}

// Wakes the publisher if as many cells are free for it as it asks for; once per sleep. It does not
// wait for a lossy subscriber.
void SubscriberPort::RingPublisher(const LaneRef& lane, uint64_t position) {
  if (info_.lossy) return;
  // STEP ring_publisher.waits
  const uint32_t wanted = lane.view.lane->publisher_waits.load(std::memory_order_relaxed);
  const uint64_t tail = lane.view.lane->tail.load(std::memory_order_relaxed);
  if (info_.queue_capacity - QueuedCount(tail, position) < wanted) return;
  std::atomic<uint32_t>& bell = lane.view.lane->publisher_bell;
  // STEP ring_publisher.bell
  if (bell.load(std::memory_order_relaxed) == last_rung_[lane.entry]) return;
  // STEP ring_publisher.wake
  last_rung_[lane.entry] = bell.fetch_add(1) + 1;
  FutexWake(bell, 1);
}

// Nothing to take: are there new lanes, have old ones ended, is this the end of the stream?
Code SubscriberPort::Idle(ChunkRef* out) {
  if (left_) return why_left_;
  // STEP idle.stamp
  const uint32_t stamp =
      channel_.header->lane_stamp.load(std::memory_order_acquire);  // PAIR lane.stamp
  if (stamp == stamp_ && stamp_known_) [[likely]]
    return Code::kTimeout;
  const uint32_t entry = channel_.subscribers[info_.index].epoch.load(std::memory_order_acquire);
  if (!SubscriberIsOpen(entry) || SubscriberEpoch(entry) != info_.epoch) return Detached();
  // Before the last look at the lanes: what was published by then is taken.
  // STEP idle.deleted
  const bool deleted = channel_.header->state.load(std::memory_order_acquire) !=
                       static_cast<uint32_t>(ChannelState::kOpen);
  RefreshLanes(stamp);

  std::vector<LaneRef> open;
  for (LaneRef& lane : lanes_) {
    // The state before the last look at the lane: after kClosed or kDead, nothing is added to it.
    const LaneEntry& shared = channel_.lanes[lane.entry];
    // STEP idle.state
    const auto state = static_cast<LaneState>(shared.state.load(std::memory_order_acquire));
    std::atomic<uint64_t>& cursor = lane.view.cursors[info_.index].word;
    // STEP idle.look
    uint64_t word = cursor.load(std::memory_order_acquire);
    const bool served = CursorEpoch(word) == info_.epoch;
    const bool empty = !served || QueuedCount(lane.view.lane->tail.load(std::memory_order_acquire),
                                              CursorPosition(word)) == 0;
    if (state == LaneState::kOpen || !empty) {
      open.push_back(lane);
      continue;
    }
    if (served && info_.lossy) CountMissed(lane, CursorPosition(word));
    // Done with it: epoch 0 tells the daemon.  STEP idle.done
    if (served) cursor.compare_exchange_strong(word, CursorWith(word, 0, CursorPosition(word)));
    finished_epoch_[lane.entry] = lane.epoch;
    ++ended_count_;
    publisher_died_ |= state == LaneState::kDead;
  }
  lanes_ = std::move(open);
  // With messages left in a closed lane, the next calls take them and then look again.
  stamp_known_ = std::none_of(lanes_.begin(), lanes_.end(), [&](const LaneRef& lane) {
    return channel_.lanes[lane.entry].state.load(std::memory_order_relaxed) !=
           static_cast<uint16_t>(LaneState::kOpen);
  });
  if (deleted) {
    stamp_known_ = false;
    const Code code = TakeFromLanes(out);
    if (code != Code::kTimeout) return code;
    why_left_ = Code::kChannelDeleted;
    return Detached();
  }
  if (!lanes_.empty()) return TakeFromLanes(out);
  if (ended_count_ == 0) return Code::kTimeout;
  ended_count_ = 0;
  return std::exchange(publisher_died_, false) ? Code::kPublisherDied : Code::kEndOfStream;
}

void SubscriberPort::LookForNewLanes() {
  // STEP new_lanes.stamp
  const uint32_t stamp = channel_.header->lane_stamp.load(std::memory_order_acquire);
  if (stamp == stamp_) return;  // PAIR lane.stamp
  RefreshLanes(stamp);
  stamp_known_ = false;
}

void SubscriberPort::Leave() {
  if (left_) return;  // the index may be another's by now
  left_ = true;
  quiet_tail_ = nullptr;
  lanes_.clear();
  // STEP leave.epoch
  channel_.subscribers[info_.index].left_epoch.store(info_.epoch, std::memory_order_release);
}

// Leaves: the last look at the channel. The daemon's next tick lets go of what waits.
Code SubscriberPort::Detached() {
  Leave();
  return why_left_;
}

// Reads the lane table anew and says so: lanes that are not listed any more are not looked at any
// more.
void SubscriberPort::RefreshLanes(uint32_t stamp) {
  quiet_tail_ = nullptr;
  std::vector<LaneRef> lanes;
  for (uint32_t i = 0; i < kLaneEntries; ++i) {
    const LaneEntry& entry = channel_.lanes[i];
    // STEP refresh_lanes.state
    const auto state = static_cast<LaneState>(entry.state.load(std::memory_order_acquire));
    const uint32_t epoch = entry.epoch.load(std::memory_order_relaxed);
    if ((state != LaneState::kOpen && state != LaneState::kClosed && state != LaneState::kDead) ||
        finished_epoch_[i] == epoch) {
      continue;
    }
    std::byte* bytes = session_->manager().ManagementAt(
        entry.offset.load(std::memory_order_relaxed), channel_.geometry.lane_bytes());
    if (bytes == nullptr) continue;  // forged
    const LaneView view = LaneView::At(bytes, channel_.geometry);
    const auto known = std::find_if(lanes_.begin(), lanes_.end(), [&](const LaneRef& lane) {
      return lane.entry == i && lane.epoch == epoch;
    });
    lanes.push_back({view, i, epoch, entry.session.load(std::memory_order_relaxed),
                     view.lane->tail.load(
                         std::memory_order_acquire),  // PAIR lane.tail  STEP refresh_lanes.tail
                     known == lanes_.end() ? kNotServedYet : known->expected,
                     info_.history_count == 0 ? kHistoryDone
                     : known == lanes_.end()  ? kHistoryUnseen
                                              : known->history_next,
                     known != lanes_.end() && known->history_begun});
  }
  lanes_ = std::move(lanes);
  stamp_ = stamp;
  // STEP refresh_lanes.ack
  channel_.subscribers[info_.index].lane_ack.store(stamp, std::memory_order_release);
}

uint32_t SubscriberPort::PrepareToSleep() {
  // Changed, so that no older ring can look like one for this sleep, and that who has rung for the
  // last one rings again.
  // STEP sleep.bell
  const uint32_t prepared = Mutant(40) ? bell().load() : bell().fetch_add(1) + 1;
  // STEP sleep.flag
  channel_.header->waiters.fetch_or(uint64_t{1} << info_.index);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return prepared;
}

// Only the sleeper clears its flag; the daemon that of who has left.
void SubscriberPort::StandDown() {
  // STEP sleep.clear
  if (!left_) channel_.header->waiters.fetch_and(~(uint64_t{1} << info_.index));
}

void SubscriberPort::LookAt(LaneLook* look) const {
  look->lane_stamp_ = &channel_.header->lane_stamp;
  look->stamp_ = stamp_;
  look->epoch_ = info_.epoch;
  look->places_.clear();
  for (const LaneRef& lane : lanes_)
    look->places_.push_back({&lane.view.cursors[info_.index].word, &lane.view.lane->tail});
}

void SubscriberPort::SleepOnBell(uint32_t value, std::chrono::nanoseconds time) const {
  FutexWait(bell(), value, time);
}

void SubscriberPort::WakeSleeper(bool change) const {
  if (change) bell().fetch_add(1);
  FutexWake(bell());
}

Code SubscriberPort::Take(Deadline deadline, ChunkRef* out) {
  Code code = TryTake(out);
  if (code != Code::kTimeout || deadline.Passed()) return code;
  const auto spin_end = std::chrono::steady_clock::now() + kSpinTime;
  do {
    SpinPause();
    code = TryTake(out);
    if (code != Code::kTimeout) return code;
  } while (std::chrono::steady_clock::now() < spin_end);

  // Who sleeps pays: the publisher's side is a plain load. Between the flag and the sleep lies a
  // look of 2 us, longer than a publisher's store stays in a store buffer; should it ever stay
  // longer, the first sleep ends after 1 ms by itself, and the next look sees the message.
  for (;;) {
    const uint32_t prepared = PrepareToSleep();
    const auto look_end = std::chrono::steady_clock::now() + kSpinTime;
    // STEP sleep.look
    do {
      code = TryTake(out);
    } while (code == Code::kTimeout && std::chrono::steady_clock::now() < look_end);
    if (code == Code::kTimeout) {
      // STEP sleep.slice
      FutexWait(bell(), prepared, deadline.Left(kFirstSlice));
      code = TryTake(out);  // STEP sleep.again
    }
    if (code == Code::kTimeout && !deadline.Passed()) {
      const bool crowded = crowded_since_ != std::chrono::steady_clock::time_point{};
      // STEP sleep.sleep
      FutexWait(bell(), prepared,
                deadline.Left(crowded ? std::chrono::nanoseconds(kCrowdSlice) : kLongestSleep));
      code = TryTake(out);
    }
    StandDown();
    if (left_) return code;
    if (code != Code::kTimeout || deadline.Passed()) return code;
  }
}

}  // namespace zerocp::shm
