// The numbers of GetStats and WatchStats, from all who know them. Protobuf, no gRPC.
//
// Threads. From any thread. Reads every record of the pools, in batches under core.mutex.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/channel_manager.h"
#include "server/core.h"
#include "server/pool_manager.h"
#include "server/pool_watch.h"
#include "server/session_manager.h"
#include "server/trouble_watch.h"
#include "zerocp/v1/resources.pb.h"

namespace zerocp {

class StatsReader {
 public:
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
  Core& core_;
  PoolManager& pools_;
  ChannelManager& channels_;
  SessionDirectory& sessions_;
  PoolWatch& watch_;
  TroubleWatch& trouble_;
};

}  // namespace zerocp
