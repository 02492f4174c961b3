// The streams of WatchStats.
//
// All watchers whose interval has passed get one snapshot, at a tick: what they cost together is
// one read of the numbers per tick, however many they are. A new watcher gets its first snapshot at
// once. Who still has a message on its way when its next is due is told later how many it missed.
//
// Threads. Tick from one thread; the numbers are read by a worker.
#pragma once

#include <atomic>
#include <chrono>

#include "server/grpc_watchers.h"
#include "server/stats_reader.h"
#include "server/worker.h"
#include "zerocp/v1/observer_service.pb.h"

namespace zerocp {

class StatsStreams {
 public:
  // REQUIRES: both outlive this; the worker's jobs end before this does.
  StatsStreams(StatsReader& reader, Worker& worker);
  StatsStreams(const StatsStreams&) = delete;
  StatsStreams& operator=(const StatsStreams&) = delete;

  using Reactor = grpc::ServerWriteReactor<v1::WatchStatsResponse>;
  // As WatcherSet::Open; also FIELD_INVALID, and POOL_NOT_FOUND once a pool is not there.
  Reactor* Open(const v1::WatchStatsRequest& request);
  // Every PoolWatch::kInterval, the shortest interval that a watcher can have.
  void Tick();
  // As WatcherSet::Stop.
  void Stop();

 private:
  class StatsWatcher;
  bool IsAnyDue(std::chrono::steady_clock::time_point now);
  void Serve();

  StatsReader& reader_;
  Worker& worker_;
  std::atomic<bool> serving_{false};  // a job that serves whoever is due is on its way
  WatcherSet<StatsWatcher, v1::WatchStatsResponse> watchers_;
};

}  // namespace zerocp
