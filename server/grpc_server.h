// The two gRPC servers of the daemon, and the order in which they start and stop.
//
// admin:  AdminService, ObserverService, SessionService, health, reflection.
// client: ObserverService, SessionService, health, reflection.
// The role of a caller is the socket it could open; the sockets' modes and groups are their
// maker's.
//
// Threads. Start, Shutdown and the destructor from one thread.
#pragma once

#include <chrono>
#include <memory>

#include "absl/status/statusor.h"
#include "server/channel_manager.h"
#include "server/cleanup.h"
#include "server/config_manager.h"
#include "server/core.h"
#include "server/pool_manager.h"
#include "server/rpc_metrics.h"
#include "server/session_manager.h"
#include "server/stats_reader.h"
#include "shm/unique_fd.h"

namespace zerocp {

class GrpcServer {
 public:
  // All outlive the server, but for the descriptors: listening Unix sockets, which it takes over.
  struct Options {
    Core& core;
    PoolManager& pools;
    ChannelManager& channels;
    ConfigManager& config;
    SessionDirectory& sessions;
    Cleaner& cleaner;
    RpcMetrics& rpc_metrics;
    shm::UniqueFd admin_listener;
    shm::UniqueFd client_listener;
  };

  // Serving when it returns. INTERNAL if gRPC refuses.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(Options options);
  // Shuts down at once.
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // Reads the configuration file again, after the changes that were asked for before. Does not
  // wait.
  void ReloadConfig();

  // Not serving any more; no new connections; calls that wait and streams get UNAVAILABLE, the one
  // that runs may end; after `grace` the rest is cancelled. If that does not end either, a watchdog
  // ends the process kShutdownPatience later: whatever is left is found by the next start.
  void Shutdown(std::chrono::milliseconds grace);

  // The numbers of GetStats, as long as this lives.
  StatsReader& stats();

 private:
  struct Parts;
  explicit GrpcServer(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
};

inline constexpr std::chrono::seconds kShutdownPatience{30};

}  // namespace zerocp
