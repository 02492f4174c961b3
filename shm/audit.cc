#include "shm/audit.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

#include "shm/chunk_ops.h"

namespace zerocp::shm {
namespace {

// A finding counts only if each of these looks, a millisecond apart, sees it: a transition of a
// living client takes nanoseconds.
constexpr int kLooks = 4;
// Findings that are looked at again; an instance with more of them is beyond doubt.
constexpr size_t kMaxSuspects = 10000;

bool IsClient(const SessionSet& attached, uint16_t id) {
  return id >= kFirstSession && attached[id & 0x3fff];
}

class Auditor {
 public:
  Auditor(MemPoolManager& manager, ChannelRegistry& registry, const SessionSet& attached)
      : manager_(manager), registry_(registry), attached_(attached) {}

  AuditReport Run() {
    CheckFile(manager_.management_segment());
    CheckFile(manager_.chunk_segment());
    for (uint32_t index = 0; index < kMaxPools; ++index) {
      if (const PoolView* pool = manager_.pool(index)) CheckPool(*pool);
    }
    for (uint32_t index : registry_.List()) CheckChannel(*registry_.channel(index));
    LookAgain();
    return std::move(report_);
  }

 private:
  void CheckFile(const Segment& segment) {
    Check(
        "segment-size", [&] { return segment.path(); },
        [&segment] { return std::string(segment.WasCut() ? "is shorter than it was made" : ""); });
  }

  void CheckPool(const PoolView& pool) {
    report_.pools.push_back(Count(pool));
    const uint32_t live = pool.live_chunk_count();
    for (uint32_t chunk = 0; chunk < live; ++chunk) {
      ++report_.checked_chunk_count;
      const auto where = [&] { return "pool " + pool.name + " chunk " + std::to_string(chunk); };
      Check("word-owner", where, [this, &pool, chunk] { return WordProblem(pool, chunk); });
      Check("free-unheld", where, [this, &pool, chunk] { return FreeProblem(pool, chunk); });
      Check("slot-session", where, [this, &pool, chunk] { return SlotProblem(pool, chunk); });
      Check("shared-held", where, [this, &pool, chunk] { return SharedProblem(pool, chunk); });
    }
  }

  std::string WordProblem(const PoolView& pool, uint32_t chunk) const {
    const Word word = DecodeWord(pool.record(chunk).word.load());
    if (word.kind == Kind::kFree || word.kind == Kind::kShared) {
      return word.owner == 0 ? ""
                             : "is free or shared, yet names session " + std::to_string(word.owner);
    }
    if (word.kind != Kind::kLoaned) return "has a word of no kind";
    if (word.owner == kDaemonSession && !pool.IsOpen()) return "";
    return IsClient(attached_, word.owner)
               ? ""
               : "belongs to session " + std::to_string(word.owner) + ", which is not attached";
  }
  std::string FreeProblem(const PoolView& pool, uint32_t chunk) const {
    ChunkManager& record = pool.record(chunk);
    for (uint32_t slot = 0; slot < pool.grant_slots; ++slot) {
      const uint64_t word = record.word.load();
      const uint16_t holder = record.slots()[slot].load();
      if (KindOf(word) == Kind::kFree && holder != 0 && record.word.load() == word) {
        return "is free, yet slot " + std::to_string(slot) + " names session " +
               std::to_string(holder);
      }
    }
    return "";
  }
  std::string SlotProblem(const PoolView& pool, uint32_t chunk) const {
    for (uint32_t slot = 0; slot < pool.slot_count; ++slot) {
      const uint16_t holder = pool.record(chunk).slots()[slot].load();
      if (holder != 0 && !IsClient(attached_, holder)) {
        return "slot " + std::to_string(slot) + " names session " + std::to_string(holder) +
               ", which is not attached";
      }
    }
    return "";
  }
  std::string SharedProblem(const PoolView& pool, uint32_t chunk) const {
    ChunkManager& record = pool.record(chunk);
    const uint64_t word = record.word.load();
    return KindOf(word) == Kind::kShared && !AnyHolder(record, pool.slot_count) &&
                   record.word.load() == word
               ? "is shared, yet nobody holds it"
               : "";
  }

