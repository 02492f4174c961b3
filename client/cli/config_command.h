// zerocp config: the configuration of the daemon as a whole.
#pragma once

#include <string>

#include "client/cli/daemon_connection.h"

namespace zerocp::cli {

// The exit status of `zerocp config diff`, when something would change.
inline constexpr int kDiffers = 3;

struct ConfigOptions {
  std::string file;  // of apply and diff; "-": standard input
  bool validate_only = false;
  bool allow_deletion = false;
  bool persist = false;
};

// The configuration in force on standard output, as a file that can be applied; on standard error
// in what it differs from the daemon's file.
int GetConfig(const DaemonOptions& daemon);
// Prints what `zerocp config apply --allow-deletion` would change. kDone: nothing, kDiffers:
// something; kFailed also without a daemon.
int DiffConfig(const DaemonOptions& daemon, const ConfigOptions& options);
int ApplyConfig(const DaemonOptions& daemon, const ConfigOptions& options);
int ReloadConfig(const DaemonOptions& daemon, const ConfigOptions& options);

}  // namespace zerocp::cli
