// What the command's exit status says; part of its documentation.
#pragma once

namespace zerocp::cli {

enum ExitCode : int {
  kDone = 0,
  kFailed = 1,
  kUsage = 2,
  kNotReachable = 3,  // no daemon answers
  kSignal = 128,      // + number of the signal that ended it
};

}  // namespace zerocp::cli
