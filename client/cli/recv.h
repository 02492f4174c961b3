// `zerocp recv`: a channel into a file, standard output, or a digest.
//
// Each message is written by one write(2) straight from its chunk, or hashed at its address.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace zerocp::cli {

struct RecvOptions {
  std::string runtime_dir;
  std::string channel;
  std::string output;               // empty: standard output, unless sha256; "-": standard output
  bool lossy = false;               // lose messages instead of making senders wait
  bool sha256 = false;              // print the digest of all bytes
  bool verify_in_place = false;     // prove that the bytes read lie in the chunk segment's mapping
  std::optional<uint64_t> count;    // stop after so many messages
  std::optional<double> timeout_s;  // for one message; none: for ever
};

// Returns the exit code.
int Recv(const RecvOptions& options);

}  // namespace zerocp::cli
