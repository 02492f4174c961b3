// The subcommands that ask the daemon over gRPC: what it has, who is there, how it is.
#pragma once

#include <string>

namespace zerocp::v1 {
class GetStatsResponse;
}

namespace zerocp::cli {

struct DaemonOptions {
  std::string runtime_dir;
  double timeout_s = 5;  // for each answer
  bool json = false;     // else tables
};

// Each prints the answer on standard output and returns the exit code.
int Pools(const DaemonOptions& options);
int Channels(const DaemonOptions& options);
int Sessions(const DaemonOptions& options);
int Stats(const DaemonOptions& options);
// What Stats prints, again every `interval_s` seconds, under the time of the numbers; with `json` a
// WatchStatsResponse per line. Ends with kDone at SIGINT and SIGTERM, with kNotReachable when the
// daemon goes.
int WatchStats(const DaemonOptions& options, double interval_s);
// What Stats prints of an answer; without a start time (offline) less.
int ShowStats(const v1::GetStatsResponse& response, bool json);
int Info(const DaemonOptions& options);
// What is left behind; `execute`: removed, else only shown.
int Cleanup(const DaemonOptions& options, bool execute);
// kFailed also when an invariant does not hold.
int Audit(const DaemonOptions& options);

}  // namespace zerocp::cli
