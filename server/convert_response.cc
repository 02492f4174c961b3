#include <algorithm>

#include "server/convert.h"

namespace zerocp {

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
  if (pool.creating) {
    proto.set_state(v1::Pool::STATE_CREATING);
  } else if (!pool.uid.empty())
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

v1::Config ToProto(const Config& config) {
  v1::Config proto;
  for (const shm::PoolSpec& spec : config.pools) {
    PoolInfo pool;
    pool.spec = spec;
    *proto.add_pools() = ToProto(pool);
  }
  for (const shm::ChannelSpec& spec : config.channels)
    *proto.add_channels() = ToProto({spec, 0, ""});
  return proto;
}

v1::ConfigChange ToProto(const ConfigChange& change) {
  v1::ConfigChange proto;
  proto.set_action(static_cast<v1::ConfigChange::Action>(change.action));
  proto.set_path(change.path);
  proto.set_old_value(change.old_value);
  proto.set_new_value(change.new_value);
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

v1::LogLevel ToProto(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::trace:
      return v1::LOG_LEVEL_TRACE;
    case spdlog::level::debug:
      return v1::LOG_LEVEL_DEBUG;
    case spdlog::level::info:
      return v1::LOG_LEVEL_INFO;
    case spdlog::level::warn:
      return v1::LOG_LEVEL_WARN;
    default:
      return v1::LOG_LEVEL_ERROR;
  }
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
    line.set_state(subscriber.detached ? v1::SubscriberStats::STATE_DETACHED
                                       : v1::SubscriberStats::STATE_ACTIVE);
    line.set_fullest_queued_count(static_cast<int64_t>(subscriber.fullest_queued_count));
    line.set_queue_capacity(static_cast<int32_t>(subscriber.queue_capacity));
    line.set_held_count(static_cast<int32_t>(subscriber.held_count));
    line.set_taken_count(static_cast<int64_t>(subscriber.taken_count));
    line.set_missed_count(static_cast<int64_t>(subscriber.missed_count));
    *line.mutable_stalled_for() = ToProto(subscriber.stalled_for);
  }
  return proto;
}

v1::CleanupResponse ToProto(const std::vector<LeftBehind>& found) {
  constexpr int kMostItems = 100;
  v1::CleanupResponse proto;
  proto.set_removed_count(static_cast<int32_t>(found.size()));
  uint64_t chunk_count = 0;
  for (const LeftBehind& thing : found) {
    chunk_count += thing.chunk_count;
    if (proto.items_size() == kMostItems) continue;
    v1::CleanupResponse::Item& item = *proto.add_items();
    item.set_kind(thing.kind == LeftBehind::Kind::kDeadSession
                      ? v1::CleanupRequest::KIND_DEAD_SESSION
                      : v1::CleanupRequest::KIND_STALE_SEGMENT);
    item.set_name(thing.name);
    item.set_reason(thing.reason);
  }
  proto.set_chunk_count(static_cast<int64_t>(chunk_count));
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

v1::WatchEventsResponse ToProto(const Event& event) {
  v1::WatchEventsResponse proto;
  proto.set_sequence(event.sequence);
  *proto.mutable_time() = ToProto(event.time);
  proto.set_kind(static_cast<v1::WatchEventsResponse::Kind>(event.kind));
  proto.set_resource(event.resource);
  proto.set_detail(event.detail);
  for (const EventHolder& holder : event.holders) {
    v1::HolderSummary& line = *proto.add_holders();
    line.set_holder(holder.session);
    line.set_client_name(holder.client_name);
    line.set_peer_pid(holder.pid);
    line.set_pool(holder.pool);
    line.set_channel(holder.channel);
    line.set_phase(ToProto(holder.phase));
    line.set_chunk_count(static_cast<int64_t>(holder.chunk_count));
    *line.mutable_oldest_min_age() = ToProto(holder.oldest_min_age);
  }
  return proto;
}

}  // namespace zerocp
