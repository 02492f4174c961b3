// The functions of zerocp.h. The first group is the data plane: one call each, no lock, no
// allocation.
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "client/include/zerocp.h"
#include "client/internal/client_core.h"
#include "client/internal/last_error.h"
#include "shm/publisher_port.h"
#include "shm/subscriber_port.h"

using zerocp::internal::ClientCore;
using zerocp::internal::Connection;
using zerocp::internal::Fail;
using zerocp::shm::AttachOp;
using zerocp::shm::ChunkRef;
using zerocp::shm::Code;
using zerocp::shm::Deadline;
using zerocp::shm::PoolView;

static_assert(ZEROCP_OK == static_cast<int>(Code::kOk));
static_assert(ZEROCP_TIMEOUT == static_cast<int>(Code::kTimeout));
static_assert(ZEROCP_END_OF_STREAM == static_cast<int>(Code::kEndOfStream));
static_assert(ZEROCP_PUBLISHER_DIED == static_cast<int>(Code::kPublisherDied));
static_assert(ZEROCP_DETACHED == static_cast<int>(Code::kDetached));
static_assert(ZEROCP_INSTANCE_LOST == static_cast<int>(Code::kInstanceLost));
static_assert(ZEROCP_EXHAUSTED == static_cast<int>(Code::kExhausted));
static_assert(ZEROCP_TOO_LARGE == static_cast<int>(Code::kTooLarge));
static_assert(ZEROCP_HOLDERS_FULL == static_cast<int>(Code::kHoldersFull));
static_assert(ZEROCP_NOT_FOUND == static_cast<int>(Code::kNotFound));
static_assert(ZEROCP_TYPE_MISMATCH == static_cast<int>(Code::kTypeMismatch));
static_assert(ZEROCP_STALE == static_cast<int>(Code::kStale));
static_assert(ZEROCP_DENIED == static_cast<int>(Code::kDenied));
static_assert(ZEROCP_INVALID == static_cast<int>(Code::kInvalid));
static_assert(ZEROCP_UNAVAILABLE == static_cast<int>(Code::kUnavailable));
static_assert(ZEROCP_VERSION_MISMATCH == static_cast<int>(Code::kVersionMismatch));
static_assert(ZEROCP_DAMAGED == static_cast<int>(Code::kDamaged));
static_assert(ZEROCP_LIMIT == static_cast<int>(Code::kLimit));
static_assert(ZEROCP_USER_HEADER_BYTES == zerocp::shm::kUserHeaderBytes);
static_assert(ZEROCP_TOKEN_BYTES == zerocp::shm::kTokenBytes);
// Part of the ABI, and one cache line each.
static_assert(sizeof(zerocp_loan) == 64 && sizeof(zerocp_sample) == 64 &&
              sizeof(zerocp_handle) == 16);

struct zerocp_client {
  ClientCore* core;
};
struct zerocp_publisher {
  ClientCore* core;
  std::unique_ptr<zerocp::shm::PublisherPort> port;
};
struct zerocp_subscriber {
  ClientCore* core;
  std::unique_ptr<zerocp::shm::SubscriberPort> port;
};

