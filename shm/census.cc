#include "shm/census.h"

#include <algorithm>
#include <cstring>

#include "shm/chunk_ops.h"
#include "shm/mutant.h"

namespace zerocp::shm {
namespace {

uint32_t KeyOf(uint8_t pool, uint32_t chunk) { return (uint32_t{pool} << 24) | chunk; }

// The tag that a cell has for the chunk as it is now; false: in no cell.
bool TagOf(const ChunkManager& record, CellKind kind, uint32_t* tag) {
  const uint64_t word = record.word.load(std::memory_order_acquire);
  if (kind == CellKind::kShared) {
    *tag = record.generation.load(std::memory_order_relaxed);
    return KindOf(word) == Kind::kShared;
  }
  *tag = StampTag(word);
  return kind == CellKind::kMoved && KindOf(word) == Kind::kLoaned;
}

std::string Printable(const char* text, size_t size) {
  std::string name(text, strnlen(text, size));
  for (char& c : name) {
    if (c < ' ' || c > '~') c = '?';
  }
  return name;
}

std::string HolderName(const HolderSum& sum, const Census& census, MemPoolManager& manager) {
  if (sum.phase == HoldPhase::kHistory) return "channel '" + census.ChannelName(sum.channel) + "'";
  if (sum.session < kFirstSession || sum.session >= manager.session_capacity()) {
    return "session " + std::to_string(sum.session);
  }
  const SessionEntry& entry = manager.session_entry(sum.session);
  return Printable(entry.name, sizeof(entry.name)) + " (pid " + std::to_string(entry.pid) + ")";
}

std::string PhaseText(const HolderSum& sum, const Census& census) {
  std::string name = Name(sum.phase);
  if (sum.phase == HoldPhase::kHistory) return name + " for late joiners";
  const std::string& channel = census.ChannelName(sum.channel);
  if (channel.empty()) return name;
  return name + (sum.phase == HoldPhase::kQueued ? " in '" : " from '") + channel + "'";
}

}  // namespace

const char* Name(HoldPhase phase) {
  switch (phase) {
    case HoldPhase::kWriting:
      return "writing";
    case HoldPhase::kQueued:
      return "queued";
    case HoldPhase::kReading:
      return "reading";
    case HoldPhase::kHistory:
      return "kept";
    case HoldPhase::kCached:
      return "cached";
  }
  return "";
}

Census Census::WithoutQueues(MemPoolManager& manager) {
  Census census;
  for (uint32_t index = 0; index < kMaxChannels; ++index) {
    const ChannelEntry& entry = manager.channel_entry(index);
    if (entry.state.load(std::memory_order_acquire) ==  // PAIR channel.state
        static_cast<uint32_t>(ChannelState::kFree)) {
      continue;
    }
    Channel channel;
    channel.name.assign(entry.name, strnlen(entry.name, sizeof(entry.name)));
    const ChannelGeometry geometry{entry.region_offset, entry.queue_capacity,
                                   entry.max_subscriber_count};
    if (!IsValidName(channel.name) || geometry.max_subscriber_count > kMaxSubscribers) continue;
    std::byte* region = manager.ManagementAt(geometry.region_offset, geometry.region_bytes());
    if (region == nullptr) continue;
    const ChannelView view = ChannelView::At(region, geometry);
    channel.has_history = entry.history_count > 0;
    for (uint32_t k = 0; k < geometry.max_subscriber_count; ++k) {
      channel.sessions.push_back(view.subscribers[k].session.load(std::memory_order_relaxed));
    }
    census.channels_.emplace(static_cast<uint16_t>(index + 1), std::move(channel));
  }
  return census;
}

void Census::Add(uint32_t index, const ChannelRegistry::Channel& channel, MemPoolManager& manager,
                 size_t most) {
  const auto number = static_cast<uint16_t>(index + 1);
  Channel& added = channels_[number];
  added.name = channel.spec.name;
  added.queues_known = true;
  added.has_history = channel.spec.history_count > 0;
  for (const auto& subscriber : channel.subscribers) added.sessions.push_back(subscriber.session);
  for (const ChannelRegistry::LaneRecord& record : channel.lanes) {
    if (record.state == LaneState::kFree || record.state == LaneState::kRetired) continue;
    const LaneView lane = channel.Lane(record, manager);
    const uint64_t tail = lane.lane->tail.load(std::memory_order_acquire);  // PAIR lane.tail
    std::vector<uint64_t> behind(channel.subscribers.size());
    for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
      const uint64_t cursor = lane.cursors[k].word.load(std::memory_order_acquire);
      if (channel.subscribers[k].session == 0 ||
          CursorEpoch(cursor) != channel.subscribers[k].epoch) {
        continue;
      }
      const uint64_t queued = QueuedCount(tail, CursorPosition(cursor));
      if (queued <= lane.capacity) behind[k] = queued;
    }
    const uint64_t furthest = behind.empty() ? 0 : *std::max_element(behind.begin(), behind.end());
    for (uint64_t back = furthest; back > 0 && queued_.size() < most; --back) {
      const Cell cell = DecodeCell(lane.cell(tail - back).load(std::memory_order_acquire));
      const PoolView* pool = manager.pool(cell.pool);
      uint32_t tag;
      if (pool == nullptr || cell.chunk >= pool->live_chunk_count() ||
          !TagOf(pool->record(cell.chunk), cell.kind, &tag)) {
        continue;
      }
      // A moved chunk that was taken over, or delivered, has the next stamp.
      if (cell.kind == CellKind::kShared && tag != cell.tag) continue;
      uint64_t subscribers = 0;
      for (uint32_t k = 0; k < behind.size(); ++k) {
        if (behind[k] >= back) subscribers |= uint64_t{1} << k;
      }
      queued_.push_back({KeyOf(cell.pool, cell.chunk), cell.tag, number, subscribers});
    }
  }
}

