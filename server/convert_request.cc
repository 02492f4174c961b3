#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <limits>

#include "absl/strings/escaping.h"
#include "server/convert.h"
#include "server/error.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

constexpr size_t kDefaultPageSize = 100;
constexpr size_t kMaxPageSize = 1000;
constexpr std::chrono::milliseconds kMinStatsInterval = PoolWatch::kInterval;
constexpr std::chrono::seconds kMaxStatsInterval{3600};

// `value` as a To; if it does not fit, 0 and a violation of `field`.
template <class To>
To Narrow(int64_t value, const std::string& field, Violations& violations) {
  constexpr uint64_t kMost = std::numeric_limits<To>::max();
  if (value >= 0 && static_cast<uint64_t>(value) <= kMost) return static_cast<To>(value);
  violations.push_back({field, value < 0 ? fmt::format("is {}, but must not be negative", value)
                                         : fmt::format("is {}, more than {}", value, kMost)});
  return 0;
}

// Adds what `found` says of fields that nothing was said of yet; `name` is renamed to `id_field`,
// other fields are prefixed.
void Merge(const Violations& found, const std::string& id_field, const std::string& prefix,
           Violations& violations) {
  for (const shm::Violation& v : found) {
    const std::string field = v.field == "name" ? id_field : prefix + v.field;
    const bool known =
        std::any_of(violations.begin(), violations.end(),
                    [&](const shm::Violation& other) { return other.field == field; });
    if (!known) violations.push_back({field, v.description});
  }
}

// The name in "<collection>/<name>"; nullopt and a violation if it is none.
std::optional<std::string> ParseResource(std::string_view collection, std::string_view field,
                                         std::string_view resource, Violations& violations) {
  const std::string prefix = std::string(collection) + "/";
  if (resource.starts_with(prefix) && shm::IsValidName(resource.substr(prefix.size()))) {
    return std::string(resource.substr(prefix.size()));
  }
  const std::string what = resource.empty() ? "is required: " : "must be ";
  violations.push_back({std::string(field), what + prefix +
                                                "{name}, where {name} matches "
                                                "[a-z]([a-z0-9-]{0,61}[a-z0-9])?"});
  return std::nullopt;
}

template <class Resources>
std::vector<std::string> ParsePools(const Resources& resources, Violations& violations) {
  std::vector<std::string> names;
  for (int i = 0; i < resources.size(); ++i) {
    const auto name = ParseResource("pools", fmt::format("pools[{}]", i), resources[i], violations);
    if (name) names.push_back(*name);
  }
  return names;
}

// What never changes in a pool.
shm::PoolSpec ImmutableFields(const v1::Pool& pool, const std::string& prefix,
                              Violations& violations) {
  shm::PoolSpec spec;
  spec.chunk_size_bytes =
      Narrow<uint64_t>(pool.chunk_size_bytes(), prefix + "chunk_size_bytes", violations);
  spec.chunk_alignment_bytes =
      Narrow<uint32_t>(pool.chunk_alignment_bytes(), prefix + "chunk_alignment_bytes", violations);
  spec.max_chunk_count =
      Narrow<uint32_t>(pool.max_chunk_count(), prefix + "max_chunk_count", violations);
  spec.max_holders =
      Narrow<uint32_t>(pool.max_holders_per_chunk(), prefix + "max_holders_per_chunk", violations);
  return spec;
}

bool HasControlCharacter(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

}  // namespace

namespace {

// `name` stands in the field `id_field`, all else in fields that begin with `prefix`.
shm::PoolSpec ToSpec(const v1::Pool& pool, const std::string& name, const std::string& id_field,
                     const std::string& prefix, Violations& violations) {
  shm::PoolSpec spec = ImmutableFields(pool, prefix, violations);
  spec.name = name;
  spec.chunk_count = Narrow<uint32_t>(pool.chunk_count(), prefix + "chunk_count", violations);
  spec.auto_grow = pool.auto_grow();
  Merge(shm::Validate(spec), id_field, prefix, violations);
  return spec;
}

shm::ChannelSpec ToSpec(const v1::Channel& channel, const std::string& name,
                        const std::string& id_field, const std::string& prefix,
                        Violations& violations) {
  shm::ChannelSpec spec;
  spec.name = name;
  spec.pool = ParseResource("pools", prefix + "pool", channel.pool(), violations).value_or("");
  if (channel.when_full() == v1::Channel::WHEN_FULL_DROP_OLDEST) {
    spec.when_full = shm::WhenFull::kDropOldest;
  } else if (channel.when_full() != v1::Channel::WHEN_FULL_WAIT) {
    violations.push_back({prefix + "when_full",
                          fmt::format("is {}, but must be WHEN_FULL_WAIT or WHEN_FULL_DROP_OLDEST",
                                      static_cast<int>(channel.when_full()))});
  }
  spec.queue_capacity =
      Narrow<uint32_t>(channel.queue_capacity(), prefix + "queue_capacity", violations);
  spec.max_held_count =
      Narrow<uint32_t>(channel.max_held_count(), prefix + "max_held_count", violations);
  spec.history_count =
      Narrow<uint32_t>(channel.history_count(), prefix + "history_count", violations);
  spec.message_type = channel.message_type();
  if (HasControlCharacter(spec.message_type)) {
    violations.push_back({prefix + "message_type", "must not contain control characters"});
  }
  Merge(shm::Validate(spec), id_field, prefix, violations);
  return spec;
}

}  // namespace

