// What is compared: subjects, which do the same work in turn.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/bench/memory.h"

namespace zerocp::bench {

struct Subject {
  std::string name;
  int processes = 1;
  int64_t bytes = 0;
  // Does the work for some milliseconds. Nanoseconds per operation: one figure for each batch, or
  // for each round trip.
  std::function<std::vector<double>()> round = {};
  std::string missing = {};  // why there is no round
};

// Rounds for as long, as one.
inline std::vector<double> RoundFor(std::chrono::nanoseconds time, const Subject& subject) {
  std::vector<double> all;
  for (const auto end = std::chrono::steady_clock::now() + time;
       std::chrono::steady_clock::now() < end;) {
    const auto some = subject.round();
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

// Chunks of `bytes` that are taken, and given back, `held` at a time.
struct LoanSpec {
  std::string place = {};  // the daemon's runtime directory, where peers keep their files, too
  size_t bytes = 1024;
  size_t held = 1;
  int threads = 1;               // 1 or 2, at once, each for itself
  std::string channel = "ping";  // of zerocp, whose pool it is
};

// Messages of `bytes` between this process and another one.
struct LinkSpec {
  std::string place = {};
  size_t bytes = 1024;
  bool sleeping = false;  // who waits sleeps; otherwise it polls
  bool touched = false;   // all bytes are written and each cache line read; otherwise the first 8

  // In messages: of large ones there are few, and fewest if all of them are touched.
  size_t queue() const {
    constexpr size_t kMiB = size_t{1} << 20;
    if (touched) return bytes < kMiB ? 128 : 4;
    return bytes <= kMiB ? 128 : 16;
  }
};

// A channel of messages of `bytes`, and who is on it.
struct FanSpec {
  std::string place = {};
  std::string channel = "ping";
  size_t bytes = 1024;
  int publishers = 1;
  int subscribers = 1;
  bool drops = false;  // who is slow misses messages; otherwise publishers wait
};

// Something that does what zerocp does, or a part of it, through its public interface.
struct Peer {
  std::string name;
  std::string configuration;
  std::string missing = {};  // why it cannot be measured here
  // Empty: not what this peer does.
  std::function<Subject(const LoanSpec&)> loan_release = {};
  std::function<Subject(const LinkSpec&)> ping_pong = {};
  std::function<Subject(const LinkSpec&)> stream = {};
  std::function<Subject(const FanSpec&)> publish_release = {};
  std::function<Subject(const FanSpec&)> fan_out = {};
  std::function<Subject(const FanSpec&)> publishers = {};
  std::function<Subject(const FanSpec&)> handed_over = {};
  std::function<std::vector<MemoryRow>(const MemorySpec&)> memory = {};
  std::function<int64_t(const MemorySpec&)> shared_memory = {};  // for so many chunks
  // What another process of a subject does (other_end.h). Returns its exit code.
  std::function<int(const std::vector<std::string>& arguments)> other_end = {};
};

}  // namespace zerocp::bench
