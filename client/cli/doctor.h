// `zerocp doctor`: whether this machine lets a daemon and its clients work, and what to change.
#pragma once

#include <string>

#include "client/cli/daemon_connection.h"

namespace zerocp::cli {

// Prints the findings. kDone: nothing has to be changed, whether a daemon answers or not; kFailed:
// something has to.
int Doctor(const DaemonOptions& daemon, const std::string& segment_dir);

}  // namespace zerocp::cli
