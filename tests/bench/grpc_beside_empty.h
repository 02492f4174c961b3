// The daemon's RPCs, and an attach, beside an RPC to a server that does nothing.
#pragma once

#include <string>

#include "tests/bench/report.h"
#include "tests/system/daemon_process.h"

namespace zerocp::bench {

// The process of the empty server: ObserverService.GetServerInfo on a Unix socket, answered at once
// with an empty message. Ends by a signal.
int RunEmptyServer(const std::string& socket);

// Medians of some calls of each in turn, `rounds` times.
Pair GetStats(const testing::DaemonProcess& daemon, int rounds);
Pair CreateSession(const testing::DaemonProcess& daemon, int rounds);
// From Client::Connect to the first chunk of `pool`, beside two calls of the empty server.
Pair AttachToLoan(const testing::DaemonProcess& daemon, const std::string& pool, int rounds);

}  // namespace zerocp::bench
