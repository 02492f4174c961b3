// What the files of the C interface share: the objects behind its pointers, loans and samples as
// the caller has them, waiting in slices, joining and leaving. Each of them has an object's
// functions: c_client.cc, c_loan.cc, c_publisher.cc, c_subscriber.cc; c_api.cc has the codes and
// the errors.
#pragma once

#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "client/include/zerocp.h"
#include "client/internal/client_core.h"
#include "client/internal/held_counts.h"
#include "client/internal/last_error.h"
#include "client/internal/ready_fd.h"
#include "shm/deadline.h"
#include "shm/mutant.h"
#include "shm/publisher_port.h"
#include "shm/subscriber_port.h"

struct zerocp_client {
  zerocp::internal::ClientCore* core;
};
struct zerocp_publisher {
  zerocp::internal::ClientCore* core;
  std::unique_ptr<zerocp::shm::PublisherPort> port;
  // Of the thread that loaned last.
  zerocp::internal::LoanCache* cache = &zerocp::internal::kNoLoanCache;
};
struct zerocp_subscriber {
  zerocp::internal::ClientCore* core;
  std::unique_ptr<zerocp::shm::SubscriberPort> port;
  std::unique_ptr<zerocp::internal::ReadyFd> ready{};  // after the port: goes before it
  zerocp::internal::HeldCount held{};                  // none unless the channel limits it
};