absl::StatusOr<shm::PoolSpec> ToSpec(const v1::CreatePoolRequest& request) {
  Violations violations;
  shm::PoolSpec spec = ToSpec(request.pool(), request.pool_id(), "pool_id", "pool.", violations);
  if (!violations.empty()) return InvalidArgument(violations);
  return spec;
}

absl::StatusOr<shm::ChannelSpec> ToSpec(const v1::CreateChannelRequest& request) {
  Violations violations;
  shm::ChannelSpec spec =
      ToSpec(request.channel(), request.channel_id(), "channel_id", "channel.", violations);
  if (!violations.empty()) return InvalidArgument(violations);
  return spec;
}

Config ToConfig(const v1::Config& config, Violations& violations) {
  Config specs;
  for (int i = 0; i < config.pools_size(); ++i) {
    const v1::Pool& pool = config.pools(i);
    const std::string path = fmt::format("pools[{}].", i);
    const auto name = ParseResource("pools", path + "name", pool.name(), violations);
    specs.pools.push_back(ToSpec(pool, name.value_or(""), path + "name", path, violations));
  }
  for (int i = 0; i < config.channels_size(); ++i) {
    const v1::Channel& channel = config.channels(i);
    const std::string path = fmt::format("channels[{}].", i);
    const auto name = ParseResource("channels", path + "name", channel.name(), violations);
    specs.channels.push_back(ToSpec(channel, name.value_or(""), path + "name", path, violations));
  }
  return specs;
}

absl::StatusOr<Config> ToConfig(const v1::ApplyConfigRequest& request) {
  if (!request.has_config()) {
    return InvalidArgument(
        {{"config", "is required: an empty one, with allow_deletion, deletes everything"}});
  }
  Violations violations;
  Config config = ToConfig(request.config(), violations);
  if (!violations.empty()) return InvalidArgument(violations, "config.");
  return config;
}

absl::StatusOr<PoolChange> ToChange(const v1::UpdatePoolRequest& request) {
  Violations violations;
  const v1::Pool& pool = request.pool();
  PoolChange change;
  change.name = ParseResource("pools", "pool.name", pool.name(), violations).value_or("");
  change.etag = pool.etag();
  const bool masked = request.update_mask().paths_size() != 0;  // else what is populated
  bool count = !masked && pool.chunk_count() != 0;
  bool auto_grow = !masked && pool.auto_grow();
  for (const std::string& path : request.update_mask().paths()) {
    count |= path == "chunk_count" || path == "*";
    auto_grow |= path == "auto_grow" || path == "*";
    if (path == "chunk_count" || path == "auto_grow" || path == "*") continue;
    violations.push_back(
        {"update_mask", fmt::format("names \"{}\", but only chunk_count and auto_grow can change",
                                    path.substr(0, shm::kNameBytes))});
  }
  if (!masked) change.immutable = ImmutableFields(pool, "pool.", violations);
  if (auto_grow) change.auto_grow = pool.auto_grow();
  if (count) {
    change.chunk_count = Narrow<uint32_t>(pool.chunk_count(), "pool.chunk_count", violations);
    if (pool.chunk_count() == 0) {
      violations.push_back({"pool.chunk_count", "is required: update_mask names it"});
    }
  }
  if (!violations.empty()) return InvalidArgument(violations);
  return change;
}

absl::StatusOr<SessionRequest> ToSession(const v1::CreateSessionRequest& request) {
  Violations violations;
  SessionRequest session{request.client_name(), request.layout_version(), std::nullopt,
                         request.payload_access() != v1::PAYLOAD_ACCESS_READ_WRITE};
  if (session.client_name.size() >= shm::kNameBytes || HasControlCharacter(session.client_name)) {
    violations.push_back(
        {"client_name",
         fmt::format("must have at most {} bytes and no control characters", shm::kNameBytes - 1)});
  }
  if (session.layout_version <= 0) {
    violations.push_back(
        {"layout_version", "is required: the layout that the client was built for"});
  }
  if (!v1::PayloadAccess_IsValid(request.payload_access())) {
    violations.push_back(
        {"payload_access", fmt::format("is {}, which is no PayloadAccess",
                                       static_cast<int>(request.payload_access()))});
  }
  if (request.has_peer_user_id()) {
    constexpr int64_t kNobody = std::numeric_limits<uid_t>::max();
    if (request.peer_user_id() < 0 || request.peer_user_id() >= kNobody) {
      violations.push_back({"peer_user_id", fmt::format("must be from 0 to {}", kNobody - 1)});
    }
    session.peer_uid = static_cast<uid_t>(request.peer_user_id());
  }
  if (!violations.empty()) return InvalidArgument(violations);
  return session;
}

