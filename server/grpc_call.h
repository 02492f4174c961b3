// What the three services share: their managers, and how a unary call leaves gRPC's poller threads.
#pragma once

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/status/status.h"
#include "server/channel_manager.h"
#include "server/cleanup.h"
#include "server/config_manager.h"
#include "server/error.h"
#include "server/grpc_error.h"
#include "server/pool_manager.h"
#include "server/pool_watch.h"
#include "server/session_manager.h"
#include "server/stats_reader.h"
#include "server/worker.h"

namespace zerocp {

class EventStreams;
class StatsStreams;

// What the services work on. Everything outlives them.
struct ServiceContext {
  Core& core;
  PoolManager& pools;
  ChannelManager& channels;
  ConfigManager& config;
  SessionDirectory& sessions;
  Cleaner& cleaner;
  PoolWatch& watch;
  StatsReader& stats;
  Worker& change_worker;  // of pools, channels and configuration, in order: minutes for large pools
  Worker& long_worker;    // what takes seconds at times, as the audit
  Worker& short_worker;   // everything else: does not wait for those
  EventStreams& event_streams;
  StatsStreams& stats_streams;
};

// The answer to a call that came too late.
inline absl::Status Draining() {
  return MakeError(Reason::kServerDraining, "the daemon is stopping; try again when it is back");
}

// Runs `work`, which returns an absl::Status, on `worker` and finishes the call with it. A call
// that its caller gave up before its turn does not run.
template <class Work>
grpc::ServerUnaryReactor* RunOn(Worker& worker, grpc::CallbackServerContext* context, Work work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  worker.Post([context, reactor, work = std::move(work)](bool run) {
    if (!run) {
      reactor->Finish(ToGrpc(Draining()));
    } else if (context->IsCancelled()) {
      reactor->Finish(grpc::Status::CANCELLED);
    } else {
      reactor->Finish(ToGrpc(work()));
    }
  });
  return reactor;
}

}  // namespace zerocp
