// Publishers and subscribers of anything that has them, and the works that they can do.
//
// A peer's class N:
//   N::Publisher(const PortSpec&);
//     Loan NewLoan();               cannot fail; its destructor gives the chunk back
//     void Publish(Loan&);          waits for slow subscribers, unless the channel drops
//     void WaitForSubscriber();
//   N::Subscriber(const PortSpec&);
//     Sample Take();                false: there is none now; its destructor releases it
//     Sample Wait();                sleeps until there is one. REQUIRES: spec.sleeps
//   static void* Bytes(Loan&), const void* Bytes(const Sample&);
//   static constexpr size_t kMostLoans;   of one publisher, at once
// Loans and samples are movable. Neither port is used by two threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/bench/attached.h"
#include "tests/bench/fan_ports.h"
#include "tests/bench/hand_over.h"
#include "tests/bench/link.h"
#include "tests/bench/loan_release.h"
#include "tests/bench/port_spec.h"
#include "tests/bench/publish_release.h"

namespace zerocp::bench {

// What link.h asks for.
template <class N>
class PortLink {
 public:
  PortLink(const LinkSpec& spec, int end)
      : spec_(spec), in_(Spec(spec, 1 - end)), out_(Spec(spec, end)) {
    out_.WaitForSubscriber();
  }
  void Send(uint64_t value) {
    auto loan = out_.NewLoan();
    WriteMessage(N::Bytes(loan), value, spec_);
    out_.Publish(loan);
  }
  bool Take(uint64_t* value) {
    const auto sample = in_.Take();
    return sample ? (*value = ReadMessage(N::Bytes(sample), spec_), true) : false;
  }
  void Wait(uint64_t* value) { *value = ReadMessage(N::Bytes(in_.Wait()), spec_); }

 private:
  static PortSpec Spec(const LinkSpec& spec, int from) {
    return {.place = spec.place,
            .channel = from == 0 ? "ping" : "pong",
            .bytes = spec.bytes,
            .queue = spec.queue(),
            .sleeps = spec.sleeping,
            .loans_wait = true};
  }

  const LinkSpec spec_;
  typename N::Subscriber in_;
  typename N::Publisher out_;
};

// What loan_release.h asks for.
template <class N>
class PortLoans {
 public:
  using Chunk = typename N::Publisher::Loan;

  explicit PortLoans(const LoanSpec& spec)
      : spec_{.place = spec.place,
              .channel = spec.channel,
              .bytes = spec.bytes,
              .loans = spec.held,
              .publishers = spec.threads + 1},  // the one that is copied, too
        publisher_(spec_) {}
  PortLoans(const PortLoans& other) : spec_(other.spec_), publisher_(spec_) {}

  [[gnu::always_inline]] Chunk NewChunk() { return publisher_.NewLoan(); }
  static void* Bytes(Chunk& chunk) { return N::Bytes(chunk); }

 private:
  const PortSpec spec_;
  typename N::Publisher publisher_;
};

// Fills in all that the peer does by N.
template <class N>
void AddPorts(Peer& peer) {
  AddLink<PortLink<N>>(peer);
  const std::string name = peer.name;
  peer.loan_release = [name](const LoanSpec& spec) -> Subject {
    if (spec.held > N::kMostLoans)
      return {
          name,
          1,
          static_cast<int64_t>(spec.bytes),
          {},
          "it has at most " + std::to_string(N::kMostLoans) + " chunks for a publisher at once"};
    return LoanSubject<PortLoans<N>>(name, spec);
  };
  peer.publish_release = [name](const FanSpec& spec) {
    return PublishReleaseSubject<N>(name, spec);
  };
  peer.fan_out = [name](const FanSpec& spec) { return FanOutSubject<N>(name, spec); };
  peer.publishers = [name](const FanSpec& spec) { return PublishersSubject<N>(name, spec); };
  peer.handed_over = [name](const FanSpec& spec) { return HandOverSubject<N>(name, spec); };
  peer.memory = [name](const MemorySpec& spec) { return MemoryOf(name, spec); };
  peer.shared_memory = SharedMemoryOf<N>;
  peer.other_end = [](const std::vector<std::string>& words) {
    if (words.at(0) == "subscriber") return RunFanSubscriber<N>(words);
    if (words.at(0) == "publisher") return RunFanPublisher<N>(words);
    if (words.at(0) == "releaser") return RunReleaser<N>(words);
    if (words.at(0) == "attached") return RunAttached<N>(words);
    return RunOtherEnd<PortLink<N>>(words);
  };
}

}  // namespace zerocp::bench
