// zerocp config: the configuration of the daemon as a whole.
#pragma once

#include <string>

#include "client/cli/daemon_command.h"

namespace zerocp::cli {

struct ConfigOptions {
  std::string file;  // of apply; "-": standard input
  bool validate_only = false;
  bool allow_deletion = false;
  bool persist = false;
};

// The configuration in force on standard output, as a file that can be applied; on standard error
// in what it differs from the daemon's file.
int GetConfig(const DaemonOptions& daemon);
int ApplyConfig(const DaemonOptions& daemon, const ConfigOptions& options);
int ReloadConfig(const DaemonOptions& daemon, const ConfigOptions& options);

}  // namespace zerocp::cli
