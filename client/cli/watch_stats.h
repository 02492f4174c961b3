// `zerocp stats --watch`.
#pragma once

#include "client/cli/daemon_connection.h"

namespace zerocp::cli {

// What `zerocp stats` prints, again every `interval_s` seconds, under the time of the numbers; in
// json a WatchStatsResponse per line, in yaml a document each. Ends with kDone at SIGINT and
// SIGTERM, with kNotReachable when the daemon goes.
int WatchStats(const DaemonOptions& options, double interval_s);

}  // namespace zerocp::cli
