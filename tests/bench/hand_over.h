// Loans of chunks that another process released: the way back over the list of free chunks, and not
// over what the thread that loans keeps.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/clock.h"
#include "tests/bench/other_end.h"
#include "tests/bench/pin.h"
#include "tests/bench/port_spec.h"

namespace zerocp::bench {

template <class N>
inline constexpr size_t kHandedOver = std::min<size_t>(N::kMostLoans, 64);  // at a time

template <class N>
int RunReleaser(const std::vector<std::string>& words) {
  PinTo(1);
  typename N::Subscriber in(PortsOf(FanSpecOf(words), kHandedOver<N>));
  Turns& turns = TurnsOf(words.back());
  std::vector<typename N::Subscriber::Sample> samples;
  samples.reserve(kHandedOver<N>);
  for (uint64_t taken = 0; turns.RestUntilWanted();) {
    while (turns.wanted.load(std::memory_order_relaxed) == Turns::kWork) {
      if (auto sample = in.Take()) samples.push_back(std::move(sample));
      if (samples.size() < kHandedOver<N>) continue;
      taken += samples.size();
      turns.began.store(NowNs(), std::memory_order_relaxed);
      samples.clear();
      turns.ended.store(NowNs(), std::memory_order_relaxed);
      turns.taken.store(taken, std::memory_order_release);
    }
  }
  return 0;
}

template <class N>
class HandOver {
 public:
  HandOver(const std::string& peer, const FanSpec& spec)
      : other_(peer, spec.place, Words("releaser", spec, 0)),
        publisher_(PortsOf(spec, kHandedOver<N>)) {
    publisher_.WaitForSubscriber();
    loans_.reserve(kHandedOver<N>);
  }

  // Nanoseconds of a loan here and of a release there, without the way between them.
  std::vector<double> Round() {
    other_.Work();
    std::vector<double> batches;
    for (const double end = NowNs() + 3e6; NowNs() < end || batches.size() < 3;)
      batches.push_back(Batch());
    other_.Rest();
    return batches;
  }

 private:
  double Batch() {
    const double start = NowNs();
    while (loans_.size() < kHandedOver<N>) loans_.push_back(publisher_.NewLoan());
    const double loans = NowNs() - start;
    for (auto& loan : loans_) publisher_.Publish(loan);
    sent_ += loans_.size();
    loans_.clear();
    const Turns& turns = other_.turns();
    while (turns.taken.load(std::memory_order_acquire) != sent_) __builtin_ia32_pause();
    return (loans + turns.ended.load() - turns.began.load()) / kHandedOver<N>;
  }

  OtherEnd other_;
  typename N::Publisher publisher_;
  std::vector<typename N::Publisher::Loan> loans_;
  uint64_t sent_ = 0;
};

template <class N>
Subject HandOverSubject(const std::string& name, const FanSpec& spec) {
  PinTo(0);
  const auto state = std::make_shared<HandOver<N>>(name, spec);
  return {name, 2, static_cast<int64_t>(spec.bytes), [state] { return state->Round(); }};
}

}  // namespace zerocp::bench
