// Loans and releases while many callers watch the daemon's statistics.
#pragma once

#include <string>

#include "tests/bench/report.h"
#include "tests/system/daemon_process.h"

namespace zerocp::bench {

// The watchers' process: 64 streams of WatchStats at 100 ms, each of which counts its updates in
// one of the counters. Ends by a signal, or with 1 when a stream ends.
int RunWatchers(const std::string& socket, int counts_fd);

// Batches of 1,000 loans and releases with the watchers and without them in turn, `rounds` times.
Pair Watched(const testing::DaemonProcess& daemon, const std::string& pool, int rounds);

}  // namespace zerocp::bench
