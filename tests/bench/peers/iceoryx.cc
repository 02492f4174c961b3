// iceoryx, over a RouDi of this program's own.
#include <unistd.h>

#include "tests/bench/peers/peers.h"
#include "tests/bench/ports.h"

#ifdef ZEROCP_BENCH_ICEORYX
#include <iceoryx_posh/internal/mepoo/memory_manager.hpp>
#include <iceoryx_posh/mepoo/mepoo_config.hpp>
#include <iceoryx_versions.hpp>

#include "tests/bench/peers/iceoryx_publisher.h"
#include "tests/bench/peers/iceoryx_subscriber.h"

namespace zerocp::bench {
namespace {

struct Ports {
  using Publisher = IceoryxPublisher;
  using Subscriber = IceoryxSubscriber;
  static constexpr size_t kMostLoans = 8;
  static void* Bytes(const Publisher::Loan& loan) { return loan.bytes(); }
  static const void* Bytes(const Subscriber::Sample& sample) { return sample.bytes(); }
};

// Of chunks of 1 KiB, by its own formula: its segments are made once, with RouDi.
int64_t BytesOfPool(int64_t chunks) {
  iox::mepoo::MePooConfig config;
  config.addMemPool({1024, static_cast<uint32_t>(chunks)});
  return static_cast<int64_t>(iox::mepoo::MemoryManager::requiredFullMemorySize(config));
}

// Other processes look for the daemon of this one.
template <class Spec>
void StartRouDiFor(std::function<Subject(const Spec&)>& kind) {
  kind = [start = kind](const Spec& spec) {
    UseRouDi();
    return start(spec);
  };
}

}  // namespace

Peer IceoryxPeer() {
  Peer peer{"iceoryx", "iceoryx " ICEORYX_LATEST_RELEASE_VERSION
                       ", iox-roudi without monitoring (which takes a process that gets no "
                       "processor for dead); publishers that block, or drop where zerocp does; "
                       "queues of 128 messages of all publishers, of 4 or 16 large ones; at most 8 "
                       "loans at a time; pools of 4,096 x "
                       "1 KiB, 512 x 64 KiB, 256 x 1 MiB, 48 x 32 MiB"};
  if (access(kRouDi, X_OK) != 0)
    peer.missing = std::string("no ") + kRouDi + ": Debian's package iceoryx has it";
  AddPorts<Ports>(peer);
  for (auto* link : {&peer.ping_pong, &peer.stream}) StartRouDiFor(*link);
  for (auto* fan : {&peer.fan_out, &peer.publishers, &peer.handed_over}) StartRouDiFor(*fan);
  peer.memory = [of = peer.memory](MemorySpec spec) {
    UseRouDi();
    spec.daemon = RouDiPid();
    return of(spec);
  };
  peer.shared_memory = [](const MemorySpec& spec) { return BytesOfPool(spec.chunks); };
  return peer;
}

}  // namespace zerocp::bench

#else
namespace zerocp::bench {

Peer IceoryxPeer() {
  const auto none = [](const auto&) { return Subject{}; };
  return {"iceoryx", "",   "built without Debian's package libiceoryx-posh-dev",
          none,      none, none,
          none,      none, none,
          none,      {}};
}

}  // namespace zerocp::bench
#endif
