// A publisher to twelve subscribers of a channel that drops, one of them stopped or none.
#pragma once

#include <string>
#include <vector>

#include "tests/bench/report.h"

namespace zerocp::bench {

// A subscriber's process: takes all there is, sleeps, and ends with the stream. Returns its exit
// code.
int RunDrain(const std::string& runtime_dir, const std::string& channel);

// Loan and publish in bursts that the queues hold, with all subscribers taking between them and
// with one that is stopped: `runs` samples each, in turn.
std::vector<Series> DroppingStopped(const std::string& runtime_dir, const std::string& channel,
                                    int runs, int bursts);

}  // namespace zerocp::bench