absl::StatusOr<std::optional<spdlog::level::level_enum>> ToLevel(
    const v1::SetLogLevelRequest& request) {
  using Level = std::optional<spdlog::level::level_enum>;
  if (request.level() == v1::LOG_LEVEL_UNSPECIFIED) return Level();
  for (const auto level : {spdlog::level::trace, spdlog::level::debug, spdlog::level::info,
                           spdlog::level::warn, spdlog::level::err}) {
    if (ToProto(level) == request.level()) return Level(level);
  }
  if (Mutant(79)) return Level(static_cast<spdlog::level::level_enum>(request.level()));
  return InvalidArgument(
      {{"level", fmt::format("is {}, which is no LogLevel", static_cast<int>(request.level()))}});
}

absl::StatusOr<std::string> ToName(std::string_view collection, std::string_view field,
                                   const std::string& resource) {
  Violations violations;
  const std::optional<std::string> name = ParseResource(collection, field, resource, violations);
  if (!name) return InvalidArgument(violations);
  return *name;
}

absl::StatusOr<std::string> ToSessionName(const v1::TerminateSessionRequest& request) {
  constexpr std::string_view kPrefix = "sessions/";
  const std::string_view name = request.name();
  const bool fits = name.starts_with(kPrefix) && name.size() > kPrefix.size() &&
                    std::all_of(name.begin() + kPrefix.size(), name.end(), [](char c) {
                      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                    });
  if (fits) return request.name();
  return InvalidArgument(
      {{"name", name.empty() ? "is required: sessions/{session}, as ListSessions names it"
                             : "must be sessions/{session}, as ListSessions names it"}});
}

absl::StatusOr<std::vector<std::string>> ToPoolNames(const v1::GetStatsRequest& request) {
  Violations violations;
  std::vector<std::string> names = ParsePools(request.pools(), violations);
  if (!violations.empty()) return InvalidArgument(violations);
  return names;
}

absl::StatusOr<CleanupScope> ToScope(const v1::CleanupRequest& request) {
  CleanupScope scope;
  scope.execute = request.execute();
  scope.dead_sessions = scope.stale_segments = request.kinds().empty();
  Violations violations;
  for (int i = 0; i < request.kinds_size(); ++i) {
    switch (request.kinds(i)) {
      case v1::CleanupRequest::KIND_DEAD_SESSION:
        scope.dead_sessions = true;
        break;
      case v1::CleanupRequest::KIND_STALE_SEGMENT:
        scope.stale_segments = true;
        break;
      default:
        if (Mutant(70)) break;
        violations.push_back(
            {fmt::format("kinds[{}]", i), fmt::format("is {}, which is no kind to clean up",
                                                      static_cast<int>(request.kinds(i)))});
    }
  }
  if (!violations.empty()) return InvalidArgument(violations);
  return scope;
}

absl::StatusOr<StatsWatch> ToWatch(const v1::WatchStatsRequest& request) {
  using std::chrono::nanoseconds, std::chrono::seconds;
  Violations violations;
  StatsWatch watch;
  watch.pools = ParsePools(request.pools(), violations);
  std::sort(watch.pools.begin(), watch.pools.end());
  watch.pools.erase(std::unique(watch.pools.begin(), watch.pools.end()), watch.pools.end());
  if (request.has_interval()) {
    const google::protobuf::Duration& wanted = request.interval();
    // What cannot be added up is out of range anyway.
    const bool small = wanted.seconds() >= 0 && wanted.seconds() <= kMaxStatsInterval.count();
    const auto interval =
        seconds(small ? wanted.seconds() : 0) + nanoseconds(small ? wanted.nanos() : 0);
    if (interval < kMinStatsInterval || interval > kMaxStatsInterval) {
      violations.push_back(
          {"interval", fmt::format("must be from {} ms to {} s", kMinStatsInterval.count(),
                                   kMaxStatsInterval.count())});
    }
    watch.interval = std::chrono::ceil<std::chrono::milliseconds>(interval);
  }
  watch.max_updates = Narrow<int32_t>(request.max_updates(), "max_updates", violations);
  if (!violations.empty()) return InvalidArgument(violations);
  return watch;
}

