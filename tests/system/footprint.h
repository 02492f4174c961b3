// What a process has of the machine, to be compared before and after.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <iterator>
#include <sstream>
#include <string>

#include "tests/system/child_process.h"

namespace zerocp::testing {

struct Footprint {
  size_t descriptors = 0;
  size_t threads = 0;
  size_t resident_bytes = 0;
};

inline Footprint FootprintOf(pid_t pid) {
  const std::string process = "/proc/" + std::to_string(pid);
  const auto entries = [](const std::string& path) {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path),
                                             std::filesystem::directory_iterator()));
  };
  std::istringstream statm(ReadFile(process + "/statm"));
  size_t total = 0;
  size_t resident = 0;
  statm >> total >> resident;
  return {entries(process + "/fd"), entries(process + "/task"),
          resident * static_cast<size_t>(getpagesize())};
}

}  // namespace zerocp::testing
