// Many on one channel, in processes of their own: publishers on the first half of the processors,
// subscribers on the other.
#pragma once

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/bench/clock.h"
#include "tests/bench/other_end.h"
#include "tests/bench/pin.h"
#include "tests/bench/port_spec.h"
#include "tests/bench/report.h"

namespace zerocp::bench {

inline constexpr std::chrono::microseconds kFanNap{100};

inline void PinMember(bool publisher, int index) {
  const int half = std::max(static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)) / 2, 1);
  PinTo(publisher ? index % half : half + index % half);
}

// Takes all there is, then says how many it has had and when, and lets others run: for a while, so
// that it costs a lone publisher nothing, or until it is its turn again.
template <class N>
int RunFanSubscriber(const std::vector<std::string>& words) {
  PinMember(false, IndexOf(words));
  const FanSpec spec = FanSpecOf(words);
  const bool naps = words.at(8) == "naps";
  typename N::Subscriber in(PortsOf(spec));
  Turns& turns = TurnsOf(words.back());
  for (uint64_t taken = 0, told = 0; turns.RestUntilWanted();) {
    while (turns.wanted.load(std::memory_order_relaxed) == Turns::kWork) {
      if (in.Take()) {
        ++taken;
        continue;
      }
      if (taken != told) turns.ended.store(NowNs(), std::memory_order_relaxed);
      turns.taken.store(told = taken, std::memory_order_release);
      if (naps)
        std::this_thread::sleep_for(kFanNap);
      else
        sched_yield();
    }
  }
  return 0;
}

// Publishes as many messages as are wanted, then goes to rest by itself.
template <class N>
int RunFanPublisher(const std::vector<std::string>& words) {
  PinMember(true, IndexOf(words));
  typename N::Publisher out(PortsOf(FanSpecOf(words)));
  out.WaitForSubscriber();
  Turns& turns = TurnsOf(words.back());
  while (turns.RestUntilWanted()) {
    turns.began.store(NowNs(), std::memory_order_relaxed);
    for (uint64_t i = turns.count.load(); i > 0; --i) {
      auto loan = out.NewLoan();
      out.Publish(loan);
    }
    turns.ended.store(NowNs(), std::memory_order_relaxed);
    turns.wanted.store(Turns::kRest);
  }
  return 0;
}

// The subscribers' processes.
class FanSubscribers {
 public:
  FanSubscribers(const std::string& peer, const FanSpec& spec, bool nap) {
    for (int i = 0; i < spec.subscribers; ++i) {
      auto words = Words("subscriber", spec, i);
      words.push_back(nap ? "naps" : "yields");
      all_.push_back(std::make_unique<OtherEnd>(peer, spec.place, words));
    }
    expected_.resize(all_.size());
  }
  void Work() const {
    for (const auto& one : all_) one->Work();
  }
  void Rest() const {
    for (const auto& one : all_) one->Rest();
  }
  // Until each of them has had so many more.
  void CatchUp(uint64_t more) {
    for (size_t i = 0; i < all_.size(); ++i) {
      expected_[i] += more;
      while (Taken(i) != expected_[i]) std::this_thread::sleep_for(kFanNap);
    }
  }
  // Publishes by `publish`, which returns how many messages that were, until all of them get them:
  // who has just joined is not known to every publisher at once.
  template <class Publish>
  void Meet(Publish publish) {
    Work();
    for (bool met = false; !met;) {
      for (size_t i = 0; i < all_.size(); ++i) expected_[i] = Taken(i);
      const uint64_t sent = publish();
      for (const double end = NowNs() + 1e8; !met && NowNs() < end;) {
        std::this_thread::sleep_for(kFanNap);
        met = true;
        for (size_t i = 0; i < all_.size(); ++i) met = met && Taken(i) == expected_[i] + sent;
      }
      for (uint64_t& expected : expected_) expected += sent;
    }
    Rest();
  }
  double LastTake() const {
    double last = 0;
    for (const auto& one : all_) last = std::max(last, one->turns().ended.load());
    return last;
  }

