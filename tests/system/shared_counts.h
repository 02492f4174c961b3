// Counters that programs started by a test write and the test reads: how far each of them is.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace zerocp::testing {

class SharedCounts {
 public:
  static constexpr size_t kMaxCount = 64;

  // All 0, in memory that the programs started from now on inherit as fd().
  SharedCounts();
  // Those of the program that started this one. Both abort if the memory is not to be had.
  explicit SharedCounts(int fd);
  ~SharedCounts();
  SharedCounts(const SharedCounts&) = delete;
  SharedCounts& operator=(const SharedCounts&) = delete;

  int fd() const { return fd_; }
  // REQUIRES: index < kMaxCount.
  std::atomic<uint64_t>& operator[](size_t index) const { return (*lines_)[index].count; }

 private:
  struct alignas(64) Line {  // one writer each
    std::atomic<uint64_t> count;
  };
  int fd_;
  std::array<Line, kMaxCount>* lines_;
};

}  // namespace zerocp::testing
