#include "shm/recovery.h"

#include <algorithm>

#include "shm/chunk_ops.h"
#include "shm/free_list.h"
#include "shm/futex.h"
#include "shm/settle.h"

namespace zerocp::shm {
namespace {

// Lost races before the daemon leaves a chunk to the next sweep: no client may keep it here.
constexpr int kTries = 64;
// Messages a tick takes in somebody's place before it leaves the rest to the next one.
constexpr uint32_t kDrainsPerTick = 10000;
// A search for lost hints may take at most this part of the daemon's time.
constexpr int kScrubShare = 10;

// Of one lane for one subscriber: as many as there can be, and some lost races.
uint32_t MostDrains(const ChannelRegistry::Channel& channel) {
  return channel.geometry.queue_capacity + kTries;
}

// The chunk of a cell, as far as it can be believed.
struct CellTarget {
  const PoolView* pool = nullptr;
  ChunkManager* record = nullptr;
};
CellTarget Locate(MemPoolManager& manager, const Cell& cell) {
  const PoolView* pool = manager.pool(cell.pool);
  if (pool == nullptr || (cell.chunk >= pool->live_chunk_count() && !Mutant(87))) return {};
  return {pool, &pool->record(cell.chunk)};
}

// T8: an owned word -> FREE, hint after it. True if this call did it.
bool FreeWord(const PoolView& pool, uint32_t chunk, uint64_t word) {
  // STEP free.word
  if (!ReplaceWord(pool.record(chunk), word, Kind::kFree, 0)) return false;
  FreeList::SetChunk(pool.hints, chunk);
  return true;
}

// T10: SHARED without holders -> FREE.
bool FreeUnheld(const PoolView& pool, uint32_t chunk) {
  if (!CloseIfUnheld(pool.record(chunk), pool.slot_count, Kind::kFree, 0, kTries)) return false;
  FreeList::SetChunk(pool.hints, chunk);
  return true;
}

}  // namespace

RecoveryReport Recovery::Recover(const SessionSet& gone, bool orderly) {
  RecoveryReport report;
  for (uint32_t index : registry_.List()) {
    ChannelRegistry::Channel& channel = *registry_.channel(index);
    bool touched = false;
    for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
      if (channel.subscribers[k].session == 0 || !gone[channel.subscribers[k].session]) continue;
      registry_.CloseSubscriber(channel, k);
      touched = true;
    }
    for (uint32_t lane = 0; lane < kLaneEntries; ++lane) {
      const ChannelRegistry::LaneRecord& record = channel.lanes[lane];
      if (record.state == LaneState::kFree || record.session == 0 || !gone[record.session])
        continue;
      if (!Mutant(5))
        Deliver(channel, lane, gone, report);  // before the sweep takes what is in its name
      registry_.CloseLane(channel, lane, orderly ? LaneState::kClosed : LaneState::kDead);
      touched = true;
    }
    for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
      if (channel.subscribers[k].session == 0 || !gone[channel.subscribers[k].session]) continue;
      for (uint32_t lane = 0; lane < kLaneEntries; ++lane) {
        const ChannelRegistry::LaneRecord& record = channel.lanes[lane];
        if (record.state != LaneState::kFree && !gone[record.session])
          LetGo(channel, lane, k, report);
      }
      registry_.FreeSubscriber(channel, k);  // R1
    }
    if (touched) registry_.RingAll(channel);
  }
  for (uint32_t index = 0; index < kMaxPools; ++index) {
    const PoolView* pool = manager_.pool(index);
    if (pool == nullptr) continue;
    const uint64_t before = report.freed_chunk_count;
    Sweep(*pool, gone, report);
    const uint64_t freed = report.freed_chunk_count - before;
    if (!orderly) pool->shared->recovered_chunk_count.fetch_add(freed, std::memory_order_relaxed);
    // Who waits for a chunk of this pool takes it now, not at the end of its slice.
    if (freed != 0 && pool->shared->pressure.exchange(0) != 0) FutexWake(pool->shared->pressure);
  }
  // No word or slot names them any more; neither must a lane whose entries nobody has to take.
  for (uint32_t index : registry_.List()) {
    ChannelRegistry::Channel& channel = *registry_.channel(index);
    for (uint32_t lane = 0; lane < kLaneEntries; ++lane) {
      if (!gone[channel.lanes[lane].session]) continue;
      channel.lanes[lane].session = 0;
      // A daemon that adopts must not take it for whoever gets the id next.
      // STEP recover.lane_session
      channel.view.lanes[lane].session.store(0, std::memory_order_relaxed);
    }
  }
  return report;
}

