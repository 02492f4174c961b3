// iceoryx2, by a library of C functions that deploy/setup.sh builds from iceoryx2/, in Rust.
#include <dlfcn.h>

#include <cstdlib>

#include "tests/bench/peers/iceoryx2_ports.h"
#include "tests/bench/peers/peers.h"
#include "tests/bench/ports.h"

namespace zerocp::bench {
namespace {

std::string LibraryPath() {
  const char* tools = std::getenv("ZEROCP_TOOLS");
  return std::string(tools != nullptr ? tools : "/usr/local/lib/zerocp-tools") +
         "/iceoryx2/libiceoryx2_bench.so";
}

struct Ports {
  using Publisher = Iceoryx2Publisher;
  using Subscriber = Iceoryx2Subscriber;
  static constexpr size_t kMostLoans = 1'000'000;
  static void* Bytes(const Publisher::Loan& loan) { return loan.bytes(); }
  static const void* Bytes(const Subscriber::Sample& sample) { return sample.bytes(); }
};

}  // namespace

Peer Iceoryx2Peer() {
  Peer peer{"iceoryx2",
            "iceoryx2 0.10.0 (crates.io), ipc::Service, slices of u8, RetryUntilDelivered, or safe "
            "overflow where zerocp drops; queues of 128 messages of each publisher, of 4 or 16 "
            "large ones"};
  void* library = dlopen(LibraryPath().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    peer.missing = std::string(dlerror()) +
                   "; deploy/setup.sh builds it where there is a cargo of 1.89 or newer";
  } else {
    const auto find = [&](auto*& function, const char* name) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      if (function == nullptr) peer.missing = std::string(dlerror()) + "; run deploy/setup.sh";
    };
    find(iceoryx2.new_sender, "new_sender");
    find(iceoryx2.delete_sender, "delete_sender");
    find(iceoryx2.loan, "loan");
    find(iceoryx2.drop_loan, "drop_loan");
    find(iceoryx2.publish, "publish");
    find(iceoryx2.new_receiver, "new_receiver");
    find(iceoryx2.delete_receiver, "delete_receiver");
    find(iceoryx2.take, "take");
    find(iceoryx2.drop_sample, "drop_sample");
    find(iceoryx2.wait, "wait");
  }
  AddPorts<Ports>(peer);
  peer.memory = [of = peer.memory](MemorySpec spec) {
    spec.daemon = 0;
    return of(spec);
  };
  return peer;
}

}  // namespace zerocp::bench
