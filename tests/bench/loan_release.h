// Taking chunks and giving them back, for anything that has chunks.
//
// A peer's class A:
//   explicit A(const LoanSpec&);
//   A(const A&);                  the same for another thread
//   A::Chunk NewChunk();              cannot fail; its destructor gives the chunk back
//   static void* Bytes(Chunk&);
#pragma once

#include <atomic>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/bench/clock.h"
#include "tests/bench/pin.h"
#include "tests/bench/subject.h"

namespace zerocp::bench {

template <class A>
class LoanBatches {
 public:
  LoanBatches(const A& from, const LoanSpec& spec)
      : from_(from),
        held_(spec.held),
        slots_(std::make_unique<Slot[]>(held_)),
        times_(held_ >= kOperations ? 1 : kOperations / held_) {}

  // Nanoseconds of a loan and its release.
  std::vector<double> Round() {
    std::vector<double> batches;
    for (const double end = NowNs() + kRoundNs; NowNs() < end || batches.size() < 3;)
      batches.push_back(held_ == 1 ? One() : Many());
    return batches;
  }

 private:
  using Chunk = typename A::Chunk;
  struct alignas(Chunk) Slot {
    std::byte bytes[sizeof(Chunk)];
  };
  static constexpr size_t kOperations = 1000;
  static constexpr double kRoundNs = 2e6;

  double One() {
    const double start = NowNs();
    for (size_t i = 0; i < kOperations; ++i) {
      Chunk chunk = from_.NewChunk();
      asm volatile("" : : "r"(A::Bytes(chunk)) : "memory");
    }
    return (NowNs() - start) / kOperations;
  }
  // The oldest goes back first.
  double Many() {
    const double start = NowNs();
    for (size_t time = 0; time < times_; ++time) {
      for (size_t i = 0; i < held_; ++i) {
        auto* chunk = new (slots_[i].bytes) Chunk(from_.NewChunk());
        asm volatile("" : : "r"(A::Bytes(*chunk)) : "memory");
      }
      for (size_t i = 0; i < held_; ++i)
        std::launder(reinterpret_cast<Chunk*>(&slots_[i]))->~Chunk();
    }
    return (NowNs() - start) / static_cast<double>(held_ * times_);
  }

  A from_;
  const size_t held_;
  std::unique_ptr<Slot[]> slots_;
  const size_t times_;
};

// A second thread, which does the same during each round of the first.
template <class A>
class Companion {
 public:
  Companion(const A& from, const LoanSpec& spec)
      : batches_(from, spec), thread_([this] { Run(); }) {}
  ~Companion() {
    turn_.store(kEnd);
    turn_.notify_one();
    thread_.join();
  }
  Companion(const Companion&) = delete;
  Companion& operator=(const Companion&) = delete;

  void Begin() {
    turn_.store(kGo);
    turn_.notify_one();
    while (turn_.load() != kRuns) __builtin_ia32_pause();
  }
  void Stop() {
    turn_.store(kIdle);
    while (!idle_.load()) __builtin_ia32_pause();
  }

 private:
  enum Turn { kIdle, kGo, kRuns, kEnd };

  void Run() {
    PinTo(1);
    for (;;) {
      turn_.wait(kIdle);
      if (turn_.load() == kEnd) return;
      idle_.store(false);
      turn_.store(kRuns);
      while (turn_.load() == kRuns) (void)batches_.Round();
      idle_.store(true);
    }
  }

  std::atomic<Turn> turn_ = kIdle;
  std::atomic<bool> idle_ = true;
  LoanBatches<A> batches_;
  std::thread thread_;
};

template <class A>
Subject LoanSubject(const std::string& name, const LoanSpec& spec) {
  struct State {
    A from;
    LoanBatches<A> batches;
    std::unique_ptr<Companion<A>> companion;
    explicit State(const LoanSpec& wanted) : from(wanted), batches(from, wanted) {
      PinTo(0);
      if (wanted.threads == 2) companion = std::make_unique<Companion<A>>(from, wanted);
    }
  };
  const auto state = std::make_shared<State>(spec);
  return {name, 1, static_cast<int64_t>(spec.bytes), [state] {
            if (state->companion) state->companion->Begin();
            auto batches = state->batches.Round();
            if (state->companion) state->companion->Stop();
            return batches;
          }};
}

}  // namespace zerocp::bench