 private:
  uint64_t Taken(size_t i) const { return all_[i]->turns().taken.load(std::memory_order_acquire); }

  std::vector<std::unique_ptr<OtherEnd>> all_;
  std::vector<uint64_t> expected_;
};

// A publisher in this process, whose bursts find room at subscribers that have taken all before.
template <class N>
class FanOut {
 public:
  FanOut(const std::string& peer, const FanSpec& spec)
      : subscribers_(peer, spec, true), publisher_(PortsOf(spec)) {
    publisher_.WaitForSubscriber();
    subscribers_.Meet([this] { return Publish(kBurst), kBurst; });
  }

  // Nanoseconds of one loan and publish, of the median burst.
  std::vector<double> Round() {
    subscribers_.Work();
    std::vector<double> bursts;
    while (bursts.size() < kBursts) {
      bursts.push_back(Publish(kBurst));
      subscribers_.CatchUp(kBurst);
    }
    subscribers_.Rest();
    return {Quantile(bursts, 0.5)};
  }

 private:
  static constexpr size_t kBursts = 25;
  static constexpr uint64_t kBurst = 32;

  double Publish(uint64_t count) {
    const double start = NowNs();
    for (uint64_t i = 0; i < count; ++i) {
      auto loan = publisher_.NewLoan();
      publisher_.Publish(loan);
    }
    return (NowNs() - start) / static_cast<double>(count);
  }

  FanSubscribers subscribers_;
  typename N::Publisher publisher_;
};

template <class N>
Subject FanOutSubject(const std::string& name, const FanSpec& spec) {
  PinTo(0);
  const auto state = std::make_shared<FanOut<N>>(name, spec);
  return {name, spec.subscribers + 1, static_cast<int64_t>(spec.bytes),
          [state] { return state->Round(); }};
}

// Publishers in processes of their own, as fast as they go, with subscribers that poll.
class Publishers {
 public:
  Publishers(const std::string& peer, const FanSpec& spec)
      : drops_(spec.drops), subscribers_(peer, spec, false) {
    for (int i = 0; i < spec.publishers; ++i) {
      auto words = Words("publisher", spec, i);
      all_.push_back(std::make_unique<OtherEnd>(peer, spec.place, words));
    }
    subscribers_.Meet([this] { return Publish(1), all_.size(); });
  }

  // Nanoseconds of a message, from the first one's publishing until the last one is published or,
  // if publishers wait, taken by everybody.
  std::vector<double> Round() {
    subscribers_.Work();
    Publish(kMessages / all_.size());
    if (!drops_) subscribers_.CatchUp(kMessages);
    double began = std::numeric_limits<double>::max();
    double ended = drops_ ? 0 : subscribers_.LastTake();
    for (const auto& one : all_) {
      began = std::min(began, one->turns().began.load());
      ended = std::max(ended, one->turns().ended.load());
    }
    subscribers_.Rest();
    return {(ended - began) / kMessages};
  }

 private:
  static constexpr uint64_t kMessages = 8'000;  // of all publishers together

  void Publish(uint64_t count) const {
    for (const auto& one : all_) one->Start(count);
    for (const auto& one : all_) {
      while (!one->Resting()) std::this_thread::sleep_for(kFanNap);
    }
  }

  const bool drops_;
  FanSubscribers subscribers_;
  std::vector<std::unique_ptr<OtherEnd>> all_;
};

template <class N>
Subject PublishersSubject(const std::string& name, const FanSpec& spec) {
  Unpin();
  const auto state = std::make_shared<Publishers>(name, spec);
  return {name, spec.publishers + spec.subscribers, static_cast<int64_t>(spec.bytes),
          [state] { return state->Round(); }};
}

}  // namespace zerocp::bench
