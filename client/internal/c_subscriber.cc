// The functions of zerocp.h for a subscriber.
#include "client/internal/c_api.h"

namespace zerocp::internal {
namespace {

[[gnu::cold, gnu::noinline]] zerocp_code FailTake(const zerocp_subscriber& subscriber, Code code) {
  if (code != Code::kDetached || !subscriber.port->left()) return FailWait(*subscriber.core, code);
  if (subscriber.port->channel_was_deleted()) return Fail(code);
  return Fail(code, "an operator detached this subscriber from its channel; close it");
}

}  // namespace
}  // namespace zerocp::internal

using namespace zerocp::internal;

zerocp_code zerocp_join_subscriber(zerocp_client* client, const char* channel,
                                   const zerocp_join_options* options,
                                   zerocp_subscriber** subscriber) {
  return Guarded([&] {
    return Join<zerocp_subscriber, zerocp::shm::SubscriberPort>(
        client, channel, options, AttachOp::kJoinSubscriber, AttachOp::kLeaveSubscriber,
        subscriber);
  });
}

void zerocp_subscriber_close(zerocp_subscriber* subscriber) {
  Close(subscriber, AttachOp::kLeaveSubscriber);
}

zerocp_code zerocp_subscriber_take(zerocp_subscriber* subscriber, int64_t timeout_ns,
                                   zerocp_sample* sample) {
  ClientCore& core = *subscriber->core;
  if (!core.open()) [[unlikely]]
    return FailClosed(core);
  ChunkRef ref;
  Code code = subscriber->port->TryTake(&ref);
  if (code == Code::kTimeout && timeout_ns != 0) {
    code = InSlices(core, timeout_ns, Code::kTimeout,
                    [&](Deadline deadline) { return subscriber->port->Take(deadline, &ref); });
  } else if (code == Code::kTimeout && core.Called()) {  // who only polls learns it here
    const Code daemon = core.LookSometimes();
    if (daemon == Code::kDetached || daemon == Code::kInstanceLost) code = daemon;
  }
  if (code == Code::kTimeout) return ZEROCP_TIMEOUT;
  if (code != Code::kOk) [[unlikely]]
    return FailTake(*subscriber, code);
  FillSample(core, ref, sample);
  sample->missed_before = subscriber->port->missed_before();
  return ZEROCP_OK;
}
