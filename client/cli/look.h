// `zerocp tap` and `zerocp hz`: what goes through a channel, without being in anybody's way.
//
// Both join as lossy subscribers with a queue of one message: a publisher never waits for them,
// whatever they do, also on a channel that waits. What they keep of the pool is a message of each
// publisher and the one that is looked at. They count as subscribers: a sender that waits for one
// begins.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "client/cli/render.h"

namespace zerocp::cli {

struct LookOptions {
  std::string runtime_dir;
  std::string channel;
  Format format = Format::kTable;
  std::optional<uint64_t> count;    // end after so many messages (tap) or lines (hz)
  std::optional<double> timeout_s;  // tap: for one message; unset: for ever
  uint32_t shown_bytes = 16;        // tap: of each message
  double interval_s = 1;            // hz: of a line
};

// A line per message: time, number, size, first bytes; and one for those that came faster than they
// were shown. In json and yaml an object per line. kDone at SIGINT and SIGTERM.
int Tap(const LookOptions& options);

// A line per interval: messages and bytes per second, sizes, times between messages. What came
// faster than it was taken is in the rate, too. kDone at SIGINT and SIGTERM.
int Hz(const LookOptions& options);

}  // namespace zerocp::cli
