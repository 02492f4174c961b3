// How often something may happen: `burst` times at once, then `per_second`.
//
// One thread at a time.
#pragma once

#include <algorithm>
#include <chrono>

namespace zerocp {

class TokenBucket {
 public:
  using Clock = std::chrono::steady_clock;

  TokenBucket(double burst, double per_second)
      : burst_(burst), per_second_(per_second), tokens_(burst) {}

  // True if it may happen now; then it has.
  bool Take(Clock::time_point now) {
    tokens_ = TokensAt(now);
    last_ = now;
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }
  // Nothing has happened for so long that it does not matter any more.
  bool IsFull(Clock::time_point now) const { return TokensAt(now) >= burst_; }

 private:
  double TokensAt(Clock::time_point now) const {
    const std::chrono::duration<double> passed = now - last_;
    return std::min(burst_, tokens_ + std::max(passed.count(), 0.0) * per_second_);
  }

  const double burst_;
  const double per_second_;
  double tokens_;
  Clock::time_point last_;
};

}  // namespace zerocp
