// Attaching to a daemon.
#pragma once

#include <zerocp.h>
#include <zerocp/handle.h>
#include <zerocp/loan.h>
#include <zerocp/publisher.h>
#include <zerocp/result.h>
#include <zerocp/subscriber.h>
#include <zerocp/typed.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace zerocp {

struct ClientOptions {
  std::string name = {};  // label that operators see, at most 63 bytes; empty: the program's name
  std::string runtime_dir = {};  // empty: $ZEROCP_RUNTIME_DIR, else where daemons usually are
  bool read_only = false;  // payloads are mapped for reading only: subscribe and open, never loan
};

struct SubscriberOptions {
  // Messages of one publisher that may wait: 1 (the latest only) to the channel's; 0: the
  // channel's.
  int queue_capacity = 0;
  // On a waiting channel too, lose the oldest messages instead of making publishers wait: for taps
  // and viewers.
  bool lossy = false;
  std::string message_type = {};  // must equal the channel's, if both are set
};

// Where the chunks of one pool are in this process.
struct Region {
  std::span<std::byte> data;  // all chunks that exist; a read-only client cannot write there
  std::string pool;
};

struct MappedRegions {
  std::uint64_t epoch = 0;
  std::vector<Region> regions;
};

// An attachment to a daemon on this machine. Move-only; any number of threads may call it at once.
// The memory stays mapped until this and everything that was made with it is gone.
class Client {
 public:
  Client() = default;

  // kUnavailable: no daemon answers; the message lists every path tried. kVersionMismatch, kDenied,
  // kLimit, kInvalid. Blocks for at most 10 s with each daemon that
  // does not answer. Under mlockall(MCL_FUTURE) it locks the pools that exist, which count against
  // RLIMIT_MEMLOCK (kLimit names the bytes); what is created later, and the addresses reserved for
  // it, are not locked. mlockall(MCL_CURRENT) is for before: after, it would lock all of them.
  static Result<Client> Connect(const ClientOptions& options = {}) {
    Result<Client> result;
    const zerocp_client_options raw = RawOptions(options);
    zerocp_client* client = nullptr;
    result.Set(zerocp_connect(&raw, &client));
    result->raw_.reset(client);
    return result;
  }
  // Redeems a token that CreateSession gave over gRPC, on the socket that it named. Read-only
  // unless the session was created with PAYLOAD_ACCESS_READ_WRITE. kDenied: the token is wrong,
  // used, or older than 10 s. Others as Connect.
  static Result<Client> Attach(std::span<const std::uint8_t, ZEROCP_TOKEN_BYTES> token,
                               const std::string& socket_path, const ClientOptions& options = {}) {
    Result<Client> result;
    const zerocp_client_options raw = RawOptions(options);
    zerocp_client* client = nullptr;
    result.Set(zerocp_attach(token.data(), socket_path.c_str(), &raw, &client));
    result->raw_.reset(client);
    return result;
  }

