#include "server/grpc_server.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "grpc/health/v1/health.pb.h"
#include "server/admin_service.h"
#include "server/grpc_event_stream.h"
#include "server/grpc_interceptor.h"
#include "server/grpc_listener.h"
#include "server/grpc_stats_stream.h"
#include "server/observer_service.h"
#include "server/session_service.h"
#include "server/trouble_watch.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

constexpr int kMaxReceiveBytes = 1 << 20;
constexpr int kMaxMetadataBytes = 8 << 10;
constexpr int kMaxStreamsPerConnection = 64;
constexpr int kHandshakeTimeoutMs = 10'000;
constexpr size_t kMaxServerBytes = size_t{64} << 20;
// Each open reflection stream holds a thread.
constexpr int kMaxServerThreads = 32;

// Ends the process if its owner does not get done in time.
class Watchdog {
 public:
  explicit Watchdog(std::chrono::milliseconds patience)
      : thread_([this, end = std::chrono::steady_clock::now() + patience] { Run(end); }) {}
  ~Watchdog() {
    {
      MutexLock lock(mutex_);
      done_ = true;
      changed_.notify_one();
    }
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  void Run(std::chrono::steady_clock::time_point end) {
    MutexLock lock(mutex_);
    while (!done_) {
      if (changed_.wait_until(mutex_, end) != std::cv_status::timeout || done_) continue;
      spdlog::critical("a gRPC call does not end: the process ends without it");
      spdlog::shutdown();
      _exit(1);
    }
  }

  Mutex mutex_;
  ConditionVariable changed_;
  bool done_ ZEROCP_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// gRPC calls a peer's misbehaviour an error; for the daemon it is not.
void LogFromGrpc(gpr_log_func_args* args) {
  const auto level = args->severity == GPR_LOG_SEVERITY_ERROR  ? spdlog::level::warn
                     : args->severity == GPR_LOG_SEVERITY_INFO ? spdlog::level::debug
                                                               : spdlog::level::trace;
  spdlog::log(level, "grpc: {}", args->message);
}

// What Protobuf says of a request that cannot be decoded; the caller is told.
void LogFromProtobuf(google::protobuf::LogLevel, const char*, int, const std::string& message) {
  spdlog::debug("protobuf: {}", message);
}

// What gRPC and Protobuf have once per process.
void SetUpGrpc() {
  static const bool once = [] {
    gpr_set_log_function(LogFromGrpc);
    google::protobuf::SetLogHandler(LogFromProtobuf);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    // Links the descriptor, without which reflection lists the service and cannot describe it.
    grpc::health::v1::HealthCheckRequest::descriptor();
    return true;
  }();
  (void)once;
}

}  // namespace

// One grpc::Server with its accept loop. Members are destroyed in reverse order: the loop first.
struct Endpoint {
  std::set<std::string> services;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<GrpcListener> listener;

  // Readiness: that of each service. Liveness, that of "", is SERVING as long as there is a server.
  void SetServing(bool serving) const {
    for (const std::string& service : services)
      server->GetHealthCheckService()->SetServingStatus(service, serving);
  }
};

struct GrpcServer::Parts {
  explicit Parts(const Options& options)
      : trouble(options.core, watch, options.sessions),
        watch(options.core),
        stats(options.core, options.pools, options.channels, options.sessions, watch, trouble),
        rpc_metrics(options.rpc_metrics),
        event_streams(options.core.events, short_worker),
        stats_streams(stats, short_worker),
        context{options.core,
                options.pools,
                options.channels,
                options.config,
                options.sessions,
                options.cleaner,
                watch,
                stats,
                change_worker,
                long_worker,
                short_worker,
                event_streams,
                stats_streams} {
    watch.Start([this] {
      trouble.Look();
      stats_streams.Tick();
    });
  }

  bool Serve(const std::string& name, shm::UniqueFd listening,
             const std::vector<std::pair<grpc::Service*, const char*>>& services);

