// Chunks that one process allocates and another one deallocates, as hand_over.h asks for them.
#pragma once

#include <algorithm>
#include <atomic>
#include <boost/interprocess/managed_shared_memory.hpp>
#include <string>

#include "tests/bench/peers/held.h"
#include "tests/bench/port_spec.h"

namespace zerocp::bench {

// One end of a segment. The name goes with the end that made it.
class BoostPort {
 public:
  using Loan = Held<BoostPort, void*>;
  using Sample = Loan;
  explicit BoostPort(const PortSpec& spec)
      : name_(Name(spec)),
        memory_(boost::interprocess::open_or_create, name_.c_str(), size_t{64} << 20),
        ring_(*memory_.find_or_construct<Ring>("ring")()),
        first_(ring_.ends.fetch_add(1) == 0),
        bytes_(spec.bytes) {}
  ~BoostPort() {
    if (first_) boost::interprocess::shared_memory_object::remove(name_.c_str());
  }
  BoostPort(const BoostPort&) = delete;
  BoostPort& operator=(const BoostPort&) = delete;

  Loan NewLoan() { return {*this, memory_.allocate(bytes_)}; }
  void GiveBack(void* bytes) { memory_.deallocate(bytes); }
  void Publish(Loan& loan) {
    const uint64_t sent = ring_.sent.load(std::memory_order_relaxed);
    ring_.handles[sent % kPlaces] = memory_.get_handle_from_address(loan.TakeOut());
    ring_.sent.store(sent + 1, std::memory_order_release);
  }
  Sample Take() {
    if (ring_.sent.load(std::memory_order_acquire) == taken_) return {*this, nullptr};
    return {*this, memory_.get_address_from_handle(ring_.handles[taken_++ % kPlaces])};
  }
  void WaitForSubscriber() {}

 private:
  using Memory = boost::interprocess::managed_shared_memory;
  static constexpr size_t kPlaces = 64;  // who publishes waits until all of them have been taken
  struct Ring {
    std::atomic<int> ends;
    alignas(64) std::atomic<uint64_t> sent;
    Memory::handle_t handles[kPlaces];
  };
  static std::string Name(const PortSpec& spec) {
    std::string name = "zerocp_bench" + spec.service();
    std::replace(name.begin(), name.end(), '/', '_');
    return name;
  }

  const std::string name_;
  Memory memory_;
  Ring& ring_;
  const bool first_;
  const size_t bytes_;
  uint64_t taken_ = 0;
};

}  // namespace zerocp::bench