  // kNotFound: no such channel. kTypeMismatch, kLimit, kUnavailable, kInvalid. REQUIRES here and
  // below: not moved from.
  Result<Publisher> JoinAsPublisher(std::string_view channel, std::string_view message_type = {}) {
    return Join<Publisher>(zerocp_join_publisher, channel,
                           {.message_type = std::string(message_type)}, {});
  }
  // A publisher of Ts (typed.h). As JoinAsPublisher; kTooLarge, kInvalid: a T does not fit the
  // channel's pool. The message type is T::kMessageType, if T has one.
  template <Message T>
  Result<TypedPublisher<T>> JoinAsPublisher(
      std::string_view channel, std::string_view message_type = internal::MessageTypeOf<T>()) {
    return Join<Publisher>(zerocp_join_publisher, channel,
                           {.message_type = std::string(message_type)}, {sizeof(T), alignof(T)})
        .template As<TypedPublisher<T>>();
  }
  // As JoinAsPublisher; kInvalid: also a longer queue than the channel's. What is published from
  // its return on, the subscriber will see, or learn that it missed it.
  Result<Subscriber> JoinAsSubscriber(std::string_view channel,
                                      const SubscriberOptions& wanted = {}) {
    return Join<Subscriber>(zerocp_join_subscriber, channel, wanted, {});
  }
  // A subscriber to Ts, as JoinAsPublisher<T>; message_type is T::kMessageType unless it is set.
  template <Message T>
  Result<TypedSubscriber<T>> JoinAsSubscriber(std::string_view channel,
                                              SubscriberOptions wanted = {}) {
    if (wanted.message_type.empty()) wanted.message_type = internal::MessageTypeOf<T>();
    return Join<Subscriber>(zerocp_join_subscriber, channel, wanted, {sizeof(T), alignof(T)})
        .template As<TypedSubscriber<T>>();
  }
  // A chunk of a pool, without a channel. Errors as Publisher::NewLoan; kNotFound, kDenied for
  // a read-only client.
  Result<Loan> NewLoan(std::string_view pool, std::size_t bytes,
                       Deadline wait = std::chrono::nanoseconds{0}) {
    Result<Loan> result;
    result.Set(zerocp_client_loan(raw_.get(), std::string(pool).c_str(), bytes,
                                  internal::TimeoutOf(wait), &result->raw_));
    result->raw_.opaque[2] = internal::CacheOf(result->raw_);
    return result;
  }
  // The chunk that `handle` names. kStale, kHoldersFull, kHeldLimit, kUnavailable after fork.
  Result<Sample> Open(const Handle& handle) {
    Result<Sample> result;
    result.Set(zerocp_client_open(raw_.get(), {handle.instance, handle.chunk}, &result->raw_));
    return result;
  }
  // Where the chunks of all pools are, in no order, for who registers memory with a device
  // (cudaHostRegister, ibv_reg_mr). `epoch` grows whenever a pool is created, grown or deleted; the
  // regions are that epoch's or later ones. A pool that grows keeps its address; those of one that
  // was deleted may be another's, with other memory behind them: unregister before DeletePool, or
  // when RegionsEpoch() is another. kInstanceLost. kUnavailable after fork.
  Result<MappedRegions> Regions() {
    std::array<zerocp_region, ZEROCP_MAX_POOLS> raw;
    std::size_t count = 0;
    Result<MappedRegions> result;
    result.Set(zerocp_client_regions(raw_.get(), raw.data(), raw.size(), &count, &result->epoch));
    for (const zerocp_region& region : std::span(raw.data(), count))
      result->regions.push_back({{static_cast<std::byte*>(region.data), region.size}, region.pool});
    return result;
  }
  // The epoch alone, for loops: some tens of nanoseconds. 0 where Regions() fails.
  std::uint64_t RegionsEpoch() const {
    std::uint64_t epoch = 0;
    (void)zerocp_client_regions(raw_.get(), nullptr, 0, nullptr, &epoch);
    return epoch;
  }
  // kOk; kUnavailable: the daemon is away, what is joined goes on, and the client finds it again;
  // kInstanceLost: it came back with other segments, kDetached: an operator ended the session; both
  // for good, what is held can be read and released. Calls that wait learn it by themselves.
  Code state() const { return static_cast<Code>(zerocp_client_state(raw_.get())); }
  explicit operator bool() const { return raw_ != nullptr; }

 private:
  // Of every message; 0: any.
  struct MessageLayout {
    std::size_t bytes = 0, alignment = 0;
  };
  struct Closer {
    void operator()(zerocp_client* client) const { zerocp_client_close(client); }
  };

  // `join`: the function of zerocp.h for a Member.
  template <class Member, class Raw>
  Result<Member> Join(zerocp_code (*join)(zerocp_client*, const char*, const zerocp_join_options*,
                                          Raw**),
                      std::string_view channel, const SubscriberOptions& wanted,
                      MessageLayout layout) {
    Result<Member> result;
    const zerocp_join_options options{sizeof(options),       wanted.message_type.c_str(),
                                      wanted.queue_capacity, wanted.lossy ? 1 : 0,
                                      layout.bytes,          layout.alignment};
    Raw* raw = nullptr;
    result.Set(join(raw_.get(), std::string(channel).c_str(), &options, &raw));
    result->raw_.reset(raw);
    return result;
  }

  static zerocp_client_options RawOptions(const ClientOptions& options) {
    return {sizeof(zerocp_client_options), options.name.empty() ? nullptr : options.name.c_str(),
            options.runtime_dir.empty() ? nullptr : options.runtime_dir.c_str(),
            options.read_only ? 1 : 0};
  }

  std::unique_ptr<zerocp_client, Closer> raw_;
};

}  // namespace zerocp
