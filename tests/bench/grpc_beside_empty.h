// The daemon's RPCs, and an attach, beside an RPC to a server that does nothing.
#pragma once

#include <string>
#include <vector>

#include "tests/bench/work.h"

namespace zerocp::bench {

// The process of the empty server: ObserverService.GetServerInfo on a Unix socket, answered at once
// with an empty message. Ends by a signal.
int RunEmptyServer(const std::string& socket);

// Medians of some calls.
std::vector<Subject> GetStats(const Site& site);
std::vector<Subject> CreateSession(const Site& site);
// From Client::Connect to the first chunk of pool `bench`, beside two calls of the empty server.
std::vector<Subject> AttachToLoan(const Site& site);

}  // namespace zerocp::bench
