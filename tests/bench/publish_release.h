// Publishing, and the subscribers' releases, in one thread: nothing but the instructions.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/clock.h"
#include "tests/bench/must.h"
#include "tests/bench/pin.h"
#include "tests/bench/port_spec.h"

namespace zerocp::bench {

template <class N>
class PublishAndRelease {
 public:
  explicit PublishAndRelease(const FanSpec& spec)
      : subscribers_(Join(spec)), publisher_(PortsOf(spec, kBatch)) {
    publisher_.WaitForSubscriber();
  }

  // Nanoseconds of a publish and of all releases of its message, of each of some batches. Loans
  // and takes are not counted.
  std::vector<double> Round() {
    std::vector<double> times;
    for (int i = 0; i < kBatches; ++i) times.push_back(Batch());
    return times;
  }

 private:
  static constexpr size_t kBatch = std::min<size_t>(N::kMostLoans, 64);
  static constexpr int kBatches = 100;

  using Subscribers = std::vector<std::unique_ptr<typename N::Subscriber>>;

  static Subscribers Join(const FanSpec& spec) {
    Subscribers all;
    for (int i = 0; i < spec.subscribers; ++i)
      all.push_back(std::make_unique<typename N::Subscriber>(PortsOf(spec, kBatch)));
    return all;
  }
  double Batch() {
    std::vector<typename N::Publisher::Loan> loans;
    loans.reserve(kBatch);
    while (loans.size() < kBatch) loans.push_back(publisher_.NewLoan());
    const double start = NowNs();
    for (auto& loan : loans) publisher_.Publish(loan);
    double time = NowNs() - start;
    std::vector<typename N::Subscriber::Sample> samples;
    samples.reserve(subscribers_.size() * kBatch);
    for (size_t i = 0; i < kBatch; ++i) {
      for (const auto& subscriber : subscribers_) {
        samples.push_back(subscriber->Take());
        if (!samples.back()) Die("take", "a message that was published is not there");
      }
    }
    const double taken = NowNs();
    samples.clear();
    time += NowNs() - taken;
    return time / kBatch;
  }

  const Subscribers subscribers_;
  typename N::Publisher publisher_;
};

template <class N>
Subject PublishReleaseSubject(const std::string& name, const FanSpec& spec) {
  PinTo(0);
  const auto state = std::make_shared<PublishAndRelease<N>>(spec);
  return {name, 1, static_cast<int64_t>(spec.bytes), [state] { return state->Round(); }};
}

}  // namespace zerocp::bench
