// Loans and releases while many callers watch the daemon's statistics.
#pragma once

#include <string>
#include <vector>

#include "tests/bench/work.h"

namespace zerocp::bench {

// The watchers' process: 64 streams of WatchStats at 100 ms, each of which counts its updates in
// one of the counters. Ends by a signal, or with 1 when a stream ends.
int RunWatchers(const std::string& socket, int counts_fd);

// Loans and releases with the watchers and without them.
std::vector<Subject> Watched(const Site& site);

}  // namespace zerocp::bench