void Census::Finish() {
  std::sort(queued_.begin(), queued_.end(),
            [](const Queued& a, const Queued& b) { return a.key < b.key; });
}

const Census::Channel* Census::Find(uint16_t channel) const {
  const auto found = channels_.find(channel);
  return found == channels_.end() ? nullptr : &found->second;
}

const std::string& Census::ChannelName(uint16_t channel) const {
  static const std::string none;
  const Channel* found = Find(channel);
  return found == nullptr ? none : found->name;
}

uint16_t Census::SubscriberOf(uint16_t channel, uint32_t index) const {
  const Channel* found = Find(channel);
  return found == nullptr || index >= found->sessions.size() ? uint16_t{0} : found->sessions[index];
}

bool Census::HasSubscribers() const {
  return std::any_of(channels_.begin(), channels_.end(), [](const auto& channel) {
    const std::vector<uint16_t>& sessions = channel.second.sessions;
    return std::any_of(sessions.begin(), sessions.end(), [](uint16_t id) { return id != 0; });
  });
}

bool Census::IsSample(const Holding& holding) const {
  return holding.phase == HoldPhase::kReading && holding.channel != 0 &&
         SubscriberOf(holding.channel, holding.subscriber) == holding.session;
}

// Bit k: this use of the chunk waits for subscriber k.
uint64_t Census::WaitsFor(const PoolView& pool, uint32_t chunk, uint32_t tag,
                          uint16_t channel) const {
  const uint32_t key = KeyOf(pool.index, chunk);
  auto found = std::lower_bound(queued_.begin(), queued_.end(), key,
                                [](const Queued& q, uint32_t wanted) { return q.key < wanted; });
  for (; found != queued_.end() && found->key == key; ++found) {
    if (found->tag == tag && found->channel == channel) return found->subscribers;
  }
  return 0;
}

void Census::HoldersOf(const PoolView& pool, uint32_t chunk, std::vector<Holding>* holders) const {
  holders->clear();
  ChunkManager& record = pool.record(chunk);
  const Word word = DecodeWord(record.word.load(std::memory_order_acquire));
  const ChunkLabel label = DecodeLabel(record.label.load(std::memory_order_relaxed));
  switch (word.kind) {
    case Kind::kFree:
      return;
    case Kind::kShared:
      SharedHolders(pool, chunk, holders);
      return;
    case Kind::kLoaned:
      break;
  }
  if (word.owner == kDaemonSession) return;  // of a pool that is being deleted
  const uint16_t channel = Find(label.channel) == nullptr ? uint16_t{0} : label.channel;
  const uint16_t subscriber = SubscriberOf(channel, label.subscriber);
  if (label.phase == ChunkPhase::kCached) {
    holders->push_back({word.owner, 0, HoldPhase::kCached});
  } else if (label.phase == ChunkPhase::kSent && !Mutant(22)) {
    const uint16_t waits = subscriber != 0 ? subscriber : word.owner;
    holders->push_back({waits, channel, HoldPhase::kQueued, label.subscriber});
  } else if (label.phase == ChunkPhase::kTaken) {
    holders->push_back({word.owner, channel, HoldPhase::kReading, label.subscriber});
  } else {
    holders->push_back({word.owner, 0, HoldPhase::kWriting});
  }
}

