// How much memory may still be committed.
#pragma once

#include <cstdint>
#include <string>

namespace zerocp::shm {

// What may still be committed in `directory`: the least of what its file system, the memory cgroups
// of this process and MemAvailable leave. `limited_by` names which. Page cache that the kernel
// drops on demand counts as available. Of a cgroup's limit and of the machine's memory an eighth,
// at most 64 MiB, is kept for processes: without it, the first of them that needs a page more is
// killed. Other programs take memory meanwhile: whoever commits it
// still has to look whether that worked.
struct MemoryBudget {
  uint64_t available_bytes = 0;
  std::string limited_by;
};
// `root`: what stands before /proc and /sys.
MemoryBudget AvailableMemory(const std::string& directory, const std::string& root = "");

}  // namespace zerocp::shm
