// Between the messages of zerocp.v1 and the managers' structs. Protobuf, no gRPC.
//
// From requests: every violation of a message is collected, with the path of its field in the
// request
// ("pool.chunk_size_bytes"), so that a caller learns of all of them at once. Output-only fields are
// ignored.
#pragma once

#include <spdlog/common.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/channel_manager.h"
#include "server/cleanup.h"
#include "server/config_plan.h"
#include "server/event_log.h"
#include "server/pool_manager.h"
#include "server/pool_watch.h"
#include "server/session_manager.h"
#include "shm/mem_pool_config.h"
#include "zerocp/v1/admin_service.pb.h"
#include "zerocp/v1/observer_service.pb.h"
#include "zerocp/v1/resources.pb.h"
#include "zerocp/v1/session_service.pb.h"

namespace zerocp {

using Violations = std::vector<shm::Violation>;

// Requests; FIELD_INVALID.

absl::StatusOr<shm::PoolSpec> ToSpec(const v1::CreatePoolRequest& request);
absl::StatusOr<shm::ChannelSpec> ToSpec(const v1::CreateChannelRequest& request);
absl::StatusOr<Config> ToConfig(const v1::ApplyConfigRequest& request);
// Names fields as "pools[1].chunk_size_bytes".
Config ToConfig(const v1::Config& config, Violations& violations);
absl::StatusOr<PoolChange> ToChange(const v1::UpdatePoolRequest& request);

struct SessionRequest {
  std::string client_name;
  int32_t layout_version = 0;
  std::optional<uid_t> peer_uid;
  bool read_only = true;
};
absl::StatusOr<SessionRequest> ToSession(const v1::CreateSessionRequest& request);

// nullopt: the level of the start.
absl::StatusOr<std::optional<spdlog::level::level_enum>> ToLevel(
    const v1::SetLogLevelRequest& request);

// The name in "sessions/{name}".
absl::StatusOr<std::string> ToSessionName(const v1::TerminateSessionRequest& request);

// The names in the resource names "pools/video" of `field`; `collection` is "pools".
absl::StatusOr<std::string> ToName(std::string_view collection, std::string_view field,
                                   const std::string& resource);
absl::StatusOr<std::vector<std::string>> ToPoolNames(const v1::GetStatsRequest& request);

struct StatsWatch {
  std::vector<std::string> pools;  // in name order; none: all
  std::chrono::milliseconds interval{1000};
  int32_t max_updates = 0;  // 0: no end
};
absl::StatusOr<StatsWatch> ToWatch(const v1::WatchStatsRequest& request);

absl::StatusOr<CleanupScope> ToScope(const v1::CleanupRequest& request);

absl::StatusOr<SubscriberName> ToSubscriber(const v1::DetachSubscriberRequest& request);

// The filter of a ListHeldChunks request; its page is ToPage's. POOL_NOT_FOUND, CHANNEL_NOT_FOUND
// and SESSION_NOT_FOUND for what does not exist.
absl::StatusOr<PoolWatch::Filter> ToFilter(const v1::ListHeldChunksRequest& request,
                                           PoolManager& pools,
                                           const std::vector<SessionInfo>& sessions);

// One page of the list named `list`: those after the key `after`, at most `size`. Also
// PAGE_TOKEN_INVALID.
struct Page {
  size_t size = 0;
  std::string after;  // empty: from the start
};
absl::StatusOr<Page> ToPage(std::string_view list, int32_t page_size,
                            const std::string& page_token);
// The token of the page after the item with this key.
std::string PageToken(std::string_view list, std::string_view key);
// Where a page of ListHeldChunks goes on; PAGE_TOKEN_INVALID unless PageKey made its key.
absl::StatusOr<std::optional<PoolWatch::Key>> ToKey(const Page& page);
std::string PageKey(const PoolWatch::Key& key);
// A session's key in creation order: compares as text.
std::string SessionKey(const SessionInfo& session);

// Responses.

google::protobuf::Timestamp ToProto(std::chrono::system_clock::time_point time);
google::protobuf::Duration ToProto(std::chrono::milliseconds duration);
v1::HeldChunk::Phase ToProto(shm::HoldPhase phase);
v1::LogLevel ToProto(spdlog::level::level_enum level);
v1::WatchEventsResponse ToProto(const Event& event);
v1::Pool ToProto(const PoolInfo& pool);
v1::Channel ToProto(const ChannelInfo& channel);
// Without output-only fields.
v1::Config ToProto(const Config& config);
v1::ConfigChange ToProto(const ConfigChange& change);
v1::Session ToProto(const SessionInfo& session);
v1::PoolStats ToProto(const PoolStats& stats);
// Names holders by `sessions`, which must be as old as the list or younger.
v1::ListHeldChunksResponse ToProto(const PoolWatch::List& list,
                                   const std::vector<SessionInfo>& sessions);
// Names the subscribers' sessions from `sessions`.
v1::ChannelStats ToProto(const ChannelStats& stats, const std::vector<SessionInfo>& sessions);
// At most 100 items are listed, all are counted.
v1::CleanupResponse ToProto(const std::vector<LeftBehind>& found);
v1::Segment ToProto(v1::Segment::Kind kind, const SegmentUse& segment, uint64_t available_bytes);

}  // namespace zerocp
