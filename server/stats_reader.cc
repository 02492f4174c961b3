#include "server/stats_reader.h"

#include <algorithm>
#include <chrono>

#include "server/convert.h"
#include "shm/memory_budget.h"

namespace zerocp {

uint64_t StatsReader::AvailableBytes() {
  MutexLock lock(mutex_);
  if (const auto now = Clock::now(); now >= look_again_) {
    available_bytes_ = shm::AvailableMemory(core_.manager->options().segment_dir).available_bytes;
    look_again_ = now + kMemoryAge;
  }
  return available_bytes_;
}

absl::StatusOr<v1::Stats> StatsReader::Read(const std::vector<std::string>& names) {
  auto pools = pools_.Stats(names);
  if (!pools.ok()) return pools.status();
  for (PoolStats& pool : *pools) pool.least_free_count = watch_.LeastFree(pool.counts.pool);
  const std::vector<SessionInfo> sessions = sessions_.List();
  const MemoryUse memory = pools_.Memory();
  const uint64_t available_bytes = AvailableBytes();

  v1::Stats stats;
  *stats.mutable_read_time() = ToProto(std::chrono::system_clock::now());
  *stats.mutable_start_time() = ToProto(core_.start_time);
  for (const PoolStats& pool : *pools) *stats.add_pools() = ToProto(pool);
  *stats.add_segments() = ToProto(v1::Segment::KIND_MANAGEMENT, memory.management, available_bytes);
  *stats.add_segments() = ToProto(v1::Segment::KIND_CHUNK, memory.chunk, available_bytes);
  const auto sessions_in = [&](SessionPhase phase) {
    return static_cast<int32_t>(std::count_if(
        sessions.begin(), sessions.end(), [&](const SessionInfo& s) { return s.phase == phase; }));
  };
  stats.set_attached_session_count(sessions_in(SessionPhase::kAttached));
  stats.set_orphaned_session_count(sessions_in(SessionPhase::kOrphaned));
  stats.set_recovered_session_count(static_cast<int64_t>(sessions_.recovered_session_count()));
  const PoolWatch::HeldSamples held = watch_.CountHeldSamples();
  for (ChannelStats& channel : channels_.Stats()) {
    for (SubscriberStats& subscriber : channel.subscribers) {
      const auto found = held.find({channel.index, subscriber.index});
      if (found != held.end()) subscriber.held_count = found->second;
      subscriber.stalled_for =
          trouble_.StalledFor(channel.index, subscriber.index, subscriber.epoch);
    }
    *stats.add_channels() = ToProto(channel, sessions);
  }
  return stats;
}

}  // namespace zerocp
