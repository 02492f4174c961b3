#include "server/grpc_server.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_posix.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "grpc/health/v1/health.pb.h"
#include "server/admin_service.h"
#include "server/grpc_access.h"
#include "server/grpc_event_stream.h"
#include "server/grpc_interceptor.h"
#include "server/grpc_listener.h"
#include "server/grpc_stats_stream.h"
#include "server/grpc_tls.h"
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

// A Unix socket tells of its peer's death, TCP has to ask.
void KeepTcpAlive(grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 15 * 60'000);
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

// One grpc::Server with its services and its accept loop. Members are destroyed in reverse order:
// the loop first.
struct GrpcServer::Endpoint {
  Endpoint(const ServiceContext& shared, const char* name, Role role)
      : access(name, role, connections), context(shared.With(access)) {}
  Endpoint(const ServiceContext& shared, const char* name, TlsEndpoint& tls)
      : access(name, std::move(tls.admins), std::move(tls.observers)),
        context(shared.With(access)) {}

  GrpcConnections connections;
  const Access access;
  const ServiceContext context;
  AdminService admin_service{context};
  ObserverService observer_service{context};
  SessionService session_service{context};
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
                stats_streams,
                options.tls ? options.tls->listener.address : "",
                options.audit} {
    watch.Start([this] {
      trouble.Look();
      stats_streams.Tick();
    });
  }

  using Services = std::vector<std::pair<grpc::Service*, const char*>>;
  // With credentials: TCP; without: a Unix socket. False if gRPC refuses.
  bool Serve(std::unique_ptr<Endpoint> endpoint, shm::UniqueFd listening, const Services& services,
             std::shared_ptr<grpc::ServerCredentials> credentials);
  bool ServeAll(Options& options);

  TroubleWatch trouble;  // looks in the thread of `watch`
  PoolWatch watch;
  StatsReader stats;
  RpcMetrics& rpc_metrics;
  Worker change_worker;
  Worker long_worker;
  Worker short_worker;
  EventStreams event_streams;
  StatsStreams stats_streams;    // ticks in the thread of `watch`
  const ServiceContext context;  // each endpoint has a copy, with its own access
  std::unique_ptr<TlsFiles> tls_files;
  std::vector<std::unique_ptr<Endpoint>> endpoints;
};

bool GrpcServer::Parts::Serve(std::unique_ptr<Endpoint> endpoint, shm::UniqueFd listening,
                              const Services& services,
                              std::shared_ptr<grpc::ServerCredentials> credentials) {
  const std::string& name = endpoint->access.listener();
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  if (endpoint->access.remote()) KeepTcpAlive(builder);
  grpc::ResourceQuota quota("zerocp-" + name);
  builder.SetResourceQuota(quota.Resize(kMaxServerBytes).SetMaxThreads(kMaxServerThreads));
  std::set<std::string> names;
  for (const auto& service : services) names.insert(service.second);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<CallInterceptorFactory>(
      names, rpc_metrics, endpoint->access, endpoint->context.audit));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  for (const auto& service : services) builder.RegisterService(service.first);
  GrpcListener::Options listener_options{name + " socket"};
  GrpcListener::HandOver hand_over;
  if (credentials == nullptr) {
    hand_over = [&server = endpoint->server](int fd) {
      grpc::AddInsecureChannelFromFd(server.get(), fd);
    };
  } else {
    listener_options.tcp = true;
    hand_over = [acceptor = std::shared_ptr<grpc::experimental::ExternalConnectionAcceptor>(
                     builder.experimental().AddExternalConnectionAcceptor(
                         grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
                         std::move(credentials)))](int fd) {
      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
      connection.fd = fd;
      acceptor->HandleNewConnection(&connection);
    };
  }

  endpoint->services = std::move(names);
  endpoint->server = builder.BuildAndStart();
  if (endpoint->server == nullptr) return false;
  endpoint->SetServing(false);
  endpoint->listener =
      std::make_unique<GrpcListener>(std::move(listener_options), std::move(listening),
                                     endpoint->connections, std::move(hand_over));
  endpoints.push_back(std::move(endpoint));
  return true;
}

bool GrpcServer::Parts::ServeAll(Options& options) {
  const auto services = [](Endpoint& endpoint, bool admin, bool session) {
    Services chosen{{&endpoint.observer_service, v1::ObserverService::service_full_name()}};
    if (admin) chosen.emplace_back(&endpoint.admin_service, v1::AdminService::service_full_name());
    if (session)
      chosen.emplace_back(&endpoint.session_service, v1::SessionService::service_full_name());
    return chosen;
  };
  // The mode of a Unix socket decides who gets here.
  auto admin = std::make_unique<Endpoint>(context, "admin", Role::kAdmin);
  auto client = std::make_unique<Endpoint>(context, "client", Role::kClient);
  const Services admin_services = services(*admin, true, true);
  const Services client_services = services(*client, false, true);
  if (!Serve(std::move(admin), std::move(options.admin_listener), admin_services, nullptr) ||
      !Serve(std::move(client), std::move(options.client_listener), client_services, nullptr)) {
    return false;
  }
  if (!options.tls) return true;
  tls_files = std::move(options.tls->files);
  auto tls = std::make_unique<Endpoint>(context, "tls", *options.tls);
  const Services tls_services = services(*tls, true, false);
  return Serve(std::move(tls), std::move(options.tls->listener.fd), tls_services,
               TlsCredentials(*tls_files));
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(Options options) {
  SetUpGrpc();
  std::unique_ptr<GrpcServer> server(new GrpcServer(std::make_unique<Parts>(options)));
  if (!server->parts_->ServeAll(options))
    return MakeError(Reason::kInternal, "gRPC cannot start a server; its log lines say why");
  return server;
}

GrpcServer::GrpcServer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

GrpcServer::~GrpcServer() { Shutdown(std::chrono::milliseconds::zero()); }

std::optional<std::chrono::system_clock::time_point> GrpcServer::certificate_expiry() {
  if (parts_->tls_files == nullptr) return std::nullopt;
  return parts_->tls_files->expire_time();
}

StatsReader& GrpcServer::stats() { return parts_->stats; }

void GrpcServer::SetReady() {
  parts_->short_worker.Start();
  parts_->long_worker.Start();
  parts_->change_worker.Start();
  for (const auto& endpoint : parts_->endpoints) endpoint->SetServing(true);
}

void GrpcServer::ReloadConfig(std::function<void(const absl::Status&)> done) {
  ConfigManager& config = parts_->context.config;
  parts_->change_worker.Post([&config, done = std::move(done)](bool run) {
    if (run) done(config.Reload({}).status());
  });
}

void GrpcServer::Shutdown(std::chrono::milliseconds grace) {
  Watchdog watchdog(grace + kShutdownPatience);
  const auto deadline = std::chrono::system_clock::now() + grace;
  for (const auto& endpoint : parts_->endpoints) {
    if (!Mutant(68)) endpoint->SetServing(false);
    endpoint->listener->Stop();
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
  for (const auto& endpoint : parts_->endpoints) endpoint->server->Shutdown(deadline);
  parts_->endpoints.clear();
}

}  // namespace zerocp