void Census::SharedHolders(const PoolView& pool, uint32_t chunk,
                           std::vector<Holding>* holders) const {
  ChunkManager& record = pool.record(chunk);
  const ChunkLabel label = DecodeLabel(record.label.load(std::memory_order_relaxed));
  const Channel* channel = label.phase == ChunkPhase::kSent ? Find(label.channel) : nullptr;
  const size_t subscribers = channel == nullptr ? 0 : channel->sessions.size();
  const uint32_t generation = record.generation.load(std::memory_order_relaxed);
  const uint64_t waits = subscribers == 0 ? 0 : WaitsFor(pool, chunk, generation, label.channel);
  for (uint32_t slot = 0; slot < pool.slot_count; ++slot) {
    const uint16_t holder = record.slots()[slot].load(std::memory_order_relaxed) & 0x3fff;
    if (holder == 0) continue;
    if (channel != nullptr && channel->has_history && slot == subscribers) {
      holders->push_back({0, label.channel, HoldPhase::kHistory});
    } else if (slot >= pool.grant_slots || slot >= subscribers) {
      holders->push_back({holder, 0, HoldPhase::kReading});
    } else {
      const uint16_t receiver = channel->sessions[slot];
      const bool queued =
          channel->queues_known ? (waits >> slot & 1) != 0 : receiver != 0 && receiver != holder;
      holders->push_back({queued && receiver != 0 ? receiver : holder, label.channel,
                          queued ? HoldPhase::kQueued : HoldPhase::kReading,
                          static_cast<uint8_t>(slot)});
    }
  }
}

void HolderSums::Add(const PoolView& pool, const Holding& holding) {
  ++counts_[{holding.session, pool.index, holding.channel, holding.phase}];
}

std::vector<HolderSum> HolderSums::Largest(size_t most) const {
  std::vector<HolderSum> sums;
  sums.reserve(counts_.size());
  for (const auto& [key, count] : counts_) {
    const auto& [session, pool, channel, phase] = key;
    sums.push_back({session, pool, channel, phase, count});
  }
  std::stable_sort(sums.begin(), sums.end(), [](const HolderSum& a, const HolderSum& b) {
    return a.chunk_count > b.chunk_count;
  });
  if (sums.size() > most) sums.resize(most);
  return sums;
}

uint64_t UseOf(const PoolView& pool, uint32_t chunk) {
  ChunkManager& record = pool.record(chunk);
  const uint64_t word = record.word.load(std::memory_order_acquire) & ~kRecalled;
  if (KindOf(word) == Kind::kFree || IsOwned(word, Kind::kLoaned, kDaemonSession)) return 0;
  uint64_t use = word;
  uint64_t more = record.generation.load(std::memory_order_relaxed);
  if (KindOf(word) == Kind::kShared) {
    use = static_cast<uint64_t>(Kind::kShared);  // an opener changes the stamp, not the use
  } else {
    more ^= uint64_t{record.label.load(std::memory_order_relaxed)} << 32;
  }
  use = (use ^ more * 0xff51afd7ed558ccd) * 0xc4ceb9fe1a85ec53;
  use ^= use >> 32;
  return use == 0 ? 1 : use;
}

std::string DescribeHolders(const HolderSums& sums, const Census& census, MemPoolManager& manager) {
  std::string text;
  for (const HolderSum& sum : sums.Largest(kShownHolders)) {
    text += (text.empty() ? "" : ", ") + HolderName(sum, census, manager) + ": " +
            std::to_string(sum.chunk_count) + " " + PhaseText(sum, census);
  }
  if (sums.size() > kShownHolders) {
    text += " and " + std::to_string(sums.size() - kShownHolders) + " more";
  }
  return text.empty() ? "nobody" : text;
}

namespace {

// What helps when a pool has no free chunk.
std::string AdviceFor(const PoolView& pool) {
  const std::string more =
      "make a pool with more chunks (`zerocp pools create`, the RPC CreatePool)";
  if (pool.live_chunk_count() == pool.max_chunk_count)
    return "it has its max_chunk_count: wait, release, or " + more;
  if (pool.shared->auto_grow.load(std::memory_order_relaxed) ==
      static_cast<uint8_t>(AutoGrow::kPaused)) {
    return "it grows by itself (auto_grow), but cannot now, because memory is short or the daemon "
           "is busy or does not answer: wait, or release";
  }
  return "wait, release, grow it (`zerocp pools grow`, the RPC UpdatePool), or " + more;
}

}  // namespace

std::string DescribeExhausted(const Census& census, MemPoolManager& manager, const PoolView& pool) {
  HolderSums sums;
  std::vector<Holding> holders;
  const uint32_t live = pool.live_chunk_count();
  for (uint32_t chunk = 0; chunk < live; ++chunk) {
    census.HoldersOf(pool, chunk, &holders);
    for (const Holding& holding : holders) sums.Add(pool, holding);
  }
  return "pool '" + pool.name + "' has no free chunk: " + std::to_string(live) + " chunks of " +
         std::to_string(pool.chunk_size_bytes) + " bytes, held by " +
         (sums.size() == 0 ? "nobody at this moment: try again"
                           : DescribeHolders(sums, census, manager)) +
         "; " + AdviceFor(pool);
}

}  // namespace zerocp::shm
