// The numbers of GetStats and WatchStats, from all who know them. Protobuf, no gRPC.
//
// What the machine has left is at most kMemoryAge old; all else is of the moment.
//
// Threads. From any thread. Reads every record of the pools under core.mutex.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/channel_manager.h"
#include "server/core.h"
#include "server/mutex.h"
#include "server/pool_manager.h"
#include "server/pool_watch.h"
#include "server/session_manager.h"
#include "server/trouble_watch.h"
#include "zerocp/v1/resources.pb.h"

namespace zerocp {

class StatsReader {
 public:
  static constexpr std::chrono::milliseconds kMemoryAge{100};

  // REQUIRES: all outlive this.
  StatsReader(Core& core, PoolManager& pools, ChannelManager& channels, SessionDirectory& sessions,
              PoolWatch& watch, TroubleWatch& trouble)
      : core_(core),
        pools_(pools),
        channels_(channels),
        sessions_(sessions),
        watch_(watch),
        trouble_(trouble) {}

  // With the pools named, all if none is, in name order. POOL_NOT_FOUND.
  absl::StatusOr<v1::Stats> Read(const std::vector<std::string>& pools = {});

 private:
  using Clock = std::chrono::steady_clock;
  // What both segments may still get.
  uint64_t AvailableBytes();

  Core& core_;
  PoolManager& pools_;
  ChannelManager& channels_;
  SessionDirectory& sessions_;
  PoolWatch& watch_;
  TroubleWatch& trouble_;
  Mutex mutex_;
  uint64_t available_bytes_ ZEROCP_GUARDED_BY(mutex_) = 0;
  Clock::time_point look_again_ ZEROCP_GUARDED_BY(mutex_);
};

}  // namespace zerocp
