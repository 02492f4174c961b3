// The functions of zerocp.h for a subscriber.
#include "client/internal/c_api.h"
#include "shm/mutant.h"

namespace zerocp::internal {
namespace {

[[gnu::cold, gnu::noinline]] zerocp_code FailTake(const zerocp_subscriber& subscriber, Code code) {
  if (code == Code::kHeldLimit) return FailHeldLimit(*subscriber.core);
  if (code != Code::kDetached || !subscriber.port->left()) return FailWait(*subscriber.core, code);
  return Fail(code, "an operator detached this subscriber from its channel; close it");
}

[[gnu::cold, gnu::noinline]] zerocp_code FailHeld(const zerocp_subscriber& subscriber) {
  const uint32_t channel = subscriber.port->info().channel;
  const auto& name = subscriber.core->session().manager().channel_entry(channel).name;
  return Fail(Code::kHeldLimit, "this subscriber holds " + std::to_string(subscriber.held.limit()) +
                                    " samples, and channel '" +
                                    std::string(name, strnlen(name, sizeof(name))) +
                                    "' allows no more at once (max_held_count): release one");
}

}  // namespace
}  // namespace zerocp::internal

using namespace zerocp::internal;

zerocp_code zerocp_join_subscriber(zerocp_client* client, const char* channel,
                                   const zerocp_join_options* options,
                                   zerocp_subscriber** subscriber) {
  return Guarded([&] {
    zerocp_subscriber* joined = nullptr;
    const zerocp_code code = Join<zerocp_subscriber, zerocp::shm::SubscriberPort>(
        client, channel, options, AttachOp::kJoinSubscriber, AttachOp::kLeaveSubscriber, &joined);
    if (code != ZEROCP_OK || joined == nullptr) return code;
    if (!joined->held.Limit(joined->port->info().max_held_count)) {
      zerocp_subscriber_close(joined);
      return Fail(Code::kLimit, "this process has " + std::to_string(HeldCounts::kMost) +
                                    " subscribers whose channels limit what they hold "
                                    "(max_held_count), and can have no more");
    }
    *subscriber = joined;
    return code;
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
  if (subscriber->ready != nullptr) [[unlikely]]
    subscriber->ready->Awake();
  if (!zerocp::Mutant(39) && subscriber->held.Full()) [[unlikely]]
    return FailHeld(*subscriber);
  if (core.session().AtHeldLimit()) [[unlikely]]
    return FailHeldLimit(core);
  ChunkRef ref;
  Code code = subscriber->port->TryTake(&ref);
  if (code == Code::kTimeout && timeout_ns != 0) {
    if (subscriber->ready != nullptr) subscriber->ready->Disarm();
    code = InSlices(core, timeout_ns, Code::kTimeout,
                    [&](Deadline deadline) { return subscriber->port->Take(deadline, &ref); });
  } else if (code == Code::kTimeout && core.Called()) {  // who only polls learns it here
    const Code daemon = core.LookSometimes();
    if (daemon == Code::kDetached || daemon == Code::kInstanceLost) code = daemon;
  }
  if (timeout_ns == 0 && subscriber->ready != nullptr) [[unlikely]]
    code = subscriber->ready->Arm(code, &ref);
  if (code == Code::kTimeout) return ZEROCP_TIMEOUT;
  if (code != Code::kOk) [[unlikely]]
    return FailTake(*subscriber, code);
  FillSample(core, ref, sample);
  sample->sequence = subscriber->port->sequence();
  sample->missed_before = subscriber->port->missed_before();
  if (ref.slot == ChunkRef::kExclusive) sample->opaque[2] = &core.session().CacheOf(*ref.pool);
  sample->opaque_chunk |= uint64_t{subscriber->held.Add()} << 48;
  return ZEROCP_OK;
}

zerocp_code zerocp_subscriber_fd(zerocp_subscriber* subscriber, int32_t* fd) {
  return Guarded([&] {
    ClientCore& core = *subscriber->core;
    if (core.state() == ClientCore::kForked) return FailClosed(core);
    if (subscriber->ready == nullptr) {
      auto ready = ReadyFd::Create(core, *subscriber->port);
      if (!ready.ok()) return Fail(ready.status());
      subscriber->ready = std::move(*ready);
    }
    *fd = subscriber->ready->fd();
    return zerocp_code{ZEROCP_OK};
  });
}
