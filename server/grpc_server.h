// The gRPC servers of the daemon, one per listener, and the order in which they start and stop.
//
// admin:  AdminService, ObserverService, SessionService, health, reflection.
// client: ObserverService, SessionService, health, reflection.
// tls:    AdminService, ObserverService, health, reflection. Off if there is no endpoint for it.
// The role of a caller is the socket it could open; the sockets' modes and groups are their
// maker's. Over TLS it is its certificate's (grpc_access.h).
//
// Threads. Start, Shutdown and the destructor from one thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "server/audit_log.h"
#include "server/channel_manager.h"
#include "server/cleanup.h"
#include "server/config_manager.h"
#include "server/core.h"
#include "server/pool_manager.h"
#include "server/rpc_metrics.h"
#include "server/security_options.h"
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
    std::optional<TlsEndpoint> tls = std::nullopt;
    AuditLog* audit = nullptr;  // nullptr: none
  };

  // Takes calls when it returns, which wait for SetReady; health says that it lives and is not
  // ready. INTERNAL if gRPC refuses.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(Options options);
  // Answers calls from now on. REQUIRES: not called before.
  void SetReady();
  // Shuts down at once.
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // Reads the configuration file again, after the changes that were asked for before, and calls
  // `done` unless the server is shut down before. Does not wait.
  void ReloadConfig(std::function<void(const absl::Status&)> done);

  // Not ready any more; no new connections; calls that wait and streams get UNAVAILABLE, the one
  // that runs may end; after `grace` the rest is cancelled. If that does not end either, a watchdog
  // ends the process kShutdownPatience later: whatever is left is found by the next start.
  void Shutdown(std::chrono::milliseconds grace);

  // The numbers of GetStats, as long as this lives.
  StatsReader& stats();
  // Of the TLS listener; nullopt: it is off.
  std::optional<std::chrono::system_clock::time_point> certificate_expiry();

 private:
  struct Endpoint;
  struct Parts;
  explicit GrpcServer(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
};

inline constexpr std::chrono::seconds kShutdownPatience{30};

}  // namespace zerocp