// Relabels what a gone publisher had sent to living subscribers, who then own it even while it
// waits.
void Recovery::Deliver(ChannelRegistry::Channel& channel, uint32_t lane_index,
                       const SessionSet& gone, RecoveryReport& report) {
  const uint16_t publisher = channel.lanes[lane_index].session;
  const LaneView lane = channel.Lane(channel.lanes[lane_index], manager_);
  for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
    const ChannelRegistry::SubscriberRecord& subscriber = channel.subscribers[k];
    // STEP deliver.cursor
    const uint64_t cursor =
        lane.cursors[k].word.load(std::memory_order_acquire);  // PAIR cursor.word
    if (subscriber.session == 0 || gone[subscriber.session] ||
        CursorEpoch(cursor) != subscriber.epoch)
      continue;
    // STEP deliver.tail
    const uint64_t tail = lane.lane->tail.load(std::memory_order_acquire);  // PAIR lane.tail
    uint64_t queued =
        std::min<uint64_t>(shm::QueuedCount(tail, CursorPosition(cursor)), lane.capacity);
    uint64_t kept;
    const bool given_up = IsGivenUp(lane.cursors[k], subscriber.epoch, &kept);
    if (given_up) queued = kept == CursorPosition(cursor) ? 1 : 0;
    // Read after the cursor: a take that it shows is in the claim, or was taken over before.
    // STEP deliver.claim
    const uint64_t claim = lane.cursors[k].subscriber_claim.load(std::memory_order_acquire);
    if (!Mutant(10) && ClaimWasWon(claim, cursor, kCursorS)) {
      Relabel(claim, k, publisher, subscriber.session, report);
    }
    for (uint64_t i = 0; i < queued; ++i) {
      // STEP deliver.cell
      const uint64_t cell =
          given_up ? lane.cursors[k].kept_cell.load(std::memory_order_relaxed)
                   : lane.cell(CursorPosition(cursor) + i).load(std::memory_order_relaxed);
      Relabel(cell, k, publisher, subscriber.session, report);
    }
  }
}

// One message of a gone publisher gets the name of subscriber `k`, unless it has it already.
void Recovery::Relabel(uint64_t cell_bits, uint32_t k, uint16_t publisher, uint16_t subscriber,
                       RecoveryReport& report) {
  const Cell cell = DecodeCell(cell_bits & ~(kClaimValid | kClaimBit));
  const CellTarget target = Locate(manager_, cell);
  if (target.record == nullptr) return;
  if (cell.kind == CellKind::kMoved) {  // T9  STEP relabel.word
    const uint64_t word = target.record->word.load(std::memory_order_acquire);
    if (IsOwned(word, Kind::kLoaned, publisher) && StampTag(word) == cell.tag &&
        ReplaceWord(*target.record, word, Kind::kLoaned, subscriber)) {
      ++report.delivered_count;
    }
  } else if (cell.kind == CellKind::kShared && k < target.pool->grant_slots) {
    uint16_t expected = publisher;
    // STEP relabel.slot
    if (target.record->slots()[k].compare_exchange_strong(expected, subscriber))
      ++report.delivered_count;
  }
}

// Subscriber `k` can take nothing any more: lets go of the message whose cursor it had won and that
// it had not taken over.
void Recovery::FinishTake(ChannelRegistry::Channel& channel, uint32_t lane_index, uint32_t k,
                          RecoveryReport& report) {
  const ChannelRegistry::LaneRecord& record = channel.lanes[lane_index];
  Cursor& cursor = channel.Lane(record, manager_).cursors[k];
  // STEP finish_take.claim
  const uint64_t claim = cursor.subscriber_claim.load(std::memory_order_acquire);
  if (claim == 0) return;
  // STEP finish_take.cursor
  if (ClaimWasWon(claim, cursor.word.load(std::memory_order_acquire), kCursorS)) {
    Orphan(claim, k, record.session, report);
  }
  cursor.subscriber_claim.store(0, std::memory_order_release);  // STEP finish_take.clear
}

