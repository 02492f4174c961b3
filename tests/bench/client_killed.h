// Loan and release while a client that holds chunks is killed every 100 ms, and its death
// recovered, beside quiet.
#pragma once

#include <string>

#include "tests/bench/report.h"
#include "tests/system/daemon_process.h"

namespace zerocp::bench {

// In other processes of this program: the one that kills, and those that are killed.
int RunKiller(const std::string& runtime_dir, const std::string& pool, int counts_fd);
int RunKilled(const std::string& runtime_dir, const std::string& pool, int counts_fd);

Pair ClientKilled(const testing::DaemonProcess& daemon, const std::string& pool, int rounds);

}  // namespace zerocp::bench
