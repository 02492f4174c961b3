// A publisher to twelve subscribers of a channel that drops, one of them stopped or none.
#pragma once

#include <cstddef>
#include <string>

#include "tests/bench/report.h"

namespace zerocp::bench {

// A subscriber's process: takes all there is, says so in counter `index`, sleeps, and ends with the
// stream. Returns its exit code.
int RunDrain(const std::string& runtime_dir, const std::string& channel, int counts_fd,
             size_t index);

// Loan and publish in bursts, with one subscriber stopped and with none in turn, `rounds` times.
// REQUIRES: the channel's queues have 128 places.
Pair DroppingStopped(const std::string& runtime_dir, const std::string& channel, int rounds);

// The same without waiting for anybody: the publisher's rate where it is the fastest.
Pair DroppingFlood(const std::string& runtime_dir, const std::string& channel, int rounds);

}  // namespace zerocp::bench
