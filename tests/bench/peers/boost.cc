// boost.interprocess: chunks of a managed segment in shared memory.
#include "tests/bench/peers/peers.h"

#if __has_include(<boost/interprocess/managed_shared_memory.hpp>)
#include <boost/version.hpp>

#include "tests/bench/hand_over.h"
#include "tests/bench/loan_release.h"
#include "tests/bench/peers/boost_ports.h"

namespace zerocp::bench {
namespace {

class Segment {
 public:
  using Chunk = BoostPort::Loan;
  explicit Segment(const LoanSpec& spec)
      : port_(std::make_shared<BoostPort>(
            PortSpec{.place = spec.place, .channel = spec.channel, .bytes = spec.bytes})) {}
  Chunk NewChunk() { return port_->NewLoan(); }
  static void* Bytes(const Chunk& chunk) { return chunk.bytes(); }

 private:
  std::shared_ptr<BoostPort> port_;
};

struct Ports {
  using Publisher = BoostPort;
  using Subscriber = BoostPort;
  static constexpr size_t kMostLoans = 64;
};

}  // namespace

Peer BoostPeer() {
  Peer peer{"boost", "boost.interprocess " BOOST_LIB_VERSION
                     ", managed_shared_memory of 64 MiB; what is handed over goes by a ring there"};
  peer.loan_release = [](const LoanSpec& spec) { return LoanSubject<Segment>("boost", spec); };
  peer.handed_over = [](const FanSpec& spec) { return HandOverSubject<Ports>("boost", spec); };
  peer.other_end = RunReleaser<Ports>;
  return peer;
}

}  // namespace zerocp::bench

#else
namespace zerocp::bench {

Peer BoostPeer() {
  Peer peer{"boost", "", "built without Debian's package libboost-dev"};
  peer.loan_release = [](const LoanSpec&) { return Subject{}; };
  peer.handed_over = [](const FanSpec&) { return Subject{}; };
  return peer;
}

}  // namespace zerocp::bench
#endif