namespace {

Deadline ToDeadline(int64_t timeout_ns) {
  if (timeout_ns == 0) return Deadline::Now();
  if (timeout_ns < 0) return Deadline::Never();
  return Deadline::After(std::chrono::nanoseconds(timeout_ns));
}

// Loans and samples as the caller has them.
// opaque: the core and the pool's view; opaque_chunk: the chunk and the slot.

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

void FillSample(ClientCore& core, const ChunkRef& ref, zerocp_sample* sample) {
  const zerocp::shm::ChunkHeader& header = ref.header();
  // The publisher wrote these two, perhaps wrongly: the size must not reach beyond the chunk.
  const uint64_t size = header.size_bytes.load(std::memory_order_relaxed);
  sample->data = ref.data();
  sample->size = size <= ref.pool->chunk_size_bytes ? size : ref.pool->chunk_size_bytes;
  sample->sequence = header.sequence.load(std::memory_order_relaxed);
  sample->user_header = header.user;
  sample->missed_before = 0;
  Keep(core, ref, sample);
}

template <class Right>
void Release(Right* right) {
  ClientCore* core = CoreOf(*right);
  if (core == nullptr) return;
  const ChunkRef ref = RefOf(*right);
  right->opaque[0] = nullptr;
  if (core->writable()) [[likely]] {
    core->Release(ref);
  } else if (core->mapped()) {
    core->ReleaseLost();
  }
}

// Failures: out of line, so that the hot path stays short.

// Why the core takes no call. REQUIRES: it is not open.
[[gnu::cold, gnu::noinline]] zerocp_code FailClosed(ClientCore& core) {
  if (core.state() == ClientCore::kLost) {
    return Fail(Code::kInstanceLost,
                "the daemon came back with other segments: what this client has can be read and "
                "released, and reaches nobody; connect again");
  }
  if (core.state() == ClientCore::kRevoked) {
    core.session().FlushThisThread();
    return Fail(Code::kDetached,
                "an operator ended this session (TerminateSession): release what this client has "
                "and close it; connect again if that makes sense");
  }
  return Fail(Code::kUnavailable,
              "this process is the child of a fork, which does not have the memory of its parent: "
              "connect again after fork");
}

zerocp_code FailWait(ClientCore& core, Code code) {
  return core.open() ? Fail(code) : FailClosed(core);
}

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

[[gnu::cold, gnu::noinline]] zerocp_code FailReadOnly() {
  return Fail(Code::kDenied,
              "this client is read-only: it cannot loan or publish. Connect without read_only, or "
              "create the session with PAYLOAD_ACCESS_READ_WRITE");
}

[[gnu::cold, gnu::noinline]] zerocp_code FailLoan(ClientCore& core, const PoolView& pool,
                                                  size_t bytes, Code code) {
  if (!core.open()) return FailClosed(core);
  if (bytes > pool.chunk_size_bytes) {
    return Fail(Code::kTooLarge, std::to_string(bytes) +
                                     " bytes were asked for, but the chunks of pool '" + pool.name +
                                     "' have " + std::to_string(pool.chunk_size_bytes) + " bytes");
  }
  return code == Code::kExhausted ? Fail(code, core.DescribeExhausted(pool)) : Fail(code);
}

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
                  std::to_string(publisher.port->info().geometry.max_subscriber_count));
}

[[gnu::cold, gnu::noinline]] zerocp_code FailTake(const zerocp_subscriber& subscriber, Code code) {
  if (code != Code::kDetached || !subscriber.port->left()) return FailWait(*subscriber.core, code);
  if (subscriber.port->channel_was_deleted()) return Fail(code);
  return Fail(code, "an operator detached this subscriber from its channel; close it");
}

void FillLoan(ClientCore& core, const ChunkRef& ref, size_t bytes, zerocp_loan* loan) {
  loan->data = ref.data();
  loan->size = bytes;
  loan->capacity = bytes;
  loan->user_header = ref.header().user;
  loan->reserved = 0;
  Keep(core, ref, loan);
}

[[gnu::noinline]] zerocp_code NewLoanSlow(ClientCore& core, const PoolView& pool, size_t bytes,
                                          int64_t timeout_ns, zerocp_loan* loan) {
  if (core.open() && core.Called()) (void)core.LookSometimes();
  if (!core.open() || bytes > pool.chunk_size_bytes) {
    return FailLoan(core, pool, bytes, Code::kOk);
  }
  ChunkRef ref;
  Code code = core.session().Loan(pool, Deadline::Now(), &ref);
  if (code == Code::kExhausted && timeout_ns != 0) {
    code = InSlices(core, timeout_ns, Code::kExhausted,
                    [&](Deadline deadline) { return core.session().Loan(pool, deadline, &ref); });
  }
  if (code != Code::kOk) return FailLoan(core, pool, bytes, code);
  FillLoan(core, ref, bytes, loan);
  return ZEROCP_OK;
}

// What needs more than a look into this thread's cache is a tail call, so that the rest needs no
// stack.
zerocp_code NewLoan(ClientCore& core, const PoolView& pool, size_t bytes, int64_t timeout_ns,
                    zerocp_loan* loan) {
  ChunkRef ref;
  if (core.open() && bytes <= pool.chunk_size_bytes && core.session().TryLoan(pool, &ref))
      [[likely]] {
    FillLoan(core, ref, bytes, loan);
    return ZEROCP_OK;
  }
  return NewLoanSlow(core, pool, bytes, timeout_ns, loan);
}

}  // namespace

// The data plane.

zerocp_code zerocp_publisher_loan(zerocp_publisher* publisher, size_t bytes, int64_t timeout_ns,
                                  zerocp_loan* loan) {
  return NewLoan(*publisher->core, publisher->port->pool(), bytes, timeout_ns, loan);
}