  void CheckChannel(const ChannelRegistry::Channel& channel) {
    for (uint32_t i = 0; i < kLaneEntries; ++i) {
      const ChannelRegistry::LaneRecord& record = channel.lanes[i];
      if (record.state == LaneState::kFree || record.state == LaneState::kRetired) continue;
      for (uint32_t k = 0; k < channel.subscribers.size(); ++k) {
        if (channel.subscribers[k].session == 0) continue;
        const auto where = [&] {
          return "channel " + channel.spec.name + " lane " + std::to_string(i) + " subscriber " +
                 std::to_string(k);
        };
        Check("queue-bounds", where,
              [this, &channel, &record, k] { return BoundsProblem(channel, record, k); });
        const uint64_t queued = registry_.QueuedCount(channel, record, k);
        for (uint64_t offset = 0; offset < queued; ++offset) {
          Check("queue-cell", where, [this, &channel, &record, k, offset] {
            return CellProblem(channel, record, k, offset, false);
          });
          Check("queue-label", where, [this, &channel, &record, k, offset] {
            return CellProblem(channel, record, k, offset, true);
          });
        }
      }
    }
  }

  std::string BoundsProblem(const ChannelRegistry::Channel& channel,
                            const ChannelRegistry::LaneRecord& record, uint32_t k) const {
    const LaneView lane = channel.Lane(record, manager_);
    const uint64_t cursor = lane.cursors[k].word.load();
    if (CursorEpoch(cursor) != channel.subscribers[k].epoch) return "";
    uint64_t kept;  // by a publisher that does not wait for this subscriber any more
    if (IsGivenUp(lane.cursors[k], CursorEpoch(cursor), &kept)) return "";
    const uint64_t queued = shm::QueuedCount(lane.lane->tail.load(), CursorPosition(cursor));
    // With a lossy subscriber its publisher may have gone on between the two loads.
    return queued <= lane.capacity || lane.cursors[k].word.load() != cursor
               ? ""
               : "is " + std::to_string(queued) + " messages behind, more than the capacity " +
                     std::to_string(lane.capacity);
  }

  // The cell `offset` positions after subscriber k's cursor: its form, or (`label`) whose the chunk
  // is.
  std::string CellProblem(const ChannelRegistry::Channel& channel,
                          const ChannelRegistry::LaneRecord& record, uint32_t k, uint64_t offset,
                          bool label) const {
    const LaneView lane = channel.Lane(record, manager_);
    const uint64_t cursor = lane.cursors[k].word.load();
    const uint64_t position = CursorPosition(cursor) + offset;
    if (CursorEpoch(cursor) != channel.subscribers[k].epoch ||
        offset >= shm::QueuedCount(lane.lane->tail.load(), CursorPosition(cursor))) {
      return "";
    }
    const Cell cell = DecodeCell(lane.cell(position).load());
    const PoolView* pool = manager_.pool(cell.pool);
    const std::string at = "position " + std::to_string(position) + ": ";
    const bool exists =
        pool != nullptr && cell.chunk < pool->live_chunk_count() && cell.kind != CellKind::kNone;
    std::string problem;
    if (!exists) {
      problem = label ? "" : at + "names no chunk";
    } else if (label) {
      problem = LabelProblem(*pool, cell, k, record.session, channel.subscribers[k].session);
      if (!problem.empty()) problem = at + problem;
    }
    // If the subscriber took it meanwhile, what was seen means nothing.
    return lane.cursors[k].word.load() == cursor ? problem : "";
  }

  static std::string LabelProblem(const PoolView& pool, const Cell& cell, uint32_t k,
                                  uint16_t publisher, uint16_t subscriber) {
    ChunkManager& record = pool.record(cell.chunk);
    const std::string chunk = "chunk " + std::to_string(cell.chunk);
    const uint64_t word = record.word.load();
    if (cell.kind == CellKind::kMoved) {
      const uint32_t tag = static_cast<uint32_t>(DecodeWord(word).stamp);
      const bool publishers =
          publisher != 0 && IsOwned(word, Kind::kLoaned, publisher) && tag == cell.tag;
      const bool subscribers = IsOwned(word, Kind::kLoaned, subscriber) && tag == cell.tag + 1;
      return publishers || subscribers ? "" : chunk + " was moved, but is neither's";
    }
    const uint16_t holder = record.slots()[k].load();
    if (KindOf(word) != Kind::kShared || record.generation.load() != cell.tag) {
      return chunk + " is not shared, or in another generation";
    }
    return (publisher != 0 && holder == publisher) || holder == subscriber
               ? ""
               : chunk + " slot " + std::to_string(k) + " names session " + std::to_string(holder);
  }

