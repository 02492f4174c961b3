// `zerocp top`: the daemon's numbers on the whole terminal, as they change.
#pragma once

#include "client/cli/daemon_connection.h"

namespace zerocp::cli {

// Until q, SIGINT or SIGTERM: kDone. kNotReachable if no daemon answers at the start; one that goes
// later is told of, and tried again. kUsage without a terminal.
int Top(const DaemonOptions& daemon, double interval_s);

}  // namespace zerocp::cli