// Takes in the place of subscriber `k`, who can take nothing any more, what a living publisher
// sent. The claim and the cursor's D bit tell a daemon that starts after this one how far it came.
// `living_epoch`: that of the living subscriber who has the index now, whose messages are its own;
// 0: none.
uint32_t Recovery::Drain(ChannelRegistry::Channel& channel, uint32_t lane_index, uint32_t k,
                         uint32_t living_epoch, uint32_t most, RecoveryReport& report) {
  const ChannelRegistry::LaneRecord& record = channel.lanes[lane_index];
  if (record.session == 0) return 0;  // its publisher is gone: what waited was delivered or swept
  const LaneView lane = channel.Lane(record, manager_);
  Cursor& cursor = lane.cursors[k];
  uint32_t tries = 0;
  for (; tries < most; ++tries) {
    // STEP drain.cursor
    uint64_t word =
        cursor.word.load(std::memory_order_acquire);  // first, and whom it serves is in it
    const uint32_t epoch = CursorEpoch(word);
    if (epoch == 0 || epoch == living_epoch) break;
    const uint64_t position = CursorPosition(word);
    // STEP drain.tail
    const uint64_t queued =
        shm::QueuedCount(lane.lane->tail.load(std::memory_order_acquire), position);
    if (queued > lane.capacity && cursor.word.load(std::memory_order_acquire) != word) continue;
    if (queued == 0 || queued > lane.capacity) break;
    // STEP drain.cell
    const uint64_t cell = lane.cell(position).load(std::memory_order_acquire);
    // STEP drain.claim
    if (!Mutant(93))
      cursor.daemon_claim.store(EncodeClaim(cell, word, kCursorD), std::memory_order_release);
    // STEP drain.word
    if (cursor.word.compare_exchange_strong(word,
                                            CursorWith(word ^ kCursorD, epoch, position + 1))) {
      Orphan(cell, k, record.session, report);
    }
    cursor.daemon_claim.store(0, std::memory_order_release);  // STEP drain.clear
  }
  return tries;
}

void Recovery::LetGo(ChannelRegistry::Channel& channel, uint32_t lane_index, uint32_t k,
                     RecoveryReport& report) {
  const ChannelRegistry::LaneRecord& record = channel.lanes[lane_index];
  const ChannelRegistry::SubscriberRecord& subscriber = channel.subscribers[k];
  const LaneView lane = channel.Lane(record, manager_);
  Cursor& cursor = lane.cursors[k];
  // STEP let_go.stopped
  if (cursor.stopped_epoch.load(std::memory_order_relaxed) == subscriber.epoch)
    ClaimStopped(cursor, subscriber.epoch, kPositionMask);
  uint64_t kept;
  const bool given_up = IsGivenUp(cursor, subscriber.epoch, &kept);
  FinishTake(channel, lane_index, k, report);
  if (!given_up && record.session != 0) {
    Drain(channel, lane_index, k, 0, MostDrains(channel), report);
    return;
  }
  // The cursor is nobody's but the daemon's now: the subscriber stores to it no more, and the
  // publisher has gone, or leaves it alone.
  // STEP let_go.cursor
  const uint64_t word = cursor.word.load(std::memory_order_acquire);
  if (CursorEpoch(word) != subscriber.epoch) return;
  const uint64_t position = CursorPosition(word);
  // STEP let_go.tail
  uint64_t queued = shm::QueuedCount(lane.lane->tail.load(std::memory_order_acquire), position);
  if (given_up) queued = kept == position ? 1 : 0;
  if (queued > lane.capacity) return;
  for (uint64_t i = 0; i < queued; ++i) {
    // STEP let_go.cell
    const uint64_t cell = given_up ? cursor.kept_cell.load(std::memory_order_relaxed)
                                   : lane.cell(position + i).load(std::memory_order_relaxed);
    // In the publisher's name, or, as Deliver left it, in the subscriber's: the next stamp.
    Cell waits = DecodeCell(cell & ~(kClaimValid | kClaimBit));
    const bool delivered = record.session == 0;
    if (delivered && waits.kind == CellKind::kMoved) ++waits.tag;
    Orphan(Encode(waits), k, delivered ? subscriber.session : record.session, report);
  }
  // STEP let_go.end
  cursor.word.store(CursorWith(word, 0, position), std::memory_order_release);
}

