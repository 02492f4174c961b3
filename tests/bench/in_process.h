// Works of one process, publisher and subscribers in it, so that nothing but the instructions is
// measured.
#pragma once

#include <vector>

#include "tests/bench/work.h"

namespace zerocp::bench {

// Publishing, and releasing the one sample, beside three locked additions to a line that nobody
// else has. Loans and takes are not counted. REQUIRES: a channel `ping`, queues of 128.
std::vector<Subject> PublishRelease(const Site& site);
// What a further subscriber costs both, beside four of them. REQUIRES: also a channel `pong`.
std::vector<Subject> FurtherSubscriber(const Site& site);

// From a loan to Share(), Open() of its handle, and the release of both samples.
std::vector<Subject> ShareOpenRelease(const Site& site);
// A loan that fails because all chunks of pool `empty`, of 8, are held.
std::vector<Subject> RefusedLoan(const Site& site);

}  // namespace zerocp::bench
