// `zerocp stats --offline`: the numbers of an instance straight from its segments, without the
// daemon, whether it lives or not.
//
// Reads a private copy of the management segment (MemPoolManager::Inspect), checked as an adopting
// daemon checks it: whatever the bytes are and whatever happens to the files meanwhile, nothing
// faults, loops end, and nothing is written. The copy takes as much memory as the segment.
#pragma once

#include <optional>
#include <string>

#include "client/cli/render.h"

namespace zerocp::cli {

// Exit statuses beside those of exit_code.h; part of the documentation.
enum OfflineExitCode : int {
  kNoSegments = 3,  // as "no daemon answers"
  kNotPermitted = 4,
  kOtherLayout = 5,
  kDamagedSegments = 6,
};

struct OfflineOptions {
  bool offline = false;
  std::optional<std::string> instance;  // --instance; unset: by where clients look for daemons
  std::string segment_dir = "/dev/shm";
};

// Prints the numbers on standard output and returns the exit status. In json and yaml a
// GetStatsResponse, and what it has no field for on standard error.
int OfflineStats(const OfflineOptions& options, const std::string& runtime_dir, Format format);

}  // namespace zerocp::cli
