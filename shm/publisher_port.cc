#include "shm/publisher_port.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "shm/chunk_ops.h"
#include "shm/futex.h"

namespace zerocp::shm {
namespace {

// Messages that are dropped at once, so that a publisher that overruns a subscriber meets its
// cursor's line only now and then: a sixteenth of the queue, but no long pause either.
constexpr uint32_t kDropsAtOnce = 16;

bool IsCapacity(uint32_t value) {
  return value >= 1 && value <= kMaxQueueCapacity && std::has_single_bit(value);
}

}  // namespace

PublisherPort::PublisherPort(std::shared_ptr<Session> session, const JoinInfo& info)
    : session_(std::move(session)), info_(info) {}

Result<std::unique_ptr<PublisherPort>> PublisherPort::Create(std::shared_ptr<Session> session,
                                                             const JoinInfo& info) {
  const MemPoolManager& manager = session->manager();
  std::byte* region =
      manager.ManagementAt(info.geometry.region_offset, info.geometry.region_bytes());
  std::byte* lane = manager.ManagementAt(info.lane_offset, info.geometry.lane_bytes());
  const PoolView* pool = session->manager().pool(info.pool);
  if (region == nullptr || lane == nullptr || pool == nullptr ||
      !IsCapacity(info.geometry.queue_capacity) ||
      info.history_count > info.geometry.queue_capacity ||
      info.grant_slots() > std::min<uint32_t>(kMaxSubscribers, pool->grant_slots)) {
    return Status(Code::kDamaged, "the daemon's answer to the join does not fit the segments");
  }
  std::unique_ptr<PublisherPort> port(new PublisherPort(std::move(session), info));
  port->channel_ = ChannelView::At(region, info.geometry);
  port->lane_ = LaneView::At(lane, info.geometry);
  port->pool_ = pool;
  port->SetActive(0);
  if (info.history_count > 0) port->history_bit_ = uint64_t{1} << info.history_slot();
  port->Refresh();
  return port;
}

Code PublisherPort::Publish(const ChunkRef& chunk, Deadline deadline, Published* published) {
  if (channel_.header->subscriber_stamp.load(std::memory_order_acquire) != stamp_) [[unlikely]] {
    Refresh();  // PAIR sub.stamp  STEP publish.look
    if (!IsOpen()) return Code::kChannelDeleted;
  }
  // A chunk of another pool needs a grant slot for each subscriber that there can be.
  if (chunk.pool != pool_ && chunk.pool->grant_slots < info_.grant_slots()) return Code::kInvalid;
  int dropped = 0;
  if (tail_ >= room_) [[unlikely]] {
    if (Code code = MakeRoom(deadline, &dropped); code != Code::kOk) return code;
  }
  ChunkManager& record = chunk.pool->record(chunk.chunk);
  SetLabel(record, sent_label_);
  Cell cell{CellKind::kNone, chunk.pool->index, chunk.chunk, 0};
  uint64_t leaves_history = 0;  // the cell of the message that this one pushes out
  if (history_bit_ != 0 && tail_ >= info_.history_count) [[unlikely]] {
    // STEP publish.leaves
    leaves_history = lane_.cell(tail_ - info_.history_count).load(std::memory_order_relaxed);
  }
  if (active_count_ == 1 && history_bit_ == 0) {
    // One receiver: the chunk changes hands, and stays LOANED in this session's name until it is
    // taken.
    cell.kind = CellKind::kMoved;
    // STEP publish.moved
    cell.tag = StampTag(record.word.load(std::memory_order_relaxed));
  } else if ((active_ | history_bit_) != 0) {
    cell.kind = CellKind::kShared;
    chunk.header().sequence.store(tail_ + 1, std::memory_order_relaxed);  // published with the cell
    cell.tag = ShareChunk(record, session_->id(), active_ | history_bit_);
  }
  // STEP publish.cell
  lane_.cell(tail_).store(Encode(cell), std::memory_order_release);
  ++tail_;
  // STEP publish.tail
  lane_.lane->tail.store(tail_,
                         std::memory_order_release);  // given up exactly here (P1)  PAIR lane.tail

  // A sleeper's flag is looked for only after the message is in the lane. The processor may still
  // do the two the other way round; the sleeper's first slice covers that (SubscriberPort::Take).
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (!Mutant(3)) {
    // STEP ring.waiters
    const uint64_t waiters = channel_.header->waiters.load(std::memory_order_relaxed);
    if (waiters != 0) [[unlikely]]
      RingWaiters(waiters);
  }
  if (history_bit_ != 0) [[unlikely]] {
    if (leaves_history != 0 && !Mutant(32)) TakeBack(leaves_history, info_.history_slot());
  } else if (active_ == 0) {
    session_->ToCache(*chunk.pool, chunk.chunk);
  }
  session_->CountReleased();
  // By one store, for who passes it on loads it whole.
  *published = std::bit_cast<Published>(static_cast<uint64_t>(active_count_) |
                                        static_cast<uint64_t>(dropped) << 32);
  return Code::kOk;
}

Code PublisherPort::WaitForSubscribers(int count, Deadline deadline, int* present) {
  Lane& lane = *lane_.lane;
  for (;;) {
    const uint32_t bell = lane.publisher_bell.load(std::memory_order_acquire);
    if (channel_.header->subscriber_stamp.load(std::memory_order_acquire) != stamp_) Refresh();
    *present = active_count_;
    if (!IsOpen()) return Code::kChannelDeleted;
    if (*present >= count) return Code::kOk;
    if (deadline.Passed()) return Code::kTimeout;
    // The daemon rings every bell after each join, whether anybody waits or not.
    FutexWait(lane.publisher_bell, bell, deadline.Left(kLongestSleep));
  }
}

void PublisherPort::LookWhoIsGone() {
  if (Mutant(101)) return;
  if (channel_.header->subscriber_stamp.load(std::memory_order_acquire) != stamp_) Refresh();
}

bool PublisherPort::IsOpen() const {
  return channel_.header->state.load(std::memory_order_acquire) ==
         static_cast<uint32_t>(ChannelState::kOpen);
}

// Looks who is subscribed now: takes back what was for those who are gone, serves those who are new
// from the next message on.
void PublisherPort::Refresh() {
  // STEP refresh.stamp
  stamp_ = channel_.header->subscriber_stamp.load(std::memory_order_acquire);  // PAIR sub.stamp
  for (uint32_t k = 0; k < channel_.geometry.max_subscriber_count; ++k) {
    // STEP refresh.entry
    const uint32_t entry = channel_.subscribers[k].epoch.load(std::memory_order_acquire);
    const uint64_t bit = uint64_t{1} << k;
    if ((active_ & bit) != 0 && (!SubscriberIsOpen(entry) || SubscriberEpoch(entry) != epoch_[k]))
      Detach(k);
    if ((active_ & bit) == 0 && SubscriberIsOpen(entry)) Serve(k, SubscriberEpoch(entry));
  }
  shortest_queue_ = lane_.capacity;
  for (uint64_t bits = active_ & ~lossy_; bits != 0; bits &= bits - 1) {
    shortest_queue_ =
        std::min(shortest_queue_, capacity_[static_cast<size_t>(std::countr_zero(bits))]);
  }
  room_ = tail_ + FreeCells(active_, 1);
  if (!IsOpen()) {
    LetGoOfHistory();  // nobody joins any more
    --stamp_;          // so that every Publish comes here
  }
}

void PublisherPort::LetGoOfHistory() {
  if (std::exchange(history_bit_, 0) == 0) return;
  const uint64_t kept = std::min<uint64_t>(tail_, info_.history_count);
  for (uint64_t position = tail_ - kept; position < tail_ && !Mutant(35); ++position) {
    TakeBack(lane_.cell(position).load(std::memory_order_relaxed), info_.history_slot());
  }
}

// Serves subscriber `k` from the next message on, as it asked for when it joined.
void PublisherPort::Serve(uint32_t k, uint32_t epoch) {
  const SubscriberEntry& entry = channel_.subscribers[k];
  Cursor& cursor = lane_.cursors[k];
  const uint64_t bit = uint64_t{1} << k;
  const uint32_t capacity = entry.queue_capacity.load(std::memory_order_relaxed);
  capacity_[k] = std::clamp(capacity, 1u, lane_.capacity);  // it may be forged
  lossy_ = entry.lossy.load(std::memory_order_relaxed) != 0 ? lossy_ | bit : lossy_ & ~bit;
  // STEP serve.start
  cursor.start.store(tail_, std::memory_order_relaxed);
  cursor.dropped.store(0, std::memory_order_relaxed);
  // Killed before it: the numbers are of an epoch that is gone, and count for nobody.
  cursor.start_epoch.store(epoch, std::memory_order_release);  // PAIR cursor.start_epoch
  uint64_t word = cursor.word.load(std::memory_order_acquire);
  // STEP serve.cursor
  while (!cursor.word.compare_exchange_weak(word, CursorWith(word, epoch, tail_),
                                            std::memory_order_acq_rel,  // PAIR cursor.word
                                            std::memory_order_acquire)) {
  }
  epoch_[k] = epoch;
  if (!Mutant(41)) room_of_[k] = tail_ + capacity_[k];
  SetActive(active_ | bit);
}

// The subscriber lives, and may be in the middle of the take of the message at its cursor, at any
// instruction: its plain stores would hit whatever became of that chunk meanwhile, and its cursor.
// So the message stays as it is, and the cursor the subscriber's. The others it will not touch: it
// looks at stopped_epoch after each cell it reads, and so also learns that a cell is another's now.
// When it has left or died, the daemon lets go of the one (Recovery::LetGo).
// REQUIRES: claimed.
void PublisherPort::GiveUp(Cursor& cursor, uint32_t k) {
  const uint64_t kept = CursorPosition(cursor.given_up.load(std::memory_order_relaxed));
  const uint64_t queued = QueuedCount(tail_, kept);
  if (queued > lane_.capacity) return;  // forged
  for (uint64_t i = Mutant(25) ? 0 : 1; i < queued; ++i) {
    TakeBack(lane_.cell(kept + i).load(std::memory_order_relaxed), k);  // this port wrote it
  }
}

// Stops serving subscriber `k`, of whom the daemon says that it can take nothing any more. Each
// message it left is taken back by whoever moves the cursor over it: this port, or the daemon.
void PublisherPort::Detach(uint32_t k) {
  Cursor& stopped = lane_.cursors[k];
  // A lossy one takes over only what it has won from the cursor: anybody may move that.
  // STEP detach.stopped
  if ((lossy_ >> k & 1) == 0 &&
      stopped.stopped_epoch.load(std::memory_order_acquire) == epoch_[k]) {  // PAIR cursor.stopped
    // STEP detach.position
    const uint64_t at = CursorPosition(stopped.word.load(std::memory_order_acquire));
    const bool waits = QueuedCount(tail_, at) != 0;
    // STEP detach.kept
    stopped.kept_cell.store(waits ? lane_.cell(at).load(std::memory_order_relaxed) : 0,
                            std::memory_order_relaxed);
    if (ClaimStopped(stopped, epoch_[k], at)) {
      GiveUp(stopped, k);
      SetActive(active_ & ~(uint64_t{1} << k));
      return;
    }
  }
  std::atomic<uint64_t>& cursor = lane_.cursors[k].word;
  // STEP detach.cursor
  uint64_t word = cursor.load(std::memory_order_acquire);  // PAIR cursor.word
  while (CursorEpoch(word) == epoch_[k]) {
    const uint64_t position = CursorPosition(word);
    const uint64_t queued = QueuedCount(tail_, position);
    if (queued == 0 || queued > lane_.capacity) {  // nothing is left, or the cursor is forged
      // STEP detach.end
      if (cursor.compare_exchange_weak(word, CursorWith(word, 0, tail_), std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
        break;
      }
      continue;
    }
    const uint64_t cell =
        lane_.cell(position).load(std::memory_order_relaxed);  // this port wrote it
    // STEP detach.message
    if (cursor.compare_exchange_weak(word, CursorWith(word, epoch_[k], position + 1),
                                     std::memory_order_acq_rel, std::memory_order_acquire)) {
      TakeBack(cell, k);
      word = cursor.load(std::memory_order_acquire);
    }
  }
  SetActive(active_ & ~(uint64_t{1} << k));
}

// A message of this port's, over which this port moved the cursor of subscriber `k`. One that is
// gone may have taken it over before it went (with a waiting one, take-over comes before the
// cursor): whether it is still ours is seen in the records alone.
void PublisherPort::TakeBack(uint64_t cell_bits, uint32_t k) {
  const Cell cell = DecodeCell(cell_bits);
  const PoolView* pool = session_->manager().pool(cell.pool);
  if (pool == nullptr || cell.chunk >= pool->live_chunk_count()) return;
  ChunkManager& record = pool->record(cell.chunk);
  if (cell.kind == CellKind::kMoved) {
    // STEP take_back.moved
    const uint64_t word = record.word.load(std::memory_order_acquire);
    if (IsOwned(word, Kind::kLoaned, session_->id()) && StampTag(word) == cell.tag) {
      StoreWord(record, Kind::kLoaned, session_->id());  // the next message in it is another use
      session_->ToCache(*pool, cell.chunk);
    }
  } else if (cell.kind == CellKind::kShared) {
    // Within one generation the slot goes from us to the subscriber to 0 and never back, so while
    // it is ours in this generation it is this message's, and pins the chunk.
    const uint16_t mine = session_->id();
    const bool ours =
        // STEP take_back.generation
        record.generation.load(std::memory_order_acquire) == cell.tag &&  // PAIR chunk.generation
        // STEP take_back.slot
        record.slots()[k].load(std::memory_order_acquire) == mine &&
        // STEP take_back.again
        record.generation.load(std::memory_order_relaxed) == cell.tag;
    const bool last = ours ? ReleaseSlot(record, pool->slot_count, k, mine)
                           : CloseIfUnheld(record, pool->slot_count, Kind::kLoaned, mine);
    if (last || Mutant(42)) {
      session_->ToCache(*pool, cell.chunk);
    }
  }
}

// Cells that are free at each of `subscribers`, as far as they are served. Another core writes the
// cursors, so it looks only at those of whom it does not know `wanted` free cells already. One
// whose cursor is impossible is not served any more; what it left stays in this session's name.
uint64_t PublisherPort::FreeCells(uint64_t subscribers, uint64_t wanted) {
  uint64_t free = lane_.capacity;
  for (uint64_t bits = active_ & subscribers; bits != 0; bits &= bits - 1) {
    const uint32_t k = static_cast<uint32_t>(std::countr_zero(bits));
    if (room_of_[k] <= tail_ || room_of_[k] - tail_ < wanted) {
      // STEP room.cursor
      const uint64_t word =
          lane_.cursors[k].word.load(std::memory_order_acquire);  // PAIR cursor.word
      const uint64_t queued = QueuedCount(tail_, CursorPosition(word));
      if (queued > capacity_[k] || CursorEpoch(word) != epoch_[k]) {
        SetActive(active_ & ~(uint64_t{1} << k));
        continue;
      }
      room_of_[k] = tail_ + capacity_[k] - queued;
    }
    free = std::min(free, room_of_[k] - tail_);
  }
  return free;
}

// Waits for the waiting subscribers, then drops at the lossy ones: nothing is changed before (P2).
Code PublisherPort::MakeRoom(Deadline deadline, int* dropped) {
  if (Code code = WaitForRoom(deadline); code != Code::kOk) return code;
  for (uint64_t bits = active_ & lossy_; bits != 0; bits &= bits - 1) {
    *dropped += DropOldest(static_cast<uint32_t>(std::countr_zero(bits)));
  }
  room_ = tail_ + FreeCells(active_, std::max(1u, lane_.capacity / 4));
  return Code::kOk;
}

// Takes the oldest messages of subscriber `k` back if its queue is full. Returns how many: 0 if it
// made room itself. Killed between the count and the cursor: the count stays up to one round too
// high, and what was taken that much too low.
int PublisherPort::DropOldest(uint32_t k) {
  if (room_of_[k] > tail_) return 0;
  Cursor& cursor = lane_.cursors[k];
  const uint64_t dropped = cursor.dropped.load(std::memory_order_relaxed);
  // STEP drop.look
  uint64_t word = cursor.word.load(std::memory_order_acquire);  // PAIR cursor.word
  while (QueuedCount(tail_, CursorPosition(word)) == capacity_[k] &&
         CursorEpoch(word) == epoch_[k]) {
    const uint64_t position = CursorPosition(word);
    const uint32_t count = std::clamp(capacity_[k] / 16, 1u, kDropsAtOnce);
    const uint64_t moved = CursorWith(word, epoch_[k], position + count);
    // Before the cursor moves, so that nobody counts them as taken.
    cursor.dropped.store(dropped + count, std::memory_order_release);  // PAIR cursor.dropped
    if (Mutant(11)) {  // a store: what the subscriber takes meanwhile is dropped as well
      cursor.word.store(moved, std::memory_order_release);
      // STEP drop.cursor
    } else if (!cursor.word.compare_exchange_strong(word, moved, std::memory_order_acq_rel,
                                                    std::memory_order_acquire)) {
      cursor.dropped.store(dropped, std::memory_order_release);
      continue;
    }
    room_of_[k] = tail_ + count;
    // Other cores have used these lines last: they come together, where each compare-exchange would
    // wait for its own. The headers are written by the next publishes.
    for (uint32_t i = 0; i < count; ++i) {
      const Cell cell = DecodeCell(lane_.cell(position + i).load(std::memory_order_relaxed));
      const PoolView* pool = session_->manager().pool(cell.pool);
      if (pool == nullptr || cell.chunk >= pool->live_chunk_count()) continue;
      PrefetchToWrite(&pool->record(cell.chunk));
      PrefetchToWrite(&pool->headers[cell.chunk]);
    }
    for (uint32_t i = 0; i < count; ++i) {
      TakeBack(lane_.cell(position + i).load(std::memory_order_relaxed), k);
    }
    return static_cast<int>(count);
  }
  return 0;
}

// Waits until at least one cell is free at every waiting subscriber.
Code PublisherPort::WaitForRoom(Deadline deadline) {
  uint64_t free = FreeCells(~lossy_, 1);
  if (free == 0 && tail_ != waited_at_) {  // cold; nobody else writes it
    waited_at_ = tail_;
    std::atomic<uint64_t>& waited = lane_.lane->waited;
    waited.store(waited.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  if (free == 0 && deadline.waits()) {
    // A subscriber that keeps up frees cells one by one; asking for a quarter at once spares both
    // sides the ping-pong over the cursor's line.
    const uint32_t quarter = std::max(1u, shortest_queue_ / 4);
    const auto spin_end = std::chrono::steady_clock::now() + kSpinTime;
    do {
      if (deadline.Passed()) break;
      for (int i = 0; i < 16; ++i) SpinPause();
      free = FreeCells(~lossy_, quarter);
    } while (free < quarter && std::chrono::steady_clock::now() < spin_end);
    if (free == 0) SleepUntilRoom(quarter, Deadline::After(deadline.Left(kFirstSlice)));
  }
  while (FreeCells(~lossy_, 1) == 0) {
    if (!IsOpen()) return Code::kChannelDeleted;
    // STEP room.stamp
    if (channel_.header->subscriber_stamp.load(std::memory_order_acquire) != stamp_) {
      Refresh();
      continue;
    }
    if (deadline.Passed()) return Code::kTimeout;
    SleepUntilRoom(1, deadline);
  }
  return Code::kOk;
}

// Sleeps until `wanted` cells are free, somebody rings, or the deadline; see SubscriberPort::Take
// for why the first sleep is short.
void PublisherPort::SleepUntilRoom(uint32_t wanted, Deadline deadline) {
  Lane& lane = *lane_.lane;
  // STEP room_sleep.bell
  const uint32_t bell = lane.publisher_bell.fetch_add(1) + 1;
  // STEP room_sleep.flag
  lane.publisher_waits.store(wanted, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  auto enough = [&] {
    return FreeCells(~lossy_, wanted) >= wanted ||
           channel_.header->subscriber_stamp.load(std::memory_order_acquire) != stamp_ || !IsOpen();
  };
  const auto look_end = std::chrono::steady_clock::now() + kSpinTime;
  // STEP room_sleep.look
  bool done = enough();
  while (!done && std::chrono::steady_clock::now() < look_end) {
    SpinPause();
    done = enough();
  }
  if (!done) {
    // STEP room_sleep.slice
    FutexWait(lane.publisher_bell, bell, deadline.Left(kFirstSlice));
    // STEP room_sleep.again room_sleep.sleep
    if (!enough()) FutexWait(lane.publisher_bell, bell, deadline.Left(kLongestSleep));
  }
  // STEP room_sleep.clear
  lane.publisher_waits.store(0, std::memory_order_relaxed);
}

// Wakes sleeping subscribers, each once per sleep: a bell that still has the value this port left
// was not prepared for another sleep since, so its owner will look again anyway.
void PublisherPort::RingWaiters(uint64_t waiters) {
  // One that joined just now has no grant, but this message may be the last of its history.
  const uint64_t audience = history_bit_ != 0 ? history_bit_ - 1 : active_;
  for (uint64_t bits = waiters & audience; bits != 0; bits &= bits - 1) {
    const uint32_t k = static_cast<uint32_t>(std::countr_zero(bits));
    std::atomic<uint32_t>& bell = channel_.subscribers[k].bell;
    // STEP ring.bell
    if (bell.load(std::memory_order_relaxed) == last_rung_[k]) continue;
    // STEP ring.wake
    last_rung_[k] = bell.fetch_add(1) + 1;
    FutexWake(bell, 1);
  }
}

}  // namespace zerocp::shm
