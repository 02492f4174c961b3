// How many samples each subscriber of a channel with max_held_count holds.
//
// What. A count belongs to a subscriber from its join on and to its samples, which may outlive it
// and carry the count's number; it is free again when all of them are gone. Counts of a process lie
// in one table that only grows.
//
// Invariants. H1: only the subscriber adds, and only when it has looked, so no more are held than
// the limit says. H2: a sample is subtracted after its chunk was released.
//
// Threads and processes. Add and Full: the subscriber's. Subtract: any thread. The child of a fork
// has a copy of its own and subtracts nothing from it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>

namespace zerocp::internal {

class HeldCounts {
 public:
  static constexpr uint32_t kBlock = 64;
  static constexpr uint32_t kMost = 64 * kBlock - 1;  // number 0 is none

  static HeldCounts& Get();

  // A number from 1 on; 0 if all are in use. Allocates.
  uint16_t Take();
  // The subscriber is gone; the number is in use until its samples are, too.
  void Drop(uint16_t number) { Word(number).fetch_and(~kSubscriber, std::memory_order_relaxed); }
  void Subtract(uint16_t number) { Word(number).fetch_sub(1, std::memory_order_relaxed); }
  std::atomic<uint32_t>& Word(uint16_t number) {
    return blocks_[number / kBlock].load(std::memory_order_acquire)[number % kBlock].word;
  }

  static constexpr uint32_t kSubscriber = 1u << 31;  // above the samples: there is a subscriber

 private:
  struct alignas(64) Count {
    std::atomic<uint32_t> word{0};
  };
  HeldCounts();

  std::mutex mutex_;  // held across a fork
  std::array<std::atomic<Count*>, (kMost + 1) / kBlock> blocks_{};
};

// A subscriber's count; of no count unless Limit was called.
class HeldCount {
 public:
  HeldCount() = default;
  ~HeldCount() {
    if (word_ != nullptr) HeldCounts::Get().Drop(number_);
  }
  HeldCount(const HeldCount&) = delete;
  HeldCount& operator=(const HeldCount&) = delete;

  // At most `limit`; 0: as many as come. False: no count is left. REQUIRES: the first call.
  bool Limit(uint32_t limit) {
    if (limit == 0) return true;
    number_ = HeldCounts::Get().Take();
    if (number_ == 0) return false;
    limit_ = limit;
    word_ = &HeldCounts::Get().Word(number_);
    return true;
  }
  uint32_t limit() const { return limit_; }
  bool Full() const {
    return word_ != nullptr &&
           (word_->load(std::memory_order_relaxed) & ~HeldCounts::kSubscriber) >= limit_;
  }
  // One sample more; the number that it carries. REQUIRES: not Full().
  uint16_t Add() {
    if (word_ != nullptr) [[unlikely]]
      word_->fetch_add(1, std::memory_order_relaxed);
    return number_;
  }

 private:
  std::atomic<uint32_t>* word_ = nullptr;
  uint32_t limit_ = 0;
  uint16_t number_ = 0;
};

}  // namespace zerocp::internal
