// What limits the memory of a daemon in a container.
#include "shm/memory_budget.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace zerocp::shm {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// A /proc and a /sys of our own: 1 GiB is available but for what the cgroups say.
class MemoryBudgetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/zerocp-budget.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    root_ = name;
    Write("/proc/meminfo", "MemTotal: 4194304 kB\nMemFree: 1 kB\nMemAvailable: 1048576 kB\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void Group2(const std::string& path, const std::string& most, uint64_t now, uint64_t cache) {
    Write("/sys/fs/cgroup" + path + "/memory.max", most + "\n");
    Write("/sys/fs/cgroup" + path + "/memory.current", std::to_string(now) + "\n");
    Write("/sys/fs/cgroup" + path + "/memory.stat",
          "anon 5\nfile 77\ninactive_file " + std::to_string(cache) + "\nactive_file 3\n");
  }
  void ExpectAvailable(uint64_t bytes, uint64_t kept, const std::string& limited_by) {
    const MemoryBudget budget = AvailableMemory(root_ + "/no-file-system", root_);
    EXPECT_EQ(budget.available_bytes, bytes);
    EXPECT_EQ(budget.limited_by,
              limited_by + ", " + std::to_string(kept) + " bytes are kept for processes");
  }

  std::string root_;
};

TEST_F(MemoryBudgetTest, WithoutALimitItIsWhatTheMachineHas) {
  ExpectAvailable(960 * kMiB, 64 * kMiB, "MemAvailable");
  Write("/proc/self/cgroup", "0::/a\n");
  Group2("/a", "max", 7, 0);
  ExpectAvailable(960 * kMiB, 64 * kMiB, "MemAvailable");
}

TEST_F(MemoryBudgetTest, TheTightestGroupOnTheWayUpCounts) {
  Write("/proc/self/cgroup", "0::/a/b\n");
  Group2("/a/b", std::to_string(500 * kMiB), 100 * kMiB, 0);
  Group2("/a", std::to_string(300 * kMiB), 100 * kMiB, 0);
  ExpectAvailable(200 * kMiB - 300 * kMiB / 8, 300 * kMiB / 8,
                  "memory cgroup " + root_ + "/sys/fs/cgroup/a");
}

TEST_F(MemoryBudgetTest, AContainerSeesItsGroupAsTheRoot) {
  Write("/proc/self/cgroup", "0::/\n");
  Group2("", std::to_string(64 * kMiB), 4 * kMiB, 0);
  ExpectAvailable(52 * kMiB, 8 * kMiB, "memory cgroup " + root_ + "/sys/fs/cgroup");
}

TEST_F(MemoryBudgetTest, PageCacheThatCanBeDroppedIsAvailable) {
  Write("/proc/self/cgroup", "0::/\n");
  Group2("", std::to_string(64 * kMiB), 64 * kMiB, 50 * kMiB);
  ExpectAvailable(42 * kMiB, 8 * kMiB, "memory cgroup " + root_ + "/sys/fs/cgroup");
}

TEST_F(MemoryBudgetTest, AGroupOverItsLimitLeavesNothing) {
  Write("/proc/self/cgroup", "0::/\n");
  Group2("", std::to_string(64 * kMiB), 65 * kMiB, 0);
  ExpectAvailable(0, 8 * kMiB, "memory cgroup " + root_ + "/sys/fs/cgroup");
}

// The group's name is the host's, and only the root of the hierarchy is mounted.
TEST_F(MemoryBudgetTest, AContainerOfTheFirstCgroupVersion) {
  Write("/proc/self/cgroup", "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", std::to_string(64 * kMiB));
  Write("/sys/fs/cgroup/memory/memory.usage_in_bytes", std::to_string(60 * kMiB));
  Write("/sys/fs/cgroup/memory/memory.stat",
        "inactive_file 1\ntotal_inactive_file " + std::to_string(20 * kMiB) + "\n");
  ExpectAvailable(16 * kMiB, 8 * kMiB, "memory cgroup " + root_ + "/sys/fs/cgroup/memory");
}

}  // namespace
}  // namespace zerocp::shm
