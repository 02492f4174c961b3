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
// What Stats prints of an answer; without a start time (offline) less.
int ShowStats(const v1::GetStatsResponse& response, bool json);
int Info(const DaemonOptions& options);
// kFailed also when an invariant does not hold.
int Audit(const DaemonOptions& options);

}  // namespace zerocp::cli
