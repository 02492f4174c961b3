#include "shm/memory_budget.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <fstream>

#include "shm/mutant.h"

namespace zerocp::shm {
namespace {

constexpr uint64_t kMostKeptBytes = uint64_t{64} << 20;
// Version 1 says "no limit" by a number: 2^63 less a page.
constexpr uint64_t kNoLimit = uint64_t{1} << 62;

// A number from a one-line file; `none` if it says "max" or cannot be read.
uint64_t ReadNumber(const std::string& path, uint64_t none) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : none;
}

// Page cache of a memory cgroup that the kernel drops when the group needs the memory.
uint64_t InactiveFileBytes(const std::string& path, bool unified) {
  std::ifstream file(path + "/memory.stat");
  const std::string wanted = unified ? "inactive_file" : "total_inactive_file";
  std::string key;
  uint64_t bytes = 0;
  while (file >> key >> bytes) {
    if (key == wanted) return Mutant(43) ? 0 : bytes;
  }
  return 0;
}

void Limit(MemoryBudget& budget, uint64_t available, const std::string& by) {
  if (available < budget.available_bytes) budget = {available, by};
}

// The same for a limit of `most` that is shared with what processes need to run at all.
void LimitWithProcesses(MemoryBudget& budget, uint64_t most, uint64_t available,
                        const std::string& by) {
  const uint64_t kept = std::min(most / 8, kMostKeptBytes);
  Limit(budget, available - std::min(available, kept),
        by + ", " + std::to_string(kept) + " bytes are kept for processes");
}

void LimitByMachine(MemoryBudget& budget, const std::string& root) {
  std::ifstream file(root + "/proc/meminfo");
  std::string key;
  uint64_t kib = 0, total_kib = 0;
  while (file >> key >> kib) {
    if (key == "MemTotal:") total_kib = kib;
    if (key == "MemAvailable:")
      return LimitWithProcesses(budget, total_kib << 10, kib << 10, "MemAvailable");
    file.ignore(64, '\n');
  }
}

// Every memory cgroup from this process's own up to the root, version 2 and version 1.
void LimitByCgroups(MemoryBudget& budget, const std::string& root) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && ("," + controllers + ",").find(",memory,") == std::string::npos) continue;
    const std::string top = root + (unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory");
    for (std::string group = line.substr(second + 1);; group.erase(group.rfind('/'))) {
      const std::string path = top + (group == "/" ? "" : group);
      const uint64_t most =
          ReadNumber(path + (unified ? "/memory.max" : "/memory.limit_in_bytes"), UINT64_MAX);
      if (most < kNoLimit) {
        const uint64_t now =
            ReadNumber(path + (unified ? "/memory.current" : "/memory.usage_in_bytes"), 0);
        const uint64_t used = now - std::min(now, InactiveFileBytes(path, unified));
        LimitWithProcesses(budget, most, most - std::min(most, used), "memory cgroup " + path);
      }
      if (group.empty() || group.find('/') == std::string::npos) break;
    }
  }
}

}  // namespace

MemoryBudget AvailableMemory(const std::string& directory, const std::string& root) {
  MemoryBudget budget{UINT64_MAX, "nothing"};
  struct statvfs file_system {};
  if (statvfs(directory.c_str(), &file_system) == 0) {
    Limit(budget, uint64_t{file_system.f_bavail} * file_system.f_frsize,
          "file system of " + directory);
  }
  LimitByMachine(budget, root);
  LimitByCgroups(budget, root);
  return budget;
}

}  // namespace zerocp::shm
