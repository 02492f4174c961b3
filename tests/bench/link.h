// Messages between two processes, for anything that carries them: round trips, and a stream.
//
// A peer's class L, one for each end:
//   L(const LinkSpec&, int end);         0: this process, 1: the other one. Both are there on
//   return void Send(uint64_t value);           a message of spec.bytes that begins with the value
//   bool Take(uint64_t* value);          the next message's value, if there is one: polls
//   void Wait(uint64_t* value);          the same, sleeping until there is one
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/clock.h"
#include "tests/bench/must.h"
#include "tests/bench/other_end.h"
#include "tests/bench/pin.h"
#include "tests/bench/subject.h"

namespace zerocp::bench {

// Makes a message of the value, and reads one.
inline void WriteMessage(void* data, uint64_t value, const LinkSpec& spec) {
  if (spec.touched) std::memset(data, static_cast<int>(value), spec.bytes);
  std::memcpy(data, &value, sizeof(value));
}
inline uint64_t ReadMessage(const void* data, const LinkSpec& spec) {
  uint64_t value;
  std::memcpy(&value, data, sizeof(value));
  for (size_t at = 64; spec.touched && at < spec.bytes; at += 64)
    asm volatile("" : : "r"(static_cast<const std::byte*>(data)[at]));
  return value;
}

inline constexpr uint64_t kEndOfLink = ~uint64_t{0};

inline std::vector<std::string> Words(const char* kind, const LinkSpec& spec) {
  return {kind, spec.place, std::to_string(spec.bytes), spec.sleeping ? "sleeping" : "polling",
          spec.touched ? "touched" : "untouched"};
}
inline LinkSpec LinkSpecOf(const std::vector<std::string>& words) {
  return {.place = words.at(1),
          .bytes = std::stoul(words.at(2)),
          .sleeping = words.at(3) == "sleeping",
          .touched = words.at(4) == "touched"};
}

// Before an answer to somebody who is to sleep: long enough that he does.
inline constexpr double kThinkNs = 20'000;
inline void Think() {
  for (const double end = NowNs() + kThinkNs; NowNs() < end;) __builtin_ia32_pause();
}

template <class L>
void Receive(L& link, bool sleeping, uint64_t* value) {
  if (sleeping) return link.Wait(value);
  while (!link.Take(value)) __builtin_ia32_pause();
}

template <class L>
int RunOtherEnd(const std::vector<std::string>& words) {
  PinTo(1);
  const LinkSpec spec = LinkSpecOf(words);
  const bool streams = words.at(0) == "stream";
  L link(spec, 1);
  Turns& turns = TurnsOf(words.back());
  while (turns.RestUntilWanted()) {
    uint64_t value = 0;
    while (turns.wanted.load(std::memory_order_relaxed) == Turns::kWork) {
      if (spec.sleeping) {
        link.Wait(&value);
      } else if (!link.Take(&value)) {
        continue;
      }
      if (value == kEndOfLink) return 0;
      if (streams)
        turns.taken.store(value, std::memory_order_relaxed);
      else {
        if (spec.sleeping) Think();
        link.Send(value);
      }
    }
  }
  return 0;
}

template <class L>
class PingPong {
 public:
  PingPong(const std::string& peer, const LinkSpec& spec)
      : spec_(spec), other_(peer, spec.place, Words("ping_pong", spec)), link_(spec, 0) {}
  ~PingPong() {
    if (!spec_.sleeping) return;
    other_.Work();
    link_.Send(kEndOfLink);  // who sleeps there sees nothing else
  }

  // Nanoseconds of each of some round trips, without the time that is spent thinking.
  std::vector<double> Round() {
    other_.Work();
    RoundTrip();
    std::vector<double> trips;
    double before = NowNs();
    for (const double end = before + 3e6;
         trips.size() < 2000 && (before < end || trips.size() < 3);) {
      RoundTrip();
      const double now = NowNs();
      trips.push_back(now - before - (spec_.sleeping ? 2 * kThinkNs : 0));
      before = now;
    }
    if (!spec_.sleeping) other_.Rest();  // who sleeps rests, but for the next message
    return trips;
  }

 private:
  void RoundTrip() {
    if (spec_.sleeping) Think();
    link_.Send(++sent_);
    uint64_t value = 0;
    Receive(link_, spec_.sleeping, &value);
    if (value != sent_)
      Die("a message came back as another one",
          std::to_string(sent_) + ": " + std::to_string(value));
  }

  const LinkSpec spec_;
  OtherEnd other_;
  L link_;
  uint64_t sent_ = 0;
};

template <class L>
class Stream {
 public:
  Stream(const std::string& peer, const LinkSpec& spec)
      : other_(peer, spec.place, Words("stream", spec)), link_(spec, 0) {}

  // Nanoseconds of a message, of batches that are taken whole before the next one begins.
  std::vector<double> Round() {
    other_.Work();
    const double start = NowNs();
    (void)Batch(4);
    // About a millisecond each.
    const double estimate = std::max((NowNs() - start) / 4, 1.0);
    const auto count = static_cast<uint64_t>(std::clamp(1e6 / estimate, 8.0, 2000.0));
    std::vector<double> batches;
    for (const double end = NowNs() + 3e6; NowNs() < end || batches.empty();)
      batches.push_back(Batch(count));
    other_.Rest();
    return batches;
  }

 private:
  double Batch(uint64_t count) {
    const double start = NowNs();
    for (uint64_t i = 0; i < count; ++i) link_.Send(++sent_);
    while (other_.turns().taken.load(std::memory_order_relaxed) != sent_) __builtin_ia32_pause();
    return (NowNs() - start) / static_cast<double>(count);
  }

  OtherEnd other_;
  L link_;
  uint64_t sent_ = 0;
};

// Fills in what the peer does by L.
template <class L>
void AddLink(Peer& peer, int64_t bytes_of_its_own = 0) {
  const std::string name = peer.name;
  const auto add = [name, bytes_of_its_own](auto make, const LinkSpec& spec) {
    PinTo(0);
    const auto state = make(name, spec);
    return Subject{name, 2,
                   bytes_of_its_own != 0 ? bytes_of_its_own : static_cast<int64_t>(spec.bytes),
                   [state] { return state->Round(); }};
  };
  peer.ping_pong = [add](const LinkSpec& spec) {
    return add([](const auto&... all) { return std::make_shared<PingPong<L>>(all...); }, spec);
  };
  if (bytes_of_its_own == 0) {
    peer.stream = [add](const LinkSpec& spec) {
      return add([](const auto&... all) { return std::make_shared<Stream<L>>(all...); }, spec);
    };
  }
  peer.other_end = RunOtherEnd<L>;
}

}  // namespace zerocp::bench
