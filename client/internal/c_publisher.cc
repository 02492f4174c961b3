// The functions of zerocp.h for a publisher.
#include "client/internal/c_api.h"

namespace zerocp::internal {
namespace {

[[gnu::cold, gnu::noinline]] zerocp_code FailPublish(const zerocp_publisher& publisher,
                                                     const zerocp_loan& loan) {
  if (!publisher.core->open()) return FailClosed(*publisher.core);
  if (CoreOf(loan) == nullptr)
    return Fail(Code::kInvalid, "this is not a loan: published or released");
  if (CoreOf(loan) != publisher.core) {
    return Fail(Code::kInvalid, "the loan was made with another client than this publisher");
  }
  if (loan.size > loan.capacity) {
    return Fail(Code::kInvalid, "the loan's size was set to " + std::to_string(loan.size) +
                                    " bytes, it has " + std::to_string(loan.capacity));
  }
  return Fail(Code::kInvalid,
              "the loan's pool allows " + std::to_string(RefOf(loan).pool->grant_slots) +
                  " subscribers to hold a chunk, the channel may have " +
                  std::to_string(publisher.port->info().geometry.max_subscriber_count) +
                  (publisher.port->info().history_count > 0 ? " and a history" : ""));
}

}  // namespace
}  // namespace zerocp::internal

using namespace zerocp::internal;

zerocp_code zerocp_join_publisher(zerocp_client* client, const char* channel,
                                  const zerocp_join_options* options,
                                  zerocp_publisher** publisher) {
  return Guarded([&] {
    if (client->core->read_only()) return FailReadOnly();
    return Join<zerocp_publisher, zerocp::shm::PublisherPort>(
        client, channel, options, AttachOp::kJoinPublisher, AttachOp::kLeavePublisher, publisher);
  });
}

void zerocp_publisher_close(zerocp_publisher* publisher) {
  if (publisher != nullptr && publisher->core->writable()) publisher->port->LetGoOfHistory();
  Close(publisher, AttachOp::kLeavePublisher);
}

size_t zerocp_publisher_max_bytes(const zerocp_publisher* publisher) {
  return publisher->port->pool().chunk_size_bytes;
}

zerocp_code zerocp_publisher_publish(zerocp_publisher* publisher, zerocp_loan* loan,
                                     int64_t timeout_ns, zerocp_published* published) {
  ClientCore& core = *publisher->core;
  const ChunkRef ref = RefOf(*loan);
  if (CoreOf(*loan) != &core || !core.open() || loan->size > loan->capacity) [[unlikely]] {
    return FailPublish(*publisher, *loan);
  }
  // Messages are often of one size, and the subscriber has this line.
  std::atomic<uint64_t>& size = ref.header().size_bytes;
  if (size.load(std::memory_order_relaxed) != loan->size)
    size.store(loan->size, std::memory_order_relaxed);
  zerocp::shm::Published sent;
  Code code = publisher->port->Publish(ref, Deadline::Now(), &sent);
  if (code == Code::kTimeout && timeout_ns != 0) {
    code = InSlices(core, timeout_ns, Code::kTimeout, [&](Deadline deadline) {
      return publisher->port->Publish(ref, deadline, &sent);
    });
  }
  if (code != Code::kOk) [[unlikely]] {
    return code == Code::kInvalid ? FailPublish(*publisher, *loan) : FailWait(core, code);
  }
  loan->opaque[0] = nullptr;
  if (published != nullptr) *published = {sent.delivered, sent.dropped};
  return ZEROCP_OK;
}

zerocp_code zerocp_publisher_wait(zerocp_publisher* publisher, int32_t count, int64_t timeout_ns,
                                  int32_t* present) {
  ClientCore& core = *publisher->core;
  if (!core.open()) return FailClosed(core);
  int found = 0;
  const Code code = InSlices(core, timeout_ns, Code::kTimeout, [&](Deadline deadline) {
    return publisher->port->WaitForSubscribers(count, deadline, &found);
  });
  if (present != nullptr && (code == Code::kOk || code == Code::kTimeout)) *present = found;
  return code == Code::kOk ? ZEROCP_OK : FailWait(core, code);
}