// A message that nobody can take any more, and that waits in the name of `label`. May be run twice
// for the same message: within one generation slot k goes from the publisher to the subscriber to 0
// and never back.
void Recovery::Orphan(uint64_t cell_bits, uint32_t k, uint16_t label, RecoveryReport& report) {
  const Cell cell = DecodeCell(cell_bits & ~(kClaimValid | kClaimBit));
  const CellTarget target = Locate(manager_, cell);
  if (target.record == nullptr) return;
  ++report.drained_count;
  if (cell.kind == CellKind::kMoved) {
    const uint64_t word = target.record->word.load(std::memory_order_acquire);
    if (IsOwned(word, Kind::kLoaned, label) && StampTag(word) == cell.tag &&
        FreeWord(*target.pool, cell.chunk, word)) {
      ++report.freed_chunk_count;
    }
  } else if (cell.kind == CellKind::kShared && k < target.pool->grant_slots) {
    std::atomic<uint32_t>& generation = target.record->generation;
    std::atomic<uint16_t>& slot = target.record->slots()[k];
    uint16_t expected = label;
    // STEP orphan.generation
    const bool same = Mutant(6) || generation.load(std::memory_order_acquire) ==
                                       cell.tag;  // PAIR chunk.generation
    // STEP orphan.slot orphan.again
    if (same && slot.load(std::memory_order_acquire) == label &&
        (Mutant(6) || generation.load(std::memory_order_relaxed) == cell.tag)) {
      slot.compare_exchange_strong(expected, 0);  // STEP orphan.clear
    }
    if (FreeUnheld(*target.pool, cell.chunk)) ++report.freed_chunk_count;
  }
}

// Slots first: a fast close leaves its own slot set until after the word says who owns the chunk.
void Recovery::Sweep(const PoolView& pool, const SessionSet& gone, RecoveryReport& report) {
  const uint32_t live = pool.live_chunk_count();
  for (uint32_t chunk = 0; chunk < live; ++chunk) {
    ChunkManager& record = pool.record(chunk);
    if (AnyHolder(record, pool.slot_count)) {
      for (uint32_t slot = 0; slot < pool.slot_count && !Mutant(7); ++slot) {
        uint16_t holder = record.slots()[slot].load(std::memory_order_relaxed);
        if (holder != 0 && gone[holder & 0x3fff])
          // STEP sweep.slot
          record.slots()[slot].compare_exchange_strong(holder, 0);
      }
    }
    const uint64_t word = record.word.load(std::memory_order_acquire);  // STEP sweep.load
    switch (KindOf(word)) {
      default:  // of no kind: forged
      case Kind::kLoaned:
        if (gone[DecodeWord(word).owner] && FreeWord(pool, chunk, word)) ++report.freed_chunk_count;
        break;
      case Kind::kShared:
        if (FreeUnheld(pool, chunk)) ++report.freed_chunk_count;
        break;
      case Kind::kFree:
        if (!FreeList::IsSet(pool.hints, chunk)) FreeList::SetChunk(pool.hints, chunk);
        break;
    }
  }
  FreeList::RepairSummaries(pool.hints);
}

RecoveryReport Recovery::FinishClaims() {
  RecoveryReport report;
  for (uint32_t index : registry_.List()) {
    ChannelRegistry::Channel& channel = *registry_.channel(index);
    for (const ChannelRegistry::LaneRecord& record : channel.lanes) {
      if (record.state == LaneState::kFree) continue;
      const LaneView lane = channel.Lane(record, manager_);
      for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
        Cursor& cursor = lane.cursors[k];
        // STEP finish_claims.claim
        const uint64_t claim = cursor.daemon_claim.load(std::memory_order_acquire);
        if ((claim & kClaimValid) == 0) continue;
        // STEP finish_claims.cursor
        if (ClaimWasWon(claim, cursor.word.load(std::memory_order_acquire), kCursorD)) {
          Orphan(claim, k, record.session, report);
        }
        cursor.daemon_claim.store(0, std::memory_order_release);  // STEP finish_claims.clear
      }
    }
    // Subscribers that were let out half-way.
    for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
      const uint32_t entry = channel.view.subscribers[k].epoch.load(std::memory_order_acquire);
      if (channel.subscribers[k].session != 0 && !SubscriberIsOpen(entry) &&
          !ChannelRegistry::IsStopped(channel, k)) {
        DrainSubscriber(index, k, report);
      }
    }
  }
  return report;
}

