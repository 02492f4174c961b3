// A point in time until which a call may wait, on the monotonic clock.
#pragma once

#include <chrono>
#include <optional>

namespace zerocp::shm {

class Deadline {
 public:
  static Deadline Never() { return Deadline(std::nullopt); }
  // At once: the call does not wait.
  static Deadline Now() { return Deadline(std::chrono::steady_clock::time_point::min()); }
  // A negative or zero time does not wait; one beyond the clock's range never ends.
  static Deadline After(std::chrono::nanoseconds time) {
    if (time <= std::chrono::nanoseconds::zero()) return Now();
    auto now = std::chrono::steady_clock::now();
    if (time > std::chrono::steady_clock::time_point::max() - now) return Never();
    return Deadline(now + time);
  }

  bool waits() const { return !at_ || *at_ != std::chrono::steady_clock::time_point::min(); }
  bool Passed() const { return at_ && (!waits() || std::chrono::steady_clock::now() >= *at_); }
  // Time left, at most `most`; never negative.
  std::chrono::nanoseconds Left(std::chrono::nanoseconds most) const {
    if (!at_) return most;
    if (!waits()) return std::chrono::nanoseconds::zero();
    auto left = std::chrono::nanoseconds(*at_ - std::chrono::steady_clock::now());
    return left < std::chrono::nanoseconds::zero() ? std::chrono::nanoseconds::zero()
           : left < most                           ? left
                                                   : most;
  }

 private:
  explicit Deadline(std::optional<std::chrono::steady_clock::time_point> at) : at_(at) {}
  std::optional<std::chrono::steady_clock::time_point> at_;
};

}  // namespace zerocp::shm
