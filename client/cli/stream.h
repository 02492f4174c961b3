// What send and recv have in common.
#pragma once

#include <zerocp/zerocp.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace zerocp::cli {

// A signal is noticed within this time while a call waits.
inline constexpr std::chrono::milliseconds kSlice{200};

// Counts what goes through.
class Meter {
 public:
  // The clock runs from the first call on.
  void Start() {
    if (!start_) start_ = std::chrono::steady_clock::now();
  }
  void Add(uint64_t bytes) {
    ++chunk_count_;
    byte_count_ += bytes;
  }
  uint64_t byte_count() const { return byte_count_; }
  uint64_t chunk_count() const { return chunk_count_; }
  // "send: 268435456 bytes in 256 chunks, 0.071 s, 3.521 GiB/s", on standard error.
  void Report(const char* command) const;

 private:
  std::optional<std::chrono::steady_clock::time_point> start_;
  uint64_t byte_count_ = 0;
  uint64_t chunk_count_ = 0;
};

// The end of a wait, if it has one.
class WaitLimit {
 public:
  explicit WaitLimit(std::optional<double> seconds);
  bool Passed() const { return end_ && std::chrono::steady_clock::now() >= *end_; }

 private:
  std::optional<std::chrono::steady_clock::time_point> end_;
};

// Prints "zerocp <command>: <what>" on standard error; returns kFailed.
int Failed(const char* command, const std::string& what);

// Connects, `read_only` or not, or prints why not and sets `exit_code`.
std::optional<Client> ConnectOrSay(const char* command, const std::string& runtime_dir,
                                   bool read_only, int* exit_code);

}  // namespace zerocp::cli