zerocp_code zerocp_publisher_publish(zerocp_publisher* publisher, zerocp_loan* loan,
                                     int64_t timeout_ns, zerocp_published* published) {
  ClientCore& core = *publisher->core;
  const ChunkRef ref = RefOf(*loan);
  if (CoreOf(*loan) != &core || !core.open() || loan->size > loan->capacity) [[unlikely]] {
    return FailPublish(*publisher, *loan);
  }
  ref.header().size_bytes.store(loan->size, std::memory_order_relaxed);
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

void zerocp_loan_release(zerocp_loan* loan) { Release(loan); }

void zerocp_sample_release(zerocp_sample* sample) { Release(sample); }

// Without a channel.

zerocp_code zerocp_client_loan(zerocp_client* client, const char* pool, size_t bytes,
                               int64_t timeout_ns, zerocp_loan* loan) {
  if (!client->core->open()) return FailClosed(*client->core);
  if (client->core->read_only()) return FailReadOnly();
  const PoolView* view = client->core->session().manager().FindPool(pool);
  if (view == nullptr) {
    return Fail(Code::kNotFound, "there is no pool '" + std::string(pool) +
                                     "'; `zerocp pools` lists those there are; make one with "
                                     "`zerocpd --pool NAME=SIZExCOUNT` or the RPC CreatePool");
  }
  return NewLoan(*client->core, *view, bytes, timeout_ns, loan);
}

zerocp_code zerocp_loan_share(zerocp_loan* loan, zerocp_sample* sample) {
  ClientCore* core = CoreOf(*loan);
  if (core == nullptr) return Fail(Code::kInvalid, "this is not a loan: published or released");
  if (!core->writable()) return FailClosed(*core);
  if (loan->size > loan->capacity) {
    return Fail(Code::kInvalid, "the loan's size was set to " + std::to_string(loan->size) +
                                    " bytes, it has " + std::to_string(loan->capacity));
  }
  ChunkRef ref = RefOf(*loan);
  ref.header().size_bytes.store(loan->size, std::memory_order_relaxed);
  ref.header().sequence.store(0, std::memory_order_relaxed);
  core->session().Share(ref);
  loan->opaque[0] = nullptr;
  FillSample(*core, ref, sample);
  return ZEROCP_OK;
}

zerocp_code zerocp_sample_handle(zerocp_sample* sample, zerocp_handle* handle) {
  ClientCore* core = CoreOf(*sample);
  if (core == nullptr) return Fail(Code::kInvalid, "this is not a sample: it was released");
  if (!core->writable()) return FailClosed(*core);
  ChunkRef ref = RefOf(*sample);
  handle->instance = core->session().manager().instance_id();
  if (ref.slot == ChunkRef::kExclusive) {
    handle->chunk = core->session().Share(ref);
    Keep(*core, ref, sample);
  } else {
    handle->chunk = zerocp::shm::Session::HandleOf(ref);
  }
  return ZEROCP_OK;
}

zerocp_code zerocp_client_open(zerocp_client* client, zerocp_handle handle, zerocp_sample* sample) {
  ClientCore& core = *client->core;
  if (!core.open()) return FailClosed(core);
  if (handle.instance != core.session().manager().instance_id()) {
    return Fail(Code::kStale, "the handle belongs to another instance than the one at " +
                                  core.connection().socket_path());
  }
  ChunkRef ref;
  const Code code = core.session().Open(handle.chunk, &ref);
  if (code != Code::kOk) return Fail(code);
  FillSample(core, ref, sample);
  return ZEROCP_OK;
}

// Control.

namespace {

// A field of an options structure that a caller built with an older header may not have.
template <class Options, class Field>
Field Option(const Options* options, Field Options::*field) {
  if (options == nullptr) return {};
  const auto offset =
      reinterpret_cast<const char*>(&(options->*field)) - reinterpret_cast<const char*>(options);
  return options->struct_size >= static_cast<size_t>(offset) + sizeof(Field) ? options->*field
                                                                             : Field{};
}

std::string_view TextOf(const char* text) { return text == nullptr ? std::string_view() : text; }

zerocp_code Attach(std::unique_ptr<Connection> connection, const zerocp_client_options* options,
                   std::optional<Connection::Token> token, zerocp_client** client) {
  const char* name = Option(options, &zerocp_client_options::name);
  std::string_view label = TextOf(name);
  if (name == nullptr) {
    label = TextOf(program_invocation_short_name).substr(0, zerocp::shm::kNameBytes - 1);
  }
  if (label.size() >= zerocp::shm::kNameBytes) {
    return Fail(Code::kInvalid, "a client's name has at most " +
                                    std::to_string(zerocp::shm::kNameBytes - 1) +
                                    " bytes, this has " + std::to_string(label.size()));
  }
  const int32_t read_only = Option(options, &zerocp_client_options::read_only);
  if (read_only != 0 && read_only != 1) {
    return Fail(Code::kInvalid,
                "read_only is " + std::to_string(read_only) + ", it must be 0 or 1");
  }
  auto core = ClientCore::Attach(std::move(connection), label, token, read_only == 1);
  if (!core.ok()) return Fail(core.status());
  *client = new zerocp_client{*core};
  return ZEROCP_OK;
}

// Asks for the join, makes the port. `leave` undoes the join if no port can be made.
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
  if (!port.ok()) {
    (void)core.connection().Leave(leave, info->channel, info->index);
    return Fail(port.status());
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

}  // namespace

zerocp_code zerocp_connect(const zerocp_client_options* options, zerocp_client** client) {
  return Guarded([&] {
    auto connection =
        Connection::Find(std::string(TextOf(Option(options, &zerocp_client_options::runtime_dir))));
    if (!connection.ok()) return Fail(connection.status());
    return Attach(std::move(*connection), options, std::nullopt, client);
  });
}

zerocp_code zerocp_attach(const uint8_t token[ZEROCP_TOKEN_BYTES], const char* socket_path,
                          const zerocp_client_options* options, zerocp_client** client) {
  return Guarded([&] {
    auto connection = Connection::Open(std::string(TextOf(socket_path)));
    if (!connection.ok()) return Fail(connection.status());
    return Attach(std::move(*connection), options, Connection::Token(token, ZEROCP_TOKEN_BYTES),
                  client);
  });
}

zerocp_code zerocp_client_state(zerocp_client* client) {
  return Guarded([&] {
    ClientCore& core = *client->core;
    if (core.state() == ClientCore::kForked) return FailClosed(core);
    const Code code = core.Look();
    if (code == Code::kOk) return zerocp_code{ZEROCP_OK};
    if (!core.open()) return FailClosed(core);
    return Fail(code, "the daemon at " + core.connection().socket_path() +
                          " is away: what is joined goes on, and this client finds it again when "
                          "it is back");
  });
}

void zerocp_client_close(zerocp_client* client) {
  if (client == nullptr) return;
  client->core->DropUser();
  delete client;
}

zerocp_code zerocp_join_publisher(zerocp_client* client, const char* channel,
                                  const zerocp_join_options* options,
                                  zerocp_publisher** publisher) {
  return Guarded([&] {
    if (client->core->read_only()) return FailReadOnly();
    return Join<zerocp_publisher, zerocp::shm::PublisherPort>(
        client, channel, options, AttachOp::kJoinPublisher, AttachOp::kLeavePublisher, publisher);
  });
}

zerocp_code zerocp_join_subscriber(zerocp_client* client, const char* channel,
                                   const zerocp_join_options* options,
                                   zerocp_subscriber** subscriber) {
  return Guarded([&] {
    return Join<zerocp_subscriber, zerocp::shm::SubscriberPort>(
        client, channel, options, AttachOp::kJoinSubscriber, AttachOp::kLeaveSubscriber,
        subscriber);
  });
}

void zerocp_publisher_close(zerocp_publisher* publisher) {
  Close(publisher, AttachOp::kLeavePublisher);
}

void zerocp_subscriber_close(zerocp_subscriber* subscriber) {
  Close(subscriber, AttachOp::kLeaveSubscriber);
}

size_t zerocp_publisher_max_bytes(const zerocp_publisher* publisher) {
  return publisher->port->pool().chunk_size_bytes;
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

const char* zerocp_last_error(void) { return zerocp::internal::LastError(); }

const char* zerocp_version(void) { return ZEROCP_VERSION; }

const char* zerocp_code_name(zerocp_code code) {
  switch (code) {
    case ZEROCP_OK:
      return "OK";
    case ZEROCP_TIMEOUT:
      return "TIMEOUT";
    case ZEROCP_END_OF_STREAM:
      return "END_OF_STREAM";
    case ZEROCP_PUBLISHER_DIED:
      return "PUBLISHER_DIED";
    case ZEROCP_DETACHED:
      return "DETACHED";
    case ZEROCP_INSTANCE_LOST:
      return "INSTANCE_LOST";
    case ZEROCP_EXHAUSTED:
      return "EXHAUSTED";
    case ZEROCP_TOO_LARGE:
      return "TOO_LARGE";
    case ZEROCP_HOLDERS_FULL:
      return "HOLDERS_FULL";
    case ZEROCP_NOT_FOUND:
      return "NOT_FOUND";
    case ZEROCP_TYPE_MISMATCH:
      return "TYPE_MISMATCH";
    case ZEROCP_STALE:
      return "STALE";
    case ZEROCP_DENIED:
      return "DENIED";
    case ZEROCP_INVALID:
      return "INVALID";
    case ZEROCP_UNAVAILABLE:
      return "UNAVAILABLE";
    case ZEROCP_VERSION_MISMATCH:
      return "VERSION_MISMATCH";
    case ZEROCP_DAMAGED:
      return "DAMAGED";
    case ZEROCP_LIMIT:
      return "LIMIT";
    default:
      return "UNKNOWN";
  }
}
