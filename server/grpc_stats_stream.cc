#include "server/grpc_stats_stream.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "server/convert.h"
#include "shm/mutant.h"

namespace zerocp {

using Clock = std::chrono::steady_clock;

class StatsStreams::StatsWatcher final : public Watcher<v1::WatchStatsResponse> {
 public:
  explicit StatsWatcher(StatsWatch wanted) : wanted_(std::move(wanted)) {}

  bool IsDue(Clock::time_point now) {
    MutexLock lock(mutex_);
    return due_ <= now;
  }
  // Numbers of `now` or later, for the watcher if it is due.
  void Offer(const v1::Stats& stats, Clock::time_point now) {
    {
      MutexLock lock(mutex_);
      if (now < due_) return;
      due_ += ((now - due_) / wanted_.interval + 1) * wanted_.interval;
      if (busy_) {
        ++skipped_;
        return;
      }
      offered_ = Select(stats, wanted_.pools);
    }
    Advance();
  }

 private:
  // POOL_NOT_FOUND.
  static absl::StatusOr<v1::Stats> Select(const v1::Stats& stats,
                                          const std::vector<std::string>& pools) {
    v1::Stats selected = stats;
    if (pools.empty()) return selected;
    selected.clear_pools();
    for (const std::string& name : pools) {
      const auto found = std::find_if(
          stats.pools().begin(), stats.pools().end(),
          [&](const v1::PoolStats& pool) { return pool.pool() == PoolResource(name); });
      if (found == stats.pools().end()) return PoolManager::NotFound(name);
      *selected.add_pools() = *found;
    }
    return selected;
  }
  Step Next(v1::WatchStatsResponse& message, grpc::Status& end) override ZEROCP_REQUIRES(mutex_) {
    if (sent_ == wanted_.max_updates && sent_ != 0) return Step::kEnd;
    if (!offered_) return Step::kWait;
    if (!offered_->ok()) {
      end = ToGrpc(offered_->status());
      return Step::kEnd;
    }
    *message.mutable_stats() = *std::move(*offered_);
    offered_.reset();
    message.set_skipped_update_count(Mutant(50) ? 0 : std::exchange(skipped_, 0));
    ++sent_;
    return Step::kWrite;
  }

  const StatsWatch wanted_;
  Clock::time_point due_ ZEROCP_GUARDED_BY(mutex_) = Clock::now();
  std::optional<absl::StatusOr<v1::Stats>> offered_ ZEROCP_GUARDED_BY(mutex_);
  int64_t skipped_ ZEROCP_GUARDED_BY(mutex_) = 0;
  int64_t sent_ ZEROCP_GUARDED_BY(mutex_) = 0;
};

StatsStreams::StatsStreams(StatsReader& reader, Worker& worker)
    : reader_(reader), worker_(worker), watchers_("WatchStats") {}

StatsStreams::Reactor* StatsStreams::Open(const v1::WatchStatsRequest& request) {
  absl::StatusOr<StatsWatch> wanted = ToWatch(request);
  if (!wanted.ok()) return Refuse<v1::WatchStatsResponse>(wanted.status());
  Reactor* reactor = watchers_.Open(std::make_unique<StatsWatcher>(*std::move(wanted)));
  Serve();
  return reactor;
}

void StatsStreams::Tick() {
  if (IsAnyDue(Clock::now())) Serve();
}

bool StatsStreams::IsAnyDue(Clock::time_point now) {
  bool due = false;
  watchers_.ForEach([&](StatsWatcher& watcher) { due = due || watcher.IsDue(now); });
  return due;
}

void StatsStreams::Serve() {
  if (serving_.exchange(true)) return;
  worker_.Post([this](bool run) {
    serving_.store(false);  // before the look: who comes from now on needs another job
    const Clock::time_point now = Clock::now();
    if (!run || !IsAnyDue(now)) return;
    const absl::StatusOr<v1::Stats> stats = reader_.Read();
    if (stats.ok()) watchers_.ForEach([&](StatsWatcher& watcher) { watcher.Offer(*stats, now); });
  });
}

void StatsStreams::Stop() { watchers_.Stop(); }

}  // namespace zerocp