namespace zerocp::internal {

using shm::AttachOp;
using shm::ChunkRef;
using shm::Code;
using shm::Deadline;
using shm::PoolView;

inline Deadline ToDeadline(int64_t timeout_ns) {
  if (timeout_ns == 0) return Deadline::Now();
  if (timeout_ns < 0) return Deadline::Never();
  return Deadline::After(std::chrono::nanoseconds(timeout_ns));
}

// Loans and samples as the caller has them.
// opaque: the core, the pool's view and the cache that a loan came out of or a sample that is held
// by no slot can go into, kNoLoanCache for the others; opaque_chunk: the chunk:32, the slot:16, and
// the number of the count that the sample is in:16, 0 for none.

template <class Right>
void Keep(ClientCore& core, const ChunkRef& ref, Right* right) {
  right->opaque[0] = &core;
  right->opaque[1] = const_cast<PoolView*>(ref.pool);
  right->opaque_chunk = uint64_t{ref.chunk} | (uint64_t{ref.slot} << 32);
}

template <class Right>
ClientCore* CoreOf(const Right& right) {
  return static_cast<ClientCore*>(right.opaque[0]);
}

template <class Right>
ChunkRef RefOf(const Right& right) {
  return {static_cast<const PoolView*>(right.opaque[1]), static_cast<uint32_t>(right.opaque_chunk),
          static_cast<uint16_t>(right.opaque_chunk >> 32)};
}

inline void FillSample(ClientCore& core, const ChunkRef& ref, zerocp_sample* sample) {
  const zerocp::shm::ChunkHeader& header = ref.header();
  // The publisher wrote it, perhaps wrongly: it must not reach beyond the chunk.
  const uint64_t size = header.size_bytes.load(std::memory_order_relaxed);
  sample->data = ref.data();
  sample->size = size <= ref.pool->chunk_size_bytes ? size : ref.pool->chunk_size_bytes;
  sample->user_header = header.user;
  sample->opaque[2] = &kNoLoanCache;
  Keep(core, ref, sample);
}
// Of a chunk that was shared.
inline void FillShared(ClientCore& core, const ChunkRef& ref, zerocp_sample* sample) {
  FillSample(core, ref, sample);
  sample->sequence = ref.header().sequence.load(std::memory_order_relaxed);
  sample->missed_before = 0;
}

// Failures: out of line, so that the hot path stays short.

// Why the core takes no call. REQUIRES: it is not open.
[[gnu::cold]] zerocp_code FailClosed(ClientCore& core);
[[gnu::cold]] zerocp_code FailReadOnly();
// The session is at its held limit.
[[gnu::cold]] zerocp_code FailHeldLimit(ClientCore& core);
// As FailClosed, or for another reason: `code`.
zerocp_code FailWait(ClientCore& core, Code code);

// Waits as `wait` does with a deadline, which returns `nothing` when it has passed. Before each
// slice, when there is time, it looks after the daemon; returns kDetached or kInstanceLost if there
// is no sense in waiting longer.
template <class Wait>
[[gnu::noinline]] Code InSlices(ClientCore& core, int64_t timeout_ns, Code nothing, Wait wait) {
  const Deadline deadline = ToDeadline(timeout_ns);
  for (;;) {
    const Code daemon = core.LookSometimes();
    if (daemon == Code::kDetached || daemon == Code::kInstanceLost) return daemon;
    const Code code = wait(Deadline::After(deadline.Left(ClientCore::kLookInterval)));
    if (code != nothing || deadline.Passed()) return code;
  }
}

// Control.

// A field of an options structure that a caller built with an older header may not have.
template <class Options, class Field>
Field Option(const Options* options, Field Options::*field) {
  if (options == nullptr) return {};
  const auto offset =
      reinterpret_cast<const char*>(&(options->*field)) - reinterpret_cast<const char*>(options);
  return options->struct_size >= static_cast<size_t>(offset) + sizeof(Field) ? options->*field
                                                                             : Field{};
}

inline std::string_view TextOf(const char* text) {
  return text == nullptr ? std::string_view() : text;
}

// kOk if the chunks of the channel's pool can be the messages that `options` describes. kTooLarge,
// kInvalid.
shm::Status CheckMessage(const ClientCore& core, const zerocp_join_options* options,
                         uint32_t pool_index);

// Asks for the join, makes the port. `leave` undoes the join if no port can be made, or messages
// and chunks do not fit.
template <class Member, class Port>
zerocp_code Join(zerocp_client* client, const char* channel, const zerocp_join_options* options,
                 AttachOp join, AttachOp leave, Member** member) {
  ClientCore& core = *client->core;
  if (!core.open()) return FailClosed(core);
  const int32_t queue_capacity = Option(options, &zerocp_join_options::queue_capacity);
  if (queue_capacity < 0) {
    return Fail(Code::kInvalid, "queue_capacity is " + std::to_string(queue_capacity) +
                                    ", but must not be negative");
  }
  auto made = std::make_unique<Member>();  // before anything that would have to be undone
  auto info = core.connection().Join(
      join, TextOf(channel), TextOf(Option(options, &zerocp_join_options::message_type)),
      {static_cast<uint32_t>(queue_capacity), Option(options, &zerocp_join_options::lossy) != 0});
  if (!info.ok()) {
    core.Note(info.code());
    return Fail(info.status());
  }
  auto port = Port::Create(core.shared_session(), *info);
  const shm::Status usable = port.ok() ? CheckMessage(core, options, info->pool) : port.status();
  if (!usable.ok()) {
    if (!Mutant(103)) (void)core.connection().Leave(leave, info->channel, info->index);
    return Fail(usable);
  }
  core.AddUser();
  made->core = &core;
  made->port = std::move(*port);
  *member = made.release();
  return ZEROCP_OK;
}

template <class Member>
void Close(Member* member, AttachOp leave) {
  if (member == nullptr) return;
  ClientCore* core = member->core;
  if constexpr (std::is_same_v<Member, zerocp_subscriber>) member->ready.reset();
  if (core->writable()) {
    const auto& info = member->port->info();
    bool left = false;  // the daemon knows, and may have given the index away
    if constexpr (std::is_same_v<Member, zerocp_subscriber>) left = member->port->left();
    const Code code =
        left ? Code::kOk : core->connection().Leave(leave, info.channel, info.index).code();
    core->Note(code);
    // A daemon that cannot be told now, or its successor, finds it in shared memory.
    if (code != Code::kOk && code != Code::kInstanceLost) member->port->Leave();
  }
  delete member;
  if (core->mapped()) core->DropUser();
}

// No exception leaves a control call: the only one possible is that memory ran out.
template <class Call>
zerocp_code Guarded(Call call) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return Fail(Code::kUnavailable, "out of memory");
  }
}

}  // namespace zerocp::internal
