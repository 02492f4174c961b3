#include "client/internal/held_counts.h"

#include <pthread.h>

namespace zerocp::internal {

HeldCounts& HeldCounts::Get() {
  static auto* counts = new HeldCounts;  // never destroyed: samples of the user may outlive main
  return *counts;
}

HeldCounts::HeldCounts() {
  pthread_atfork([] { Get().mutex_.lock(); }, [] { Get().mutex_.unlock(); },
                 [] { Get().mutex_.unlock(); });
}

uint16_t HeldCounts::Take() {
  std::lock_guard lock(mutex_);
  for (uint32_t number = 1; number <= kMost; ++number) {
    std::atomic<Count*>& block = blocks_[number / kBlock];
    if (block.load(std::memory_order_relaxed) == nullptr)
      block.store(new Count[kBlock], std::memory_order_release);
    uint32_t none = 0;
    if (Word(static_cast<uint16_t>(number))
            .compare_exchange_strong(none, kSubscriber, std::memory_order_relaxed)) {
      return static_cast<uint16_t>(number);
    }
  }
  return 0;
}

}  // namespace zerocp::internal
