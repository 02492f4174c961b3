// `zerocp send`: a file or standard input into a channel.
//
// Each read(2) goes straight into a chunk, as many bytes as it has; what it returned is a message.
// Of a regular file every chunk but the last is full; of a pipe each message is what was there.
#pragma once

#include <optional>
#include <string>

namespace zerocp::cli {

struct SendOptions {
  std::string runtime_dir;
  std::string channel;
  std::string file;                 // empty or "-": standard input
  bool no_wait = false;             // for a subscriber
  std::optional<double> timeout_s;  // for a subscriber, a free chunk, or room; none: for ever
};

// Returns the exit code.
int Send(const SendOptions& options);

}  // namespace zerocp::cli
