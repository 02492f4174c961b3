// The least that a process needs to wake another one: a word, and the kernel.
#include <linux/futex.h>
#include <sys/syscall.h>

#include <atomic>

#include "tests/bench/link.h"
#include "tests/bench/peers/peers.h"
#include "tests/bench/peers/shared_file.h"

namespace zerocp::bench {
namespace {

class Link {
 public:
  Link(const LinkSpec& spec, int end) : words_(spec.place + "/futex"), end_(end) {}

  void Send(uint64_t value) {
    auto& word = words_->words[end_].value;
    word.store(static_cast<uint32_t>(value), std::memory_order_release);
    syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  }
  bool Take(uint64_t* value) {
    const uint32_t now = words_->words[1 - end_].value.load(std::memory_order_acquire);
    if (now == taken_) return false;
    taken_ = now;
    *value = now == static_cast<uint32_t>(kEndOfLink) ? kEndOfLink : now;
    return true;
  }
  void Wait(uint64_t* value) {
    while (!Take(value))
      syscall(SYS_futex, &words_->words[1 - end_].value, FUTEX_WAIT, taken_, nullptr, nullptr, 0);
  }

 private:
  struct Memory {
    struct alignas(64) Word {
      std::atomic<uint32_t> value;
    } words[2];
  };
  SharedFile<Memory> words_;
  const int end_;
  uint32_t taken_ = 0;
};

}  // namespace

Peer FutexPeer() {
  Peer peer{"futex", "one word in shared memory for each process, FUTEX_WAIT and FUTEX_WAKE"};
  AddLink<Link>(peer, 128);
  return peer;
}

}  // namespace zerocp::bench