RecoveryReport Recovery::DrainSubscriber(uint32_t channel, uint32_t k) {
  RecoveryReport report;
  DrainSubscriber(channel, k, report);
  return report;
}

void Recovery::DrainSubscriber(uint32_t index, uint32_t k, RecoveryReport& report) {
  ChannelRegistry::Channel* channel = registry_.channel(index);
  if (channel == nullptr || k >= channel->subscribers.size()) return;
  for (uint32_t lane = 0; lane < kLaneEntries; ++lane) {
    if (channel->lanes[lane].state != LaneState::kFree) LetGo(*channel, lane, k, report);
  }
  registry_.FreeSubscriber(*channel, k);
}

RecoveryReport Recovery::Tick(const SessionSet& attached) {
  RecoveryReport report;
  uint32_t budget = kDrainsPerTick;
  LetOutWhoLeft(report);
  for (uint32_t index : registry_.List()) {
    ChannelRegistry::Channel& channel = *registry_.channel(index);
    for (uint32_t lane = 0; lane < kLaneEntries; ++lane) {
      if (channel.lanes[lane].state == LaneState::kFree) continue;
      for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
        const ChannelRegistry::SubscriberRecord& subscriber = channel.subscribers[k];
        budget -=
            Drain(channel, lane, k, subscriber.session != 0 && !Mutant(74) ? subscriber.epoch : 0,
                  budget, report);
      }
    }
  }
  registry_.RetireLanes();
  SetCacheCaps(attached);
  return report;
}

// Members that could not tell the daemon that they leave, and said so in shared memory.
void Recovery::LetOutWhoLeft(RecoveryReport& report) {
  for (uint32_t index : registry_.List()) {
    ChannelRegistry::Channel& channel = *registry_.channel(index);
    bool touched = false;
    for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
      const uint32_t left = channel.view.subscribers[k].left_epoch.load(std::memory_order_acquire);
      if (channel.subscribers[k].session == 0 || left != channel.subscribers[k].epoch) continue;
      registry_.CloseSubscriber(channel, k);
      DrainSubscriber(index, k, report);
      touched = true;
    }
    for (uint32_t lane = 0; lane < kLaneEntries; ++lane) {
      const ChannelRegistry::LaneRecord& record = channel.lanes[lane];
      if (record.state != LaneState::kOpen ||
          channel.Lane(record, manager_).lane->left.load(std::memory_order_acquire) == 0) {
        continue;
      }
      registry_.CloseLane(channel, lane, LaneState::kClosed);
      touched = true;
    }
    if (touched) registry_.RingAll(channel);
  }
}

// How many chunks a thread keeps, see CacheCap. Under pressure nobody keeps any, and the records
// are searched for chunks whose hints were lost.
void Recovery::SetCacheCaps(const SessionSet& attached) {
  uint64_t threads = 0;
  for (uint32_t id = kFirstSession; id < manager_.session_capacity(); ++id) {
    if (!attached[id]) continue;
    const SessionEntry& entry = manager_.session_entry(static_cast<uint16_t>(id));
    threads += entry.cache_thread_count.load(std::memory_order_relaxed);
  }
  // Who cannot execute the barrier gets nothing back from others' caches.
  const bool recalled = !NeedsGracePeriod(manager_);
  for (uint32_t index = 0; index < kMaxPools; ++index) {
    const PoolView* pool = manager_.pool(index);
    if (pool == nullptr) continue;
    MemPool& shared = *pool->shared;
    if (shared.pressure.load(std::memory_order_relaxed) != 0) {
      const auto begin = std::chrono::steady_clock::now();
      if (begin < next_scrub_[index]) continue;
      RecoveryReport scrub;
      Sweep(*pool, SessionSet(), scrub);
      const auto end = std::chrono::steady_clock::now();
      next_scrub_[index] = end + kScrubShare * (end - begin);
      // Who still waits says so again; who was killed does not.
      shared.pressure.store(0);
      FutexWake(shared.pressure);
      continue;
    }
    if (!pool->IsOpen() && !Mutant(106)) continue;  // 0 for ever (pool_drain.h)
    shared.cache_cap.store(pool->CacheCap(pool->live_chunk_count(), threads, recalled),
                           std::memory_order_relaxed);
  }
}

}  // namespace zerocp::shm
