// Events as messages; the rest of convert.h is in convert.cc.
#include "server/convert.h"

namespace zerocp {

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
