// A stream between two processes while their daemon is dead, beside the same stream with it.
#pragma once

#include <string>
#include <vector>

#include "tests/bench/work.h"

namespace zerocp::bench {

// The taking process: says in counter 0 how far it is. Returns its exit code.
int RunSink(const std::string& runtime_dir, const std::string& channel, int counts_fd);

// Kills the daemon and starts it again for each round.
std::vector<Subject> DaemonDead(const Site& site);

}  // namespace zerocp::bench
