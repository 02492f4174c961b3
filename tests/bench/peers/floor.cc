// The least that two processes need to tell each other something.
#include <atomic>

#include "tests/bench/link.h"
#include "tests/bench/peers/peers.h"
#include "tests/bench/peers/shared_file.h"

namespace zerocp::bench {
namespace {

class Link {
 public:
  Link(const LinkSpec& spec, int end) : lines_(spec.place + "/floor"), end_(end) {}

  void Send(uint64_t value) { line(end_).store(value, std::memory_order_release); }
  bool Take(uint64_t* value) {
    *value = line(1 - end_).load(std::memory_order_acquire);
    return *value != taken_ ? (taken_ = *value, true) : false;
  }
  void Wait(uint64_t* value) {
    while (!Take(value)) __builtin_ia32_pause();
  }

 private:
  struct Memory {
    struct alignas(64) Line {
      std::atomic<uint64_t> value;
    } lines[2];
  };
  std::atomic<uint64_t>& line(int end) { return lines_->lines[end].value; }

  SharedFile<Memory> lines_;
  const int end_;
  uint64_t taken_ = 0;
};

}  // namespace

Peer FloorPeer() {
  Peer peer{"floor", "two cache lines, one written by each process"};
  AddLink<Link>(peer, 128);
  return peer;
}

}  // namespace zerocp::bench