  template <class Where, class Problem>
  void Check(const char* invariant, const Where& where, Problem problem) {
    if (suspects_.size() < kMaxSuspects && !problem().empty()) {
      suspects_.push_back({invariant, where(), std::move(problem)});
    }
  }

  // Lets go of suspects that look right now.
  void LookAgain() {
    for (int look = 1; look < kLooks && !suspects_.empty(); ++look) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      std::erase_if(suspects_, [](const Suspect& suspect) { return suspect.problem().empty(); });
    }
    for (const Suspect& suspect : suspects_) {
      const std::string problem = suspect.problem();
      if (problem.empty()) continue;
      ++report_.violation_count;
      if (report_.violations.size() < kMaxViolations) {
        report_.violations.push_back({suspect.invariant, suspect.where + " " + problem});
      }
    }
  }

  struct Suspect {
    const char* invariant;
    std::string where;
    std::function<std::string()> problem;  // empty: all is well
  };

  MemPoolManager& manager_;
  ChannelRegistry& registry_;
  const SessionSet& attached_;
  AuditReport report_;
  std::vector<Suspect> suspects_;
};

}  // namespace

void Count(const ChunkManager& record, PoolCounts& counts) {
  const uint64_t word = record.word.load(std::memory_order_relaxed);
  switch (KindOf(word)) {
    case Kind::kFree:
      ++counts.free_count;
      return;
    case Kind::kShared:
      ++counts.shared_count;
      return;
    case Kind::kLoaned:
      break;
  }
  // Taken out of a pool that is being deleted.
  if (IsOwned(word, Kind::kLoaned, kDaemonSession)) {
    ++counts.free_count;
    return;
  }
  switch (PhaseOf(record)) {
    case ChunkPhase::kCached:
      ++counts.cached_count;
      return;
    case ChunkPhase::kSent:
    case ChunkPhase::kTaken:
      ++counts.shared_count;
      return;
    case ChunkPhase::kNone:
    case ChunkPhase::kLoaned:
      break;
  }
  ++counts.writing_count;  // also with a phase that nobody can have stored
}

PoolCounts Count(const PoolView& pool) {
  PoolCounts counts;
  counts.pool = pool.index;
  counts.chunk_count = pool.live_chunk_count();
  const auto live = static_cast<uint32_t>(counts.chunk_count);
  uint64_t free = 0;  // most are, and a register is faster than memory
  for (uint32_t chunk = 0; chunk < live; ++chunk) {
    const ChunkManager& record = pool.record(chunk);
    if (KindOf(record.word.load(std::memory_order_relaxed)) == Kind::kFree) {
      ++free;
    } else {
      Count(record, counts);
    }
  }
  counts.free_count += free;
  return counts;
}

AuditReport Audit(MemPoolManager& manager, ChannelRegistry& registry, const SessionSet& attached) {
  return Auditor(manager, registry, attached).Run();
}

std::vector<uint64_t> HeldCounts(MemPoolManager& manager) {
  std::vector<uint64_t> held(kSessionIds);
  std::vector<uint64_t> counted(kSessionIds);  // the last chunk that was counted for a session
  uint64_t seen = 0;
  for (uint32_t index = 0; index < kMaxPools; ++index) {
    const PoolView* pool = manager.pool(index);
    if (pool == nullptr) continue;
    const uint32_t live = pool->live_chunk_count();
    for (uint32_t chunk = 0; chunk < live; ++chunk) {
      ++seen;
      ChunkManager& record = pool->record(chunk);
      const uint64_t word = record.word.load(std::memory_order_relaxed);
      if (KindOf(word) == Kind::kLoaned) {
        const bool cached = PhaseOf(record) == ChunkPhase::kCached;
        held[DecodeWord(word).owner] += cached ? 0 : 1;
      } else if (KindOf(word) == Kind::kShared) {
        for (uint32_t slot = 0; slot < pool->slot_count; ++slot) {
          const uint16_t holder = record.slots()[slot].load(std::memory_order_relaxed) & 0x3fff;
          if (holder != 0 && std::exchange(counted[holder], seen) != seen) ++held[holder];
        }
      }
    }
  }
  return held;
}

}  // namespace zerocp::shm