  TroubleWatch trouble;  // looks in the thread of `watch`
  PoolWatch watch;
  StatsReader stats;
  RpcMetrics& rpc_metrics;
  Worker change_worker;
  Worker long_worker;
  Worker short_worker;
  EventStreams event_streams;
  StatsStreams stats_streams;  // ticks in the thread of `watch`
  const ServiceContext context;
  AdminService admin_service{context};
  ObserverService observer_service{context};
  SessionService session_service{context};
  std::vector<Endpoint> endpoints;
};

bool GrpcServer::Parts::Serve(const std::string& name, shm::UniqueFd listening,
                              const std::vector<std::pair<grpc::Service*, const char*>>& services) {
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  grpc::ResourceQuota quota("zerocp-" + name);
  builder.SetResourceQuota(quota.Resize(kMaxServerBytes).SetMaxThreads(kMaxServerThreads));
  std::set<std::string> names;
  for (const auto& service : services) names.insert(service.second);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<CallInterceptorFactory>(names, rpc_metrics));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  for (const auto& service : services) builder.RegisterService(service.first);
  auto acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      grpc::InsecureServerCredentials());  // the socket's mode decides who gets here

  Endpoint endpoint;
  endpoint.services = std::move(names);
  endpoint.server = builder.BuildAndStart();
  if (endpoint.server == nullptr) return false;
  endpoint.SetServing(false);
  endpoint.listener =
      std::make_unique<GrpcListener>(name + " socket", std::move(listening), std::move(acceptor));
  endpoints.push_back(std::move(endpoint));
  return true;
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(Options options) {
  SetUpGrpc();
  auto parts = std::make_unique<Parts>(options);
  const std::pair<grpc::Service*, const char*> admin{&parts->admin_service,
                                                     v1::AdminService::service_full_name()};
  const std::pair<grpc::Service*, const char*> observer{&parts->observer_service,
                                                        v1::ObserverService::service_full_name()};
  const std::pair<grpc::Service*, const char*> session{&parts->session_service,
                                                       v1::SessionService::service_full_name()};
  std::unique_ptr<GrpcServer> server(new GrpcServer(std::move(parts)));
  if (!server->parts_->Serve("admin", std::move(options.admin_listener),
                             {admin, observer, session}) ||
      !server->parts_->Serve("client", std::move(options.client_listener), {observer, session})) {
    return MakeError(Reason::kInternal, "gRPC cannot start a server; its log lines say why");
  }
  return server;
}

GrpcServer::GrpcServer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

GrpcServer::~GrpcServer() { Shutdown(std::chrono::milliseconds::zero()); }

StatsReader& GrpcServer::stats() { return parts_->stats; }

void GrpcServer::SetReady() {
  parts_->short_worker.Start();
  parts_->long_worker.Start();
  parts_->change_worker.Start();
  for (const Endpoint& endpoint : parts_->endpoints) endpoint.SetServing(true);
}

void GrpcServer::ReloadConfig() {
  ConfigManager& config = parts_->context.config;
  parts_->change_worker.Post([&config](bool run) {
    if (run) (void)config.Reload({});
  });
}

void GrpcServer::Shutdown(std::chrono::milliseconds grace) {
  Watchdog watchdog(grace + kShutdownPatience);
  const auto deadline = std::chrono::system_clock::now() + grace;
  for (Endpoint& endpoint : parts_->endpoints) {
    if (!Mutant(68)) endpoint.SetServing(false);
    endpoint.listener->Stop();
  }
  // From here on every call is answered by its worker: gRPC waits for each without limit.
  parts_->context.pools.StopReserving();
  parts_->change_worker.Stop();
  parts_->short_worker.Stop();
  parts_->long_worker.Stop();
  parts_->context.sessions.AbandonTerminations();
  parts_->watch.Stop();
  parts_->event_streams.Stop();
  parts_->stats_streams.Stop();
  for (Endpoint& endpoint : parts_->endpoints) endpoint.server->Shutdown(deadline);
  parts_->endpoints.clear();
}

}  // namespace zerocp
