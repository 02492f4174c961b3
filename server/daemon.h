// zerocpd: everything wired together, started and stopped in order.
//
// Start: lock, segments, sessions of the daemon before, gRPC, whose calls wait until pools and
// channels are there, then the attach socket. Stop: gRPC, attach socket, then the segments are
// unlinked or kept.
//
// Crash. The lock goes with the process; the next start adopts the segments and recovers what the
// dead owned. Nothing is lost that clients still hold.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/attach_listener.h"
#include "server/audit_log.h"
#include "server/channel_manager.h"
#include "server/cleanup.h"
#include "server/config_manager.h"
#include "server/core.h"
#include "server/grpc_server.h"
#include "server/instance.h"
#include "server/metrics_server.h"
#include "server/options.h"
#include "server/pool_keeper.h"
#include "server/pool_manager.h"
#include "server/rpc_metrics.h"
#include "server/runtime_directory.h"
#include "server/service_manager.h"
#include "server/session_manager.h"
#include "server/sigbus_guard.h"
#include "server/signal_thread.h"

namespace zerocp {

class Daemon {
 public:
  // Serving when it returns. kAlreadyExists: another daemon runs there or owns the segments.
  // kUnavailable: a stop that `signals` was asked for ended it while it reserved memory. Sockets,
  // and segments that this start created, are gone again if it fails, but not the sockets of
  // `service_manager`, which is told how it goes from here to Stop, and outlives the daemon.
  static shm::Result<std::unique_ptr<Daemon>> Start(const Options& options, SignalThread& signals,
                                                    ServiceManager& service_manager);
  // Reads the configuration file and opens the audit log again. Does not wait. From any thread,
  // until Stop.
  void Reload();
  // Returns if the daemon lives: AttachListener::ProveAlive.
  void ProveAlive() { attach_->ProveAlive(); }
  // In order; afterwards only the destructor. Its last log line says what became of the segments.
  // The failure of an unlink; it is logged too.
  shm::Status Stop();

 private:
  Daemon(Options options, RuntimeDirectory directory, Instance instance,
         ServiceManager& service_manager);
  shm::Status Restore();
  absl::StatusOr<Config> WantedConfig();
  shm::Status CreatePoolsAndChannels();
  void KeepAdopted();
  // The service manager's socket, or one that is made.
  shm::Result<shm::UniqueFd> Listen(const char* name, int type, std::optional<gid_t> group);
  shm::Status Serve();
  shm::Status TakeClients();
  void LogReady();
  std::string ReadyText() const;
  void RemoveSockets();
  std::string SegmentsText() const;

  const Options options_;
  RuntimeDirectory directory_;
  ServiceManager& service_manager_;
  std::vector<const char*> own_sockets_;    // all but the service manager's
  const std::unique_ptr<ConfigFile> file_;  // nullptr: started without one
  shm::UniqueFd owner_lock_;
  const bool adopted_;
  Core core_;
  SigbusGuard guard_;
  std::optional<gid_t> client_group_;
  std::unique_ptr<SessionManager> sessions_;
  std::unique_ptr<PoolManager> pools_;
  std::unique_ptr<PoolKeeper> keeper_;
  std::unique_ptr<ChannelManager> channels_;
  std::unique_ptr<ConfigManager> config_;
  std::unique_ptr<AttachListener> attach_;
  std::unique_ptr<Cleaner> cleaner_;
  std::unique_ptr<AuditLog> audit_;
  RpcMetrics rpc_metrics_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<MetricsServer> metrics_;
};

// The whole life of the program after its command line: serves until SIGTERM or SIGINT, or cleans
// up. Returns the exit code. REQUIRES: no other thread runs yet.
int RunDaemon(const Options& options);

}  // namespace zerocp
