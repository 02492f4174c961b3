// A publisher to twelve subscribers of a channel that drops, with one of them stopped or none.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tests/bench/work.h"

namespace zerocp::bench {

// A subscriber's process: takes all there is, says so in counter `index`, sleeps, and ends with the
// stream. Returns its exit code.
int RunDrain(const std::string& runtime_dir, const std::string& channel, int counts_fd,
             size_t index);

// Loan and publish in bursts. REQUIRES: a channel `drop` whose queues have 128 places.
std::vector<Subject> DroppingStopped(const Site& site);

// The same without waiting for anybody: the publisher's rate where it is the fastest.
std::vector<Subject> DroppingFlood(const Site& site);

}  // namespace zerocp::bench
