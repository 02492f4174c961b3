// A stream between two processes while their daemon is dead, beside the same stream with it.
#pragma once

#include <string>

#include "tests/bench/report.h"
#include "tests/system/daemon_process.h"

namespace zerocp::bench {

// The taking process: says in counter 0 how far it is. Returns its exit code.
int RunSink(const std::string& runtime_dir, const std::string& channel, int counts_fd);

// Kills the daemon and starts it again `rounds` times, with a round of the stream before and after
// each.
Pair DaemonDead(testing::DaemonProcess& daemon, const std::string& channel, int rounds);

}  // namespace zerocp::bench
