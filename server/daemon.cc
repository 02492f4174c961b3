#include "server/daemon.h"

#include <grp.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>

#include "server/build_info.h"
#include "server/stats_metrics.h"
#include "shm/memory_budget.h"
#include "shm/mutant.h"
#include "shm/runtime_dir.h"

namespace zerocp {
namespace {

using shm::Code;
using shm::Result;
using shm::Status;

constexpr char kSessionsFile[] = "sessions";
constexpr char kJournalFile[] = "config-journal";
constexpr char kOldSemaphore[] = "/dev/shm/sem.zerocp_init_sem";
constexpr std::chrono::seconds kGrace{2};
constexpr Code kStopped = Code::kUnavailable;  // a start that was told to stop
constexpr size_t kListedSessions = 8;

void SetUpLog(spdlog::level::level_enum level) {
  auto logger = std::make_shared<spdlog::logger>("zerocpd",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  logger->set_level(level);
  spdlog::set_default_logger(std::move(logger));
}

// Each session takes up to two descriptors.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
    spdlog::warn("cannot raise RLIMIT_NOFILE: {}", std::strerror(errno));
}

RuntimeDirectory::Kind KindOf(const Options& options) {
  return options.system_service ? RuntimeDirectory::Kind::kSystem : RuntimeDirectory::Kind::kUser;
}

// The group of a socket; none: only the daemon's user may connect. A default group that does not
// exist is as good as none; one that was named must exist.
Result<std::optional<gid_t>> SocketGroup(const Options& options, const std::string& name,
                                         bool named) {
  if (!options.system_service) return std::optional<gid_t>();
  if (const group* found = getgrnam(name.c_str()); found != nullptr)
    return std::optional<gid_t>(found->gr_gid);
  if (named)
    return Status(Code::kInvalid,
                  "there is no group " + name + ": create it (groupadd --system " + name + ")");
  spdlog::warn(
      "there is no group {}: its sockets are for the daemon's user alone (groupadd --system {})",
      name, name);
  return std::optional<gid_t>();
}

shm::MemPoolManager::CreateOptions SegmentOptions(const Options& options,
                                                  const std::string& runtime_dir) {
  shm::MemPoolManager::CreateOptions segments;
  segments.segment_dir = options.segment_dir;
  segments.instance = options.instance.value_or(shm::InstanceNameFor(runtime_dir));
  segments.management_reserved_bytes = options.management_reserved_bytes();
  segments.chunk_reserved_bytes = options.chunk_reserved_bytes;
  segments.session_capacity = options.max_session_count + shm::kFirstSession;
  segments.max_chunks_per_session = options.max_chunks_per_session;
  return segments;
}

std::string Text(const absl::Status& status) { return std::string(status.message()); }

std::unique_ptr<ConfigFile> FileOf(const Options& options) {
  if (options.config_file.empty()) return nullptr;
  return std::make_unique<ConfigFile>(options.config_file, Config{options.pools, options.channels});
}

std::span<std::byte> Mapping(const shm::Segment& segment) {
  return {segment.data(), segment.reserved_bytes()};
}

}  // namespace

Daemon::Daemon(Options options, RuntimeDirectory directory, Instance instance,
               ServiceManager& service_manager)
    : options_(std::move(options)),
      directory_(std::move(directory)),
      service_manager_(service_manager),
      file_(FileOf(options_)),
      owner_lock_(std::move(instance.owner_lock)),
      adopted_(instance.adopted),
      core_(std::move(instance.manager)),
      guard_(Mapping(core_.manager->management_segment()),
             Mapping(core_.manager->chunk_segment())) {}

Result<std::unique_ptr<Daemon>> Daemon::Start(const Options& options, SignalThread& signals,
                                              ServiceManager& service_manager) {
  Result<RuntimeDirectory> directory = RuntimeDirectory::Open(options.runtime_dir, KindOf(options));
  if (!directory.ok()) return directory.status();
  shm::MemPoolManager::CreateOptions segments = SegmentOptions(options, directory->path());
  segments.lock = directory->lock();
  Result<Instance> instance = OpenInstance(segments);
  if (!instance.ok()) return instance.status();

  std::unique_ptr<Daemon> daemon(
      new Daemon(options, std::move(*directory), std::move(*instance), service_manager));
  Status status = daemon->Restore();
  if (status.ok()) status = daemon->Serve();
  if (status.ok()) {
    service_manager.Notify("", "reserves memory for its pools");
    signals.OnStop([&pools = *daemon->pools_] { pools.StopReserving(); });
    status = daemon->CreatePoolsAndChannels();
    signals.OnStop({});
  }
  if (status.ok()) status = daemon->TakeClients();
  if (!status.ok()) {
    daemon->grpc_.reset();
    daemon->RemoveSockets();
    if (!daemon->adopted_) {
      (void)daemon->core_.manager->Destroy();
      for (const char* name : {kSessionsFile, kJournalFile}) daemon->directory_.Remove(name);
    }
    return status;
  }
  daemon->LogReady();
  service_manager.Notify("READY=1", daemon->ReadyText());
  return daemon;
}

Status Daemon::Restore() {
  if (adopted_) {
    MutexLock lock(core_.mutex);
    if (Status status = core_.registry.Adopt(); !status.ok()) {
      return Status(
          status.code(),
          status.message() + ": zerocpd --cleanup with the same options removes the segments");
    }
  }
  Result<shm::UniqueFd> table = directory_.OpenFile(kSessionsFile);
  if (!table.ok()) return table.status();
  SessionManager::Options session_options;
  session_options.attach_socket = directory_.File(shm::kAttachSocket);
  session_options.any_user = options_.system_service;
  session_options.own_uid = geteuid();
  sessions_ = std::make_unique<SessionManager>(core_, std::move(*table), session_options);
  Result<size_t> restored = sessions_->Restore();
  if (!restored.ok()) return restored.status();
  if (adopted_) spdlog::info("adopted {} with {} sessions", SegmentsText(), *restored);
  core_.events.Add(
      EventKind::kDaemonStarted, "",
      adopted_ ? fmt::format("{} adopted {} with {} sessions", kVersion, SegmentsText(), *restored)
               : fmt::format("{} created {}", kVersion, SegmentsText()));
  if (core_.manager->session_capacity() != options_.max_session_count + shm::kFirstSession) {
    spdlog::warn("--max-sessions {} has no effect on adopted segments: they have {}",
                 options_.max_session_count,
                 core_.manager->session_capacity() - shm::kFirstSession);
  }
  pools_ = std::make_unique<PoolManager>(core_);
  keeper_ = std::make_unique<PoolKeeper>(*pools_);
  channels_ = std::make_unique<ChannelManager>(core_);
  config_ = std::make_unique<ConfigManager>(core_, *pools_, *channels_,
                                            directory_.File(kJournalFile), file_.get());
  return Status();
}

absl::StatusOr<Config> Daemon::WantedConfig() {
  if (file_ != nullptr) {
    const absl::StatusOr<ConfigFile::Content> content = file_->Read();
    if (!content.ok()) return content.status();
    return content->config;
  }
  if (!options_.pools.empty() || !options_.channels.empty() || adopted_)
    return Config{options_.pools, options_.channels};
  const shm::MemoryBudget budget = shm::AvailableMemory(options_.segment_dir);
  DefaultSetup setup = MakeDefaultSetup(budget.available_bytes, core_.manager->session_capacity());
  spdlog::info(
      "no --pool and no --channel: default pools of together {} of {} available bytes ({})",
      setup.bytes, budget.available_bytes, budget.limited_by);
  if (setup.pools.empty()) spdlog::warn("memory is too short for default pools: there are none");
  return Config{std::move(setup.pools), std::move(setup.channels)};
}

Status Daemon::CreatePoolsAndChannels() {
  const absl::StatusOr<Config> wanted = WantedConfig();
  if (!wanted.ok()) return Status(Code::kInvalid, std::string(wanted.status().message()));
  config_->Recover();
  if (!adopted_) {
    const absl::Status begun = config_->Begin(*wanted);
    if (begun.ok()) return Status();
    return Status(begun.code() == absl::StatusCode::kUnavailable ? kStopped : Code::kNoMemory,
                  std::string(begun.message()));
  }
  KeepAdopted();
  if (file_ != nullptr) {
    const ConfigState state = config_->Get();
    if (state.drifted) {
      spdlog::warn("what was adopted is not as the configuration file has it: {}",
                   state.file_error.empty() ? Describe(state.drift) : state.file_error);
    }
  }
  return Status();
}

// What was adopted wins over the command line, so that a restart with other options loses nothing.
void Daemon::KeepAdopted() {
  CreateMode mode;
  mode.allow_existing = true;
  for (const shm::PoolSpec& pool : options_.pools) {
    const absl::Status status = pools_->Create(pool, mode).status();
    if (!status.ok()) spdlog::warn("pool {} is not as --pool says: {}", pool.name, Text(status));
  }
  for (const shm::ChannelSpec& channel : options_.channels) {
    const absl::Status status = channels_->Create(channel, mode).status();
    if (!status.ok())
      spdlog::warn("channel {} is not as --channel says: {}", channel.name, Text(status));
  }
}

Result<shm::UniqueFd> Daemon::Listen(const char* name, int type, std::optional<gid_t> group) {
  Result<shm::UniqueFd> passed = service_manager_.TakeSocket(directory_.File(name), type);
  if (!passed.ok()) return passed;
  if (!*passed || Mutant(100)) own_sockets_.push_back(name);
  if (*passed) {
    spdlog::info("{}: the service manager's", directory_.File(name));
    return passed;
  }
  return directory_.Listen(name, type, group);
}

Status Daemon::Serve() {
  Result<std::optional<TlsEndpoint>> tls = OpenTls(options_.security);
  if (!tls.ok()) return tls.status();
  if (!options_.security.audit_log.empty()) {
    Result<std::unique_ptr<AuditLog>> audit = AuditLog::Open(options_.security.audit_log);
    if (!audit.ok()) return audit.status();
    audit_ = std::move(*audit);
  }
  if (!options_.metrics_listen.empty()) {
    Result<std::unique_ptr<MetricsServer>> metrics = MetricsServer::Start(options_.metrics_listen);
    if (!metrics.ok()) return metrics.status();
    metrics_ = std::move(*metrics);
  }
  Result<std::optional<gid_t>> admins =
      SocketGroup(options_, options_.admin_group, options_.admin_group_named);
  if (!admins.ok()) return admins.status();
  Result<std::optional<gid_t>> clients =
      SocketGroup(options_, options_.socket_group, options_.socket_group_named);
  if (!clients.ok()) return clients.status();
  client_group_ = *clients;
  Result<shm::UniqueFd> admin = Listen(shm::kAdminSocket, SOCK_STREAM, *admins);
  if (!admin.ok()) return admin.status();
  Result<shm::UniqueFd> client = Listen(shm::kClientSocket, SOCK_STREAM, *clients);
  if (!client.ok()) return client.status();
  cleaner_ = std::make_unique<Cleaner>(core_, *sessions_,
                                       [this](bool recover) { return attach_->FindDead(recover); });
  absl::StatusOr<std::unique_ptr<GrpcServer>> grpc =
      GrpcServer::Start({core_, *pools_, *channels_, *config_, *sessions_, *cleaner_, rpc_metrics_,
                         std::move(*admin), std::move(*client), std::move(*tls), audit_.get()});
  if (!grpc.ok()) return Status(Code::kInternal, std::string(grpc.status().message()));
  grpc_ = std::move(*grpc);
  return Status();
}

Status Daemon::TakeClients() {
  Result<shm::UniqueFd> attach = Listen(shm::kAttachSocket, SOCK_SEQPACKET, client_group_);
  if (!attach.ok()) return attach.status();
  if (Status status = service_manager_.CheckAllTaken(); !status.ok()) return status;
  AttachListener::Options attach_options;
  attach_options.death_watch = options_.death_watch;
  attach_options.limits = options_.security.attach;
  attach_ = std::make_unique<AttachListener>(core_, *sessions_, std::move(*attach), attach_options);
  if (Status status = attach_->Start(); !status.ok()) return status;
  grpc_->SetReady();
  if (metrics_ != nullptr) {
    metrics_->Serve({rpc_metrics_.registry(),
                     std::make_shared<StatsMetrics>(core_, *pools_, grpc_->stats(), [this] {
                       return grpc_->certificate_expiry();
                     })});
  }
  return Status();
}

std::string Daemon::SegmentsText() const {
  return core_.manager->management_segment().path() + " and " +
         core_.manager->chunk_segment().path();
}

void Daemon::LogReady() {
  if (adopted_) {  // whoever creates one logs it
    for (const PoolInfo& pool : pools_->List()) {
      spdlog::info("pool {}: {} chunks of {} bytes", pool.spec.name, pool.spec.chunk_count,
                   pool.spec.chunk_size_bytes);
    }
    for (const ChannelInfo& channel : channels_->List()) {
      spdlog::info("channel {}: pool {}, queue {}", channel.spec.name, channel.spec.pool,
                   channel.spec.queue_capacity);
    }
  }
  if (metrics_ != nullptr) spdlog::info("metrics: http://{}/metrics", metrics_->address());
  spdlog::info(
      "ready: zerocpd {} in {} (admin.sock, client.sock, attach.sock), segments {}, {} pools, {} "
      "channels",
      kVersion, directory_.path(), SegmentsText(), pools_->List().size(), channels_->List().size());
}

void Daemon::Reload() {
  service_manager_.Notify("RELOADING=1", "reads the configuration again");
  const auto done = [this](const absl::Status& status) {
    service_manager_.Notify(
        "READY=1",
        status.ok() ? ReadyText()
                    : ReadyText() + "; the configuration file was not taken over: " + Text(status));
  };
  if (audit_ != nullptr) audit_->Reopen();
  if (file_ == nullptr) return done(absl::OkStatus());
  grpc_->ReloadConfig(done);
}

std::string Daemon::ReadyText() const { return "ready in " + directory_.path(); }

void Daemon::RemoveSockets() {
  for (const char* name : own_sockets_) directory_.Remove(name);
}

Status Daemon::Stop() {
  service_manager_.Notify("STOPPING=1", "stops");
  grpc_->Shutdown(kGrace);
  metrics_.reset();
  attach_->Stop();
  keeper_.reset();
  RemoveSockets();

  const auto living = sessions_->Living();
  const size_t pool_count = pools_->List().size();
  const size_t channel_count = channels_->List().size();
  if (options_.on_stop == OnStop::kUnlink ||
      (options_.on_stop == OnStop::kAuto && living.empty())) {
    directory_.Remove(kSessionsFile);
    Status status = core_.manager->Destroy();
    if (!status.ok()) {
      spdlog::error("stopped: {}", status.message());
    } else {
      spdlog::info(
          "stopped: {} unlinked, with {} pools and {} channels; {} processes were attached",
          SegmentsText(), pool_count, channel_count, living.size());
    }
    return status;
  }
  std::string pids;
  size_t listed = 0;
  for (const auto& [id, process] : living) {
    if (++listed > kListedSessions) {
      pids += ", ...";
      break;
    }
    pids += (pids.empty() ? " (pid " : ", ") + std::to_string(process.pid);
  }
  if (!pids.empty()) pids += ")";
  spdlog::info(
      "stopped: {} kept for the next start, with {} pools and {} channels; {} processes are "
      "attached{}",
      SegmentsText(), pool_count, channel_count, living.size(), pids);
  return Status();
}

namespace {

int ExitCodeOf(const Status& status) {
  if (status.ok()) return kExitOk;
  if (status.code() == Code::kInvalid) return kExitUsage;
  return status.code() == Code::kAlreadyExists ? kExitHeld : kExitFailed;
}

// What `zerocpd --cleanup` does; its report goes to stdout.
Status CleanUp(const Options& options) {
  Result<RuntimeDirectory> directory =
      RuntimeDirectory::OpenExisting(options.runtime_dir, KindOf(options));
  if (!directory.ok() && directory.code() != Code::kNotFound) return directory.status();
  const std::string path = directory.ok()
                               ? directory->path()
                               : std::filesystem::weakly_canonical(options.runtime_dir).string();
  shm::MemPoolManager::CreateOptions segments = SegmentOptions(options, path);
  if (directory.ok()) segments.lock = directory->lock();
  Result<std::vector<std::string>> done = CleanUpInstance(segments);
  if (!done.ok()) return done.status();
  for (const std::string& name : *done)
    std::printf("removed %s/%s\n", options.segment_dir.c_str(), name.c_str());
  if (done->empty()) {
    std::printf("nothing to remove: %s/%s is not there\n", options.segment_dir.c_str(),
                shm::MemPoolManager::ManagementName(segments.instance).c_str());
  }
  if (directory.ok()) {
    for (const char* name :
         {shm::kAdminSocket, shm::kClientSocket, shm::kAttachSocket, kSessionsFile, kJournalFile}) {
      directory->Remove(name);
    }
  }
  struct stat info {};
  if (lstat(kOldSemaphore, &info) == 0) {
    std::printf("found %s, a named semaphore that nothing uses any more: rm %s\n", kOldSemaphore,
                kOldSemaphore);
  }
  return Status();
}

// What `zerocpd --check-config` does: all that a start would refuse, but for what depends on the
// moment.
Status CheckConfig(const Options& options) {
  const absl::StatusOr<ConfigFile::Content> content = FileOf(options)->Read();
  if (!content.ok()) return Status(Code::kInvalid, Text(content.status()));
  for (const auto& [name, named] : {std::pair(options.admin_group, options.admin_group_named),
                                    std::pair(options.socket_group, options.socket_group_named)}) {
    if (auto group = SocketGroup(options, name, named); !group.ok()) return group.status();
  }
  shm::MemPoolAllocator allocator(options.management_reserved_bytes(), options.chunk_reserved_bytes,
                                  options.max_session_count + shm::kFirstSession);
  for (const shm::PoolSpec& pool : content->config.pools) {
    const auto plan = allocator.Plan(shm::WithDefaults(pool));
    if (!plan.ok()) {
      return Status(plan.code(), "pools/" + pool.name + ": " + plan.status().message() +
                                     "; give smaller pools, or a larger start.reserve");
    }
  }
  std::printf("%s: %zu pools, %zu channels\n", options.config_file.c_str(),
              content->config.pools.size(), content->config.channels.size());
  return Status();
}

}  // namespace

int RunDaemon(const Options& options) {
  SetUpLog(options.log_level);
  if (options.cleanup) {
    const Status status = CleanUp(options);
    if (!status.ok()) std::fprintf(stderr, "zerocpd: %s\n", status.message().c_str());
    return ExitCodeOf(status);
  }
  if (options.check_config) {
    const Status status = CheckConfig(options);
    if (!status.ok()) std::fprintf(stderr, "zerocpd: %s\n", status.message().c_str());
    return status.ok() ? kExitOk : kExitFailed;
  }
  Result<ServiceManager> service_manager = ServiceManager::FromEnvironment();
  if (!service_manager.ok()) {
    spdlog::critical("cannot start: {}", service_manager.status().message());
    return ExitCodeOf(service_manager.status());
  }
  signal(SIGPIPE, SIG_IGN);
  RaiseDescriptorLimit();
  SignalThread signal_thread(!options.config_file.empty() || !options.security.audit_log.empty());
  spdlog::info("zerocpd {} ({}) starts in {}", kVersion, kGitCommit, options.runtime_dir);
  Result<std::unique_ptr<Daemon>> daemon = Daemon::Start(options, signal_thread, *service_manager);
  if (daemon.code() == kStopped && signal_thread.stop_asked()) {
    spdlog::info("stopped before it was ready: {}", daemon.status().message());
    return kExitOk;
  }
  if (!daemon.ok()) {
    spdlog::critical("cannot start: {}", daemon.status().message());
    return ExitCodeOf(daemon.status());
  }
  signal_thread.OnHangup([&] { (*daemon)->Reload(); });
  while (!signal_thread.WaitForStop(service_manager->ping_interval())) {
    (*daemon)->ProveAlive();
    service_manager->Ping();
  }
  signal_thread.OnHangup({});
  return ExitCodeOf((*daemon)->Stop());
}

}  // namespace zerocp
