// `zerocp events`: what happened to the daemon's pools, channels and sessions, and what happens.
#pragma once

#include <cstdint>
#include <optional>

#include "client/cli/daemon_connection.h"

namespace zerocp::cli {

struct EventsOptions {
  int64_t after = 0;              // number of the last event that is known
  std::optional<double> since_s;  // only what happened in the last so many seconds
  bool follow = false;
};

// Prints an event per line on standard output, and between them where some are missing; with
// json or yaml a WatchEventsResponse per line, and what is missing on standard error. Returns the
// exit code; following ends with kDone at SIGINT and SIGTERM, with kNotReachable when the daemon
// goes.
int Events(const DaemonOptions& daemon, const EventsOptions& options);

}  // namespace zerocp::cli
