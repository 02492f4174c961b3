#include "server/convert.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "server/error.h"

namespace zerocp {
namespace {

constexpr size_t kDefaultPageSize = 100;
constexpr size_t kMaxPageSize = 1000;

// `value` as a To; if it does not fit, 0 and a violation of `field`.
template <class To>
To Narrow(int64_t value, const char* field, Violations& violations) {
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

bool HasControlCharacter(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

}  // namespace

absl::StatusOr<shm::PoolSpec> ToSpec(const v1::CreatePoolRequest& request) {
  Violations violations;
  const v1::Pool& pool = request.pool();
  shm::PoolSpec spec;
  spec.name = request.pool_id();
  spec.chunk_size_bytes =
      Narrow<uint64_t>(pool.chunk_size_bytes(), "pool.chunk_size_bytes", violations);
  spec.chunk_alignment_bytes =
      Narrow<uint32_t>(pool.chunk_alignment_bytes(), "pool.chunk_alignment_bytes", violations);
  spec.chunk_count = Narrow<uint32_t>(pool.chunk_count(), "pool.chunk_count", violations);
  spec.max_chunk_count =
      Narrow<uint32_t>(pool.max_chunk_count(), "pool.max_chunk_count", violations);
  spec.max_holders =
      Narrow<uint32_t>(pool.max_holders_per_chunk(), "pool.max_holders_per_chunk", violations);
  spec.auto_grow = pool.auto_grow();
  Merge(shm::Validate(spec), "pool_id", "pool.", violations);
  if (!violations.empty()) return InvalidArgument(violations);
  return spec;
}

absl::StatusOr<shm::ChannelSpec> ToSpec(const v1::CreateChannelRequest& request) {
  Violations violations;
  const v1::Channel& channel = request.channel();
  shm::ChannelSpec spec;
  spec.name = request.channel_id();
  spec.pool = ParseResource("pools", "channel.pool", channel.pool(), violations).value_or("");
  if (channel.when_full() == v1::Channel::WHEN_FULL_DROP_OLDEST) {
    spec.when_full = shm::WhenFull::kDropOldest;
  } else if (channel.when_full() != v1::Channel::WHEN_FULL_WAIT) {
    violations.push_back({"channel.when_full",
                          fmt::format("is {}, but must be WHEN_FULL_WAIT or WHEN_FULL_DROP_OLDEST",
                                      static_cast<int>(channel.when_full()))});
  }
  spec.queue_capacity =
      Narrow<uint32_t>(channel.queue_capacity(), "channel.queue_capacity", violations);
  spec.max_held_count =
      Narrow<uint32_t>(channel.max_held_count(), "channel.max_held_count", violations);
  spec.history_count =
      Narrow<uint32_t>(channel.history_count(), "channel.history_count", violations);
  spec.message_type = channel.message_type();
  if (HasControlCharacter(spec.message_type)) {
    violations.push_back({"channel.message_type", "must not contain control characters"});
  }
  Merge(shm::Validate(spec), "channel_id", "channel.", violations);
  if (!violations.empty()) return InvalidArgument(violations);
  return spec;
}

absl::StatusOr<PoolChange> ToChange(const v1::UpdatePoolRequest& request) {
  Violations violations;
  const v1::Pool& pool = request.pool();
  PoolChange change;
  change.name = ParseResource("pools", "pool.name", pool.name(), violations).value_or("");
  change.etag = pool.etag();
  bool count = pool.chunk_count() != 0;  // without a mask: what is populated
  bool auto_grow = pool.auto_grow();
  for (const std::string& path : request.update_mask().paths()) {
    count |= path == "chunk_count" || path == "*";
    auto_grow |= path == "auto_grow" || path == "*";
    if (path == "chunk_count" || path == "auto_grow" || path == "*") continue;
    violations.push_back(
        {"update_mask", fmt::format("names \"{}\", but only chunk_count and auto_grow can change",
                                    path.substr(0, shm::kNameBytes))});
  }
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
  std::vector<std::string> names;
  for (int i = 0; i < request.pools_size(); ++i) {
    const auto name =
        ParseResource("pools", fmt::format("pools[{}]", i), request.pools(i), violations);
    if (name) names.push_back(*name);
  }
  if (!violations.empty()) return InvalidArgument(violations);
  return names;
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

google::protobuf::Timestamp ToProto(std::chrono::system_clock::time_point time) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  google::protobuf::Timestamp proto;
  proto.set_seconds(seconds.time_since_epoch().count());
  proto.set_nanos(static_cast<int32_t>(std::chrono::nanoseconds(time - seconds).count()));
  return proto;
}

v1::Pool ToProto(const PoolInfo& pool) {
  v1::Pool proto;
  proto.set_name(PoolResource(pool.spec.name));
  proto.set_uid(pool.uid);
  proto.set_chunk_size_bytes(static_cast<int64_t>(pool.spec.chunk_size_bytes));
  proto.set_chunk_alignment_bytes(static_cast<int32_t>(pool.spec.chunk_alignment_bytes));
  proto.set_chunk_count(pool.spec.chunk_count);
  proto.set_max_chunk_count(pool.spec.max_chunk_count);
  proto.set_max_holders_per_chunk(static_cast<int32_t>(pool.spec.max_holders));
  proto.set_auto_grow(pool.spec.auto_grow);
  if (!pool.uid.empty())
    proto.set_state(pool.draining ? v1::Pool::STATE_DRAINING : v1::Pool::STATE_ACTIVE);
  if (pool.create_time) *proto.mutable_create_time() = ToProto(*pool.create_time);
  proto.set_etag(pool.etag);
  return proto;
}

v1::Channel ToProto(const ChannelInfo& channel) {
  v1::Channel proto;
  proto.set_name(ChannelResource(channel.spec.name));
  proto.set_pool(PoolResource(channel.spec.pool));
  proto.set_when_full(channel.spec.when_full == shm::WhenFull::kWait
                          ? v1::Channel::WHEN_FULL_WAIT
                          : v1::Channel::WHEN_FULL_DROP_OLDEST);
  proto.set_queue_capacity(static_cast<int32_t>(channel.spec.queue_capacity));
  proto.set_max_held_count(static_cast<int32_t>(channel.spec.max_held_count));
  proto.set_history_count(static_cast<int32_t>(channel.spec.history_count));
  proto.set_message_type(channel.spec.message_type);
  proto.set_max_subscriber_count(static_cast<int32_t>(channel.max_subscriber_count));
  proto.set_etag(channel.etag);
  return proto;
}

namespace {

v1::Session::State ToProto(SessionPhase phase) {
  switch (phase) {
    case SessionPhase::kPending:
      return v1::Session::STATE_PENDING;
    case SessionPhase::kAttached:
      return v1::Session::STATE_ATTACHED;
    case SessionPhase::kDead:
      return v1::Session::STATE_DEAD;
    case SessionPhase::kRevoked:
      return v1::Session::STATE_REVOKED;
    case SessionPhase::kOrphaned:
      return v1::Session::STATE_ORPHANED;
  }
  return v1::Session::STATE_UNSPECIFIED;
}

}  // namespace

v1::Session ToProto(const SessionInfo& session) {
  v1::Session proto;
  proto.set_name(session.name);
  proto.set_client_name(session.client_name);
  proto.set_state(ToProto(session.phase));
  proto.set_payload_access(session.read_only ? v1::PAYLOAD_ACCESS_READ_ONLY
                                             : v1::PAYLOAD_ACCESS_READ_WRITE);
  proto.set_peer_pid(session.pid);
  if (session.uid) proto.set_peer_user_id(*session.uid);
  proto.set_held_chunk_count(static_cast<int64_t>(session.held_chunk_count));
  *proto.mutable_create_time() = ToProto(session.create_time);
  if (session.attach_time) *proto.mutable_attach_time() = ToProto(*session.attach_time);
  return proto;
}

v1::PoolStats ToProto(const PoolStats& stats) {
  v1::PoolStats proto;
  proto.set_pool(PoolResource(stats.name));
  proto.set_chunk_count(static_cast<int64_t>(stats.counts.chunk_count));
  proto.set_free_chunk_count(static_cast<int64_t>(stats.counts.free_count));
  proto.set_cached_chunk_count(static_cast<int64_t>(stats.counts.cached_count));
  proto.set_writing_chunk_count(static_cast<int64_t>(stats.counts.writing_count));
  proto.set_shared_chunk_count(static_cast<int64_t>(stats.counts.shared_count));
  // The smallest, whatever was counted when.
  proto.set_min_free_chunk_count_1m(static_cast<int64_t>(
      std::min(stats.least_free_count.value_or(stats.counts.free_count), stats.counts.free_count)));
  proto.set_loan_count(static_cast<int64_t>(stats.loan_count));
  proto.set_exhausted_count(static_cast<int64_t>(stats.exhausted_count));
  proto.set_recovered_chunk_count(static_cast<int64_t>(stats.recovered_chunk_count));
  return proto;
}

google::protobuf::Duration ToProto(std::chrono::milliseconds duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(duration.count() / 1000);
  proto.set_nanos(static_cast<int32_t>(duration.count() % 1000) * 1'000'000);
  return proto;
}

v1::HeldChunk::Phase ToProto(shm::HoldPhase phase) {
  switch (phase) {
    case shm::HoldPhase::kWriting:
      return v1::HeldChunk::PHASE_WRITING;
    case shm::HoldPhase::kQueued:
      return v1::HeldChunk::PHASE_QUEUED;
    case shm::HoldPhase::kReading:
      return v1::HeldChunk::PHASE_READING;
    case shm::HoldPhase::kHistory:
      return v1::HeldChunk::PHASE_HISTORY;
    case shm::HoldPhase::kCached:
      return v1::HeldChunk::PHASE_CACHED;
  }
  return v1::HeldChunk::PHASE_UNSPECIFIED;
}

namespace {

const SessionInfo* FindSession(const std::vector<SessionInfo>& sessions, uint16_t id) {
  const auto found = std::find_if(sessions.begin(), sessions.end(),
                                  [&](const SessionInfo& s) { return s.id != 0 && s.id == id; });
  return found == sessions.end() ? nullptr : &*found;
}

std::string ChannelOf(const shm::Census& census, uint16_t channel) {
  const std::string& name = census.ChannelName(channel);
  return name.empty() ? name : ChannelResource(name);
}

}  // namespace

v1::ListHeldChunksResponse ToProto(const PoolWatch::List& list,
                                   const std::vector<SessionInfo>& sessions) {
  v1::ListHeldChunksResponse response;
  const auto holder = [&](shm::HoldPhase phase, uint16_t session, uint16_t channel) {
    if (phase == shm::HoldPhase::kHistory) return ChannelOf(list.census, channel);
    const SessionInfo* info = FindSession(sessions, session);
    return info == nullptr ? std::string() : info->name;
  };
  for (const PoolWatch::Held& held : list.chunks) {
    v1::HeldChunk& chunk = *response.add_chunks();
    chunk.set_pool(PoolResource(held.pool));
    chunk.set_chunk_index(held.key.chunk);
    chunk.set_generation(held.generation);
    for (const shm::Holding& h : held.holders) {
      v1::HeldChunk::Holder& line = *chunk.add_holders();
      line.set_holder(holder(h.phase, h.session, h.channel));
      line.set_phase(ToProto(h.phase));
      line.set_channel(ChannelOf(list.census, h.channel));
    }
    *chunk.mutable_min_age() = ToProto(held.min_age);
    chunk.set_used_size_bytes(static_cast<int64_t>(held.size_bytes));
  }
  for (const PoolWatch::Sum& sum : list.sums) {
    v1::HolderSummary& line = *response.add_holders();
    const SessionInfo* info = FindSession(sessions, sum.sum.session);
    line.set_holder(holder(sum.sum.phase, sum.sum.session, sum.sum.channel));
    if (info != nullptr) {
      line.set_client_name(info->client_name);
      line.set_peer_pid(info->pid);
    }
    line.set_pool(PoolResource(sum.pool));
    line.set_channel(ChannelOf(list.census, sum.sum.channel));
    line.set_phase(ToProto(sum.sum.phase));
    line.set_chunk_count(static_cast<int64_t>(sum.sum.chunk_count));
    *line.mutable_oldest_min_age() = ToProto(sum.oldest_min_age);
  }
  return response;
}

v1::ChannelStats ToProto(const ChannelStats& stats, const std::vector<SessionInfo>& sessions) {
  v1::ChannelStats proto;
  proto.set_channel(ChannelResource(stats.name));
  proto.set_publisher_count(static_cast<int32_t>(stats.publisher_count));
  proto.set_published_count(static_cast<int64_t>(stats.published_count));
  proto.set_waited_count(static_cast<int64_t>(stats.waited_count));
  for (const SubscriberStats& subscriber : stats.subscribers) {
    v1::SubscriberStats& line = *proto.add_subscribers();
    line.set_subscriber(SubscriberResource({stats.name, subscriber.index, subscriber.epoch}));
    if (const SessionInfo* session = FindSession(sessions, subscriber.session)) {
      line.set_session(session->name);
      line.set_client_name(session->client_name);
    }
    line.set_queued_count(static_cast<int64_t>(subscriber.queued_count));
    line.set_queue_capacity(static_cast<int32_t>(subscriber.queue_capacity));
    line.set_held_count(static_cast<int32_t>(subscriber.held_count));
    line.set_taken_count(static_cast<int64_t>(subscriber.taken_count));
    line.set_missed_count(static_cast<int64_t>(subscriber.missed_count));
    *line.mutable_stalled_for() = ToProto(subscriber.stalled_for);
  }
  return proto;
}

v1::Segment ToProto(v1::Segment::Kind kind, const SegmentUse& segment, uint64_t available_bytes) {
  v1::Segment proto;
  proto.set_kind(kind);
  proto.set_shm_name(segment.name);
  proto.set_size_bytes(static_cast<int64_t>(segment.used_bytes));
  // INT64_MAX if nothing limits it.
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
  proto.set_free_size_bytes(static_cast<int64_t>(std::min(available_bytes, kMost)));
  return proto;
}

}  // namespace zerocp
