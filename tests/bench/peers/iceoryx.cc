// iceoryx, over a RouDi of this program's own.
#include <unistd.h>

#include <thread>

#include "tests/bench/link.h"
#include "tests/bench/loan_release.h"
#include "tests/bench/peers/peers.h"

#ifdef ZEROCP_BENCH_ICEORYX
#include <iceoryx_posh/popo/untyped_publisher.hpp>
#include <iceoryx_posh/popo/untyped_subscriber.hpp>
#include <iceoryx_posh/popo/wait_set.hpp>
#include <iceoryx_posh/runtime/posh_runtime.hpp>
#include <iceoryx_versions.hpp>

#include "tests/bench/peers/roudi.h"

namespace zerocp::bench {
namespace {

namespace popo = iox::popo;

// The daemon's directory, which no other work has, names the service.
iox::capro::ServiceDescription Service(const std::string& place, const char* what) {
  using Text = iox::capro::IdString_t;
  return {Text(iox::cxx::TruncateToCapacity, place), "zerocp_bench",
          Text(iox::cxx::TruncateToCapacity, what)};
}
popo::PublisherOptions Blocking() {
  popo::PublisherOptions options;
  options.subscriberTooSlowPolicy = popo::ConsumerTooSlowPolicy::WAIT_FOR_CONSUMER;
  return options;
}
popo::SubscriberOptions Lossless(size_t bytes) {
  popo::SubscriberOptions options;
  options.queueFullPolicy = popo::QueueFullPolicy::BLOCK_PRODUCER;
  options.queueCapacity = bytes > size_t{1} << 20 ? 4 : 128;
  return options;
}
void* MustLoan(popo::UntypedPublisher& publisher, size_t bytes) {
  void* loaned = nullptr;
  while (loaned == nullptr)  // a receiver may have all chunks for a moment
    publisher.loan(static_cast<uint32_t>(bytes)).and_then([&](void* chunk) { loaned = chunk; });
  return loaned;
}

class Pool {
 public:
  class Chunk {
   public:
    Chunk(popo::UntypedPublisher& publisher, size_t bytes)
        : publisher_(publisher), bytes_(MustLoan(publisher, bytes)) {}
    ~Chunk() { publisher_.release(bytes_); }
    Chunk(const Chunk&) = delete;
    Chunk& operator=(const Chunk&) = delete;
    void* bytes() const { return bytes_; }

   private:
    popo::UntypedPublisher& publisher_;
    void* bytes_;
  };

  explicit Pool(const LoanSpec& spec)
      : spec_((UseRouDi(), spec)), publisher_(Service(spec.place, "loans")) {}
  Pool(const Pool& other) : Pool(other.spec_) {}
  Chunk NewChunk() { return {publisher_, spec_.bytes}; }
  static void* Bytes(const Chunk& chunk) { return chunk.bytes(); }

 private:
  LoanSpec spec_;
  popo::UntypedPublisher publisher_;
};

class Link {
 public:
  Link(const LinkSpec& spec, int end)
      : spec_((UseRouDi(), spec)),
        in_(Service(spec.place, end == 0 ? "pong" : "ping"), Lossless(spec.bytes)),
        out_(Service(spec.place, end == 0 ? "ping" : "pong"), Blocking()) {
    (void)waiter_.attachState(in_, popo::SubscriberState::HAS_DATA);
    while (!out_.hasSubscribers() || in_.getSubscriptionState() != iox::SubscribeState::SUBSCRIBED)
      std::this_thread::yield();
  }
  ~Link() { waiter_.detachState(in_, popo::SubscriberState::HAS_DATA); }
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  void Send(uint64_t value) {
    void* chunk = MustLoan(out_, spec_.bytes);
    WriteMessage(chunk, value, spec_);
    out_.publish(chunk);
  }
  bool Take(uint64_t* value) {
    bool taken = false;
    in_.take().and_then([&](const void* chunk) {
      *value = ReadMessage(chunk, spec_);
      in_.release(chunk);
      taken = true;
    });
    return taken;
  }
  void Wait(uint64_t* value) {
    while (!Take(value)) (void)waiter_.wait();
  }

 private:
  const LinkSpec spec_;
  popo::UntypedSubscriber in_;
  popo::UntypedPublisher out_;
  popo::WaitSet<> waiter_;
};

}  // namespace

Peer IceoryxPeer() {
  Peer peer{"iceoryx", "iceoryx " ICEORYX_LATEST_RELEASE_VERSION
                       ", iox-roudi without monitoring (which takes a process that gets no "
                       "processor for dead); blocking publishers, queues of 128"};
  if (access(kRouDi, X_OK) != 0)
    peer.missing = std::string("no ") + kRouDi + ": Debian's package iceoryx has it";
  peer.loan_release = [](const LoanSpec& spec) -> Subject {
    if (spec.held > 8)
      return {"iceoryx",
              1,
              static_cast<int64_t>(spec.bytes),
              {},
              "it has at most 8 chunks for a publisher at once"};
    return LoanSubject<Pool>("iceoryx", spec);
  };
  AddLink<Link>(peer);
  // The other end looks for the daemon of this one.
  for (auto* link : {&peer.ping_pong, &peer.stream}) {
    *link = [start = *link](const LinkSpec& spec) {
      UseRouDi();
      return start(spec);
    };
  }
  return peer;
}

}  // namespace zerocp::bench

#else
namespace zerocp::bench {

Peer IceoryxPeer() {
  const auto none = [](const auto&) { return Subject{}; };
  return {"iceoryx", "", "built without Debian's package libiceoryx-posh-dev", none, none,
          none,      {}};
}

}  // namespace zerocp::bench
#endif
