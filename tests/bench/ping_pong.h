// Ping-pong of a message between two processes that poll, over zerocp and over the floor.
#pragma once

#include <string>

#include "tests/bench/report.h"

namespace zerocp::bench {

// The second process: connects to the daemon at `runtime_dir`, then plays the roles that the memory
// behind `shared_fd` names. Returns its exit code.
int RunPeer(const std::string& runtime_dir, int shared_fd);

// Measures both subjects in turn, `rounds` times `round_trips` each.
Pair PingPong(const std::string& runtime_dir, int rounds, int round_trips);

}  // namespace zerocp::bench
