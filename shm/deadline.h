// A point in time until which a call may wait, on the monotonic clock.
#pragma once

#include <algorithm>
#include <chrono>

namespace zerocp::shm {

// One word, so that it is passed in a register: written to memory by parts and read whole, it would
// make each publish wait for the stores before it.
class Deadline {
 public:
  static Deadline Never() { return Deadline(Clock::time_point::max()); }
  // At once: the call does not wait.
  static Deadline Now() { return Deadline(Clock::time_point::min()); }
  // A negative or zero time does not wait; one beyond the clock's range never ends.
  static Deadline After(std::chrono::nanoseconds time) {
    if (time <= std::chrono::nanoseconds::zero()) return Now();
    const auto now = Clock::now();
    return time > Clock::time_point::max() - now ? Never() : Deadline(now + time);
  }

  bool waits() const { return at_ != Clock::time_point::min(); }
  bool Passed() const { return !waits() || (ends() && Clock::now() >= at_); }
  // Time left, at most `most`; never negative.
  std::chrono::nanoseconds Left(std::chrono::nanoseconds most) const {
    if (!waits()) return std::chrono::nanoseconds::zero();
    if (!ends()) return most;
    const std::chrono::nanoseconds left = at_ - Clock::now();
    return std::clamp(left, std::chrono::nanoseconds::zero(), most);
  }

 private:
  using Clock = std::chrono::steady_clock;
  explicit Deadline(Clock::time_point at) : at_(at) {}
  bool ends() const { return at_ != Clock::time_point::max(); }

  Clock::time_point at_;
};

}  // namespace zerocp::shm