absl::StatusOr<SubscriberName> ToSubscriber(const v1::DetachSubscriberRequest& request) {
  const std::string_view text = request.name();
  const size_t at = text.find("/subscribers/");
  const size_t dash = text.rfind('-');
  if (at != std::string_view::npos && dash != std::string_view::npos && dash > at) {
    const size_t number = at + std::string_view("/subscribers/").size();
    Violations none;
    const auto channel = ParseResource("channels", "name", text.substr(0, at), none);
    SubscriberName name;
    const auto parse = [&](std::string_view digits, uint32_t* value) {
      const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), *value);
      return result.ec == std::errc() && result.ptr == digits.data() + digits.size();
    };
    if (channel && dash >= number && parse(text.substr(number, dash - number), &name.index) &&
        parse(text.substr(dash + 1), &name.epoch)) {
      name.channel = *channel;
      return name;
    }
  }
  return InvalidArgument(
      {{"name", std::string(text.empty() ? "is required: " : "must be ") +
                    "channels/{channel}/subscribers/{subscriber}, as GetStats says it"}});
}

absl::StatusOr<Page> ToPage(std::string_view list, int32_t page_size,
                            const std::string& page_token) {
  Violations violations;
  Page page;
  if (page_size < 0) {
    violations.push_back({"page_size", fmt::format("is {}, but must not be negative", page_size)});
  }
  const auto wanted = static_cast<size_t>(std::max(page_size, 0));
  page.size = wanted == 0 ? kDefaultPageSize : std::min(wanted, kMaxPageSize);
  const std::string prefix = std::string(list) + ":";
  std::string token;
  if (!page_token.empty()) {
    if (absl::WebSafeBase64Unescape(page_token, &token) && token.starts_with(prefix)) {
      page.after = token.substr(prefix.size());
    } else {
      violations.push_back({"page_token", "is not a next_page_token of this list"});
    }
  }
  if (violations.empty()) return page;
  const bool only_token = violations.front().field == "page_token";
  return InvalidArgument(violations, "",
                         only_token ? Reason::kPageTokenInvalid : Reason::kFieldInvalid);
}

absl::StatusOr<PoolWatch::Filter> ToFilter(const v1::ListHeldChunksRequest& request,
                                           PoolManager& pools,
                                           const std::vector<SessionInfo>& sessions) {
  Violations violations;
  PoolWatch::Filter filter;
  std::optional<std::string> pool;
  if (!request.pool().empty()) pool = ParseResource("pools", "pool", request.pool(), violations);
  const std::string& holder = request.holder();
  const bool is_channel = holder.starts_with("channels/");
  if (is_channel)
    filter.history_of = ParseResource("channels", "holder", holder, violations).value_or("");
  if (!holder.empty() && !is_channel && !holder.starts_with("sessions/"))
    violations.push_back({"holder", "must be sessions/{session} or channels/{channel}"});
  if (!violations.empty()) return InvalidArgument(violations);
  if (pool) {
    const absl::StatusOr<uint32_t> index = pools.IndexOf(*pool);
    if (!index.ok()) return index.status();
    filter.pool = *index;
  }
  if (!holder.empty() && !is_channel) {
    const auto found = std::find_if(sessions.begin(), sessions.end(),
                                    [&](const SessionInfo& s) { return s.name == holder; });
    if (found == sessions.end()) {
      return MakeError(Reason::kSessionNotFound,
                       fmt::format("there is no session \"{}\"; ListSessions shows those that are",
                                   holder.substr(holder.find('/') + 1, 64)),
                       {{"resource", holder.substr(0, 128)}});
    }
    filter.session = found->id;
  }
  return filter;
}

absl::StatusOr<std::optional<PoolWatch::Key>> ToKey(const Page& page) {
  if (page.after.empty()) return std::optional<PoolWatch::Key>();
  PoolWatch::Key key;
  uint32_t* const parts[] = {&key.seen_ms, &key.pool, &key.chunk};
  const char* next = page.after.data();
  const char* const end = next + page.after.size();
  for (uint32_t* part : parts) {
    const auto [rest, error] = std::from_chars(next, end, *part);
    if (error != std::errc() || (part == &key.chunk ? rest != end : rest == end || *rest != '/')) {
      return InvalidArgument({{"page_token", "is not a next_page_token of this list"}}, "",
                             Reason::kPageTokenInvalid);
    }
    next = rest + 1;
  }
  return std::optional<PoolWatch::Key>(key);
}

std::string PageKey(const PoolWatch::Key& key) {
  return fmt::format("{}/{}/{}", key.seen_ms, key.pool, key.chunk);
}

std::string PageToken(std::string_view list, std::string_view key) {
  return absl::WebSafeBase64Escape(fmt::format("{}:{}", list, key));
}

std::string SessionKey(const SessionInfo& session) {
  const auto since_epoch = session.create_time.time_since_epoch();
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(since_epoch).count();
  return fmt::format("{:020}/{}", ns, session.name);
}

}  // namespace zerocp
