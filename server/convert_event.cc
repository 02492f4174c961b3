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
  return proto;
}

}  // namespace zerocp
