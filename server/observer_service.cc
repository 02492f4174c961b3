#include "server/observer_service.h"

#include <spdlog/fmt/fmt.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "server/build_info.h"
#include "server/convert.h"
#include "server/grpc_event_stream.h"
#include "server/grpc_stats_stream.h"

namespace zerocp {
namespace {

constexpr char kChannelList[] = "channels";
constexpr char kSessionList[] = "sessions";
constexpr char kHeldList[] = "held";

// What a client may rely on beyond the API itself.
constexpr const char* kFeatures[] = {
    "waiting-channels", "dropping-channels", "channel-history",    "pool-growth",
    "pool-auto-grow",   "pool-drain",        "read-only-sessions", "events",
    "subscriber-stats", "watch-stats",       "set-log-level",      "apply-config"};

}  // namespace

grpc::ServerUnaryReactor* ObserverService::GetServerInfo(grpc::CallbackServerContext* call,
                                                         const v1::GetServerInfoRequest* request,
                                                         v1::GetServerInfoResponse* response) {
  return RunOn(context_, context_.short_worker, call, request, [=, this] {
    const shm::MemPoolManager& manager = *context_.core.manager;
    const shm::MemPoolManager::CreateOptions& options = manager.options();
    response->set_version(kVersion);
    response->set_git_commit(kGitCommit);
    response->set_instance_id(UuidText(manager.instance_uuid()));
    *response->mutable_start_time() = ToProto(context_.core.start_time);
    response->set_layout_version(static_cast<int32_t>(shm::kLayoutVersion));
    for (const char* feature : kFeatures) response->add_features(feature);
    response->set_pid(getpid());
    response->set_grpc_version(grpc::Version());
    response->set_instance_name(options.instance);
    response->set_segment_dir(options.segment_dir);
    response->set_management_reserved_bytes(
        static_cast<int64_t>(options.management_reserved_bytes));
    response->set_chunk_reserved_bytes(static_cast<int64_t>(options.chunk_reserved_bytes));
    response->set_max_session_count(
        static_cast<int32_t>(options.session_capacity - shm::kFirstSession));
    response->set_max_chunks_per_session(options.max_chunks_per_session);
    response->set_tls_address(context_.tls_address);
    response->set_runtime_dir(
        std::filesystem::path(context_.sessions.attach_socket()).parent_path());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ObserverService::GetPool(grpc::CallbackServerContext* call,
                                                   const v1::GetPoolRequest* request,
                                                   v1::GetPoolResponse* response) {
  return RunOn(context_, context_.short_worker, call, request, [=, this]() -> absl::Status {
    const auto name = ToName("pools", "name", request->name());
    if (!name.ok()) return name.status();
    const auto pool = context_.pools.Get(*name);
    if (!pool.ok()) return pool.status();
    *response->mutable_pool() = ToProto(*pool);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ObserverService::ListPools(grpc::CallbackServerContext* call,
                                                     const v1::ListPoolsRequest* request,
                                                     v1::ListPoolsResponse* response) {
  return RunOn(context_, context_.short_worker, call, request, [=, this] {
    for (const PoolInfo& pool : context_.pools.List()) *response->add_pools() = ToProto(pool);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ObserverService::ListSessions(grpc::CallbackServerContext* call,
                                                        const v1::ListSessionsRequest* request,
                                                        v1::ListSessionsResponse* response) {
  return RunOn(context_, context_.short_worker, call, request, [=, this]() -> absl::Status {
    const auto page = ToPage(kSessionList, request->page_size(), request->page_token());
    if (!page.ok()) return page.status();
    std::vector<SessionInfo> sessions = context_.sessions.ListWithHeld();
    std::sort(sessions.begin(), sessions.end(), [](const SessionInfo& a, const SessionInfo& b) {
      return SessionKey(a) < SessionKey(b);
    });
    std::string last;
    for (const SessionInfo& session : sessions) {
      const std::string key = SessionKey(session);
      if (key <= page->after) continue;
      if (static_cast<size_t>(response->sessions_size()) == page->size) {
        response->set_next_page_token(PageToken(kSessionList, last));
        break;
      }
      *response->add_sessions() = ToProto(session);
      last = key;
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ObserverService::GetChannel(grpc::CallbackServerContext* call,
                                                      const v1::GetChannelRequest* request,
                                                      v1::GetChannelResponse* response) {
  return RunOn(context_, context_.short_worker, call, request, [=, this]() -> absl::Status {
    const auto name = ToName("channels", "name", request->name());
    if (!name.ok()) return name.status();
    const auto channel = context_.channels.Get(*name);
    if (!channel.ok()) return channel.status();
    *response->mutable_channel() = ToProto(*channel);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ObserverService::ListChannels(grpc::CallbackServerContext* call,
                                                        const v1::ListChannelsRequest* request,
                                                        v1::ListChannelsResponse* response) {
  return RunOn(context_, context_.short_worker, call, request, [=, this]() -> absl::Status {
    const auto page = ToPage(kChannelList, request->page_size(), request->page_token());
    if (!page.ok()) return page.status();
    std::vector<ChannelInfo> channels = context_.channels.List(page->after, page->size + 1);
    if (channels.size() > page->size) {
      channels.pop_back();
      response->set_next_page_token(PageToken(kChannelList, channels.back().spec.name));
    }
    for (const ChannelInfo& channel : channels) *response->add_channels() = ToProto(channel);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ObserverService::ListHeldChunks(grpc::CallbackServerContext* call,
                                                          const v1::ListHeldChunksRequest* request,
                                                          v1::ListHeldChunksResponse* response) {
  return RunOn(context_, context_.short_worker, call, request, [=, this]() -> absl::Status {
    // A token belongs to the list of one filter.
    const std::string name = fmt::format("{}:{}:{}", kHeldList, request->holder(), request->pool());
    const auto page = ToPage(name, request->page_size(), request->page_token());
    if (!page.ok()) return page.status();
    const auto after = ToKey(*page);
    if (!after.ok()) return after.status();
    const auto filter = ToFilter(*request, context_.pools, context_.sessions.List());
    if (!filter.ok()) return filter.status();
    if (!filter->history_of.empty()) {
      if (const auto channel = context_.channels.Get(filter->history_of); !channel.ok())
        return channel.status();
    }
    const PoolWatch::List list = context_.watch.ListHeld(*filter, *after, page->size);
    *response = ToProto(list, context_.sessions.List());
    if (list.more) response->set_next_page_token(PageToken(name, PageKey(list.chunks.back().key)));
    if (*after) response->clear_holders();
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::WatchEventsResponse>* ObserverService::WatchEvents(
    grpc::CallbackServerContext* call, const v1::WatchEventsRequest* request) {
  return OpenStream<v1::WatchEventsResponse>(context_, call, request,
                                             [&] { return context_.event_streams.Open(*request); });
}

grpc::ServerUnaryReactor* ObserverService::GetConfig(grpc::CallbackServerContext* call,
                                                     const v1::GetConfigRequest* request,
                                                     v1::GetConfigResponse* response) {
  return RunOn(context_, context_.short_worker, call, request, [=, this] {
    const ConfigState state = context_.config.Get();
    *response->mutable_config() = ToProto(state.config);
    response->mutable_config()->set_etag(state.etag);
    response->set_drifted(state.drifted);
    for (const ConfigChange& change : state.drift) *response->add_drift() = ToProto(change);
    response->set_file_error(state.file_error);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ObserverService::GetStats(grpc::CallbackServerContext* call,
                                                    const v1::GetStatsRequest* request,
                                                    v1::GetStatsResponse* response) {
  return RunOn(context_, context_.short_worker, call, request, [=, this]() -> absl::Status {
    const auto names = ToPoolNames(*request);
    if (!names.ok()) return names.status();
    auto stats = context_.stats.Read(*names);
    if (!stats.ok()) return stats.status();
    *response->mutable_stats() = *std::move(stats);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::WatchStatsResponse>* ObserverService::WatchStats(
    grpc::CallbackServerContext* call, const v1::WatchStatsRequest* request) {
  return OpenStream<v1::WatchStatsResponse>(context_, call, request,
                                            [&] { return context_.stats_streams.Open(*request); });
}

}  // namespace zerocp
