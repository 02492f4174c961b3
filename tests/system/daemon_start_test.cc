// Starting and stopping zerocpd: one daemon per instance, whatever happens around it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "shm/layout.h"
#include "shm/memory_budget.h"
#include "tests/system/daemon_process.h"

namespace zerocp::testing {
namespace {

std::unique_ptr<ChildProcess> StartDaemon(const std::string& runtime_dir, const std::string& log,
                                          const std::vector<std::string>& arguments = {}) {
  ChildOptions options;
  options.command = {BinDir() + "/zerocpd", "--runtime-dir", runtime_dir, "--pool", "p=4KiBx16"};
  options.command.insert(options.command.end(), arguments.begin(), arguments.end());
  options.error = log;
  return std::make_unique<ChildProcess>(options);
}

// Waits until one of the two holds; ctest's time limit is the watchdog.
template <class Condition>
void WaitUntil(Condition condition) {
  while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Some seconds' worth of memory, and no more than half of what there is.
TEST(DaemonStartTest, AStopEndsAStartThatReservesMemory) {
  TempDir dir;
  const std::string log = dir.path() + "/log";
  const uint64_t bytes =
      std::min(shm::AvailableMemory("/dev/shm").available_bytes / 2, uint64_t{8} << 30);
  auto daemon = StartDaemon(
      dir.path() + "/run", log,
      {"--instance", "stopped-start", "--pool", "big=1MiBx" + std::to_string(bytes >> 20)});
  WaitUntil([&] { return Contains(ReadFile(log), " starts in "); });
  daemon->Signal(SIGTERM);
  EXPECT_EQ(daemon->Wait(), 0) << ReadFile(log);
  EXPECT_TRUE(Contains(ReadFile(log), "stopped before it was ready")) << ReadFile(log);
  EXPECT_FALSE(Contains(ReadFile(log), "critical")) << ReadFile(log);
  for (const char* name : {"admin.sock", "client.sock"})
    EXPECT_FALSE(std::filesystem::exists(dir.path() + "/run/" + name)) << name;
}

TEST(DaemonStartTest, TwentyStartsAtOnceGiveOneDaemon) {
  constexpr int kStarts = 20;
  TempDir dir;
  const std::string runtime_dir = dir.path() + "/run";
  std::vector<std::unique_ptr<ChildProcess>> daemons;
  for (int i = 0; i < kStarts; ++i) {
    daemons.push_back(StartDaemon(runtime_dir, dir.path() + "/log" + std::to_string(i)));
  }
  const auto running = [&] {
    int count = 0;
    for (auto& daemon : daemons) count += daemon->Running();
    return count;
  };
  WaitUntil([&] { return running() <= 1; });
  ASSERT_EQ(running(), 1);
  for (int i = 0; i < kStarts; ++i) {
    const std::string log = dir.path() + "/log" + std::to_string(i);
    if (daemons[i]->Running()) {
      WaitUntil([&] { return Contains(ReadFile(log), "ready:"); });
      daemons[i]->Signal(SIGTERM);
      EXPECT_EQ(daemons[i]->Wait(), 0) << ReadFile(log);
    } else {
      EXPECT_EQ(daemons[i]->Wait(), 3) << ReadFile(log);
    }
  }
}

TEST(DaemonStartTest, ASecondRuntimeDirectoryNeverTouchesTheFirstOnesSegments) {
  DaemonProcess first;
  const std::vector<std::string> before = first.Segments();
  ASSERT_EQ(before.size(), 2u);
  {
    DaemonProcess second;
    EXPECT_NE(second.Segments(), before);
    EXPECT_EQ(second.Stop(SIGTERM), 0);
    EXPECT_TRUE(second.Segments().empty());
  }
  EXPECT_EQ(first.Segments(), before);
  EXPECT_EQ(RunCommand(first.Command({"audit"})).exit_code, 0);
}

TEST(DaemonStartTest, CleanupRemovesWhatADeadDaemonLeftAndNothingOfALivingOne) {
  DaemonProcess daemon;
  const std::vector<std::string> cleanup = {BinDir() + "/zerocpd", "--cleanup", "--runtime-dir",
                                            daemon.runtime_dir()};
  const Ran refused = RunCommand(cleanup);
  EXPECT_EQ(refused.exit_code, 3) << refused.output << refused.error;
  EXPECT_EQ(daemon.Segments().size(), 2u);
  daemon.Stop(SIGKILL);
  EXPECT_EQ(daemon.Segments().size(), 2u);
  const Ran removed = RunCommand(cleanup);
  EXPECT_EQ(removed.exit_code, 0) << removed.output << removed.error;
  EXPECT_TRUE(daemon.Segments().empty());
  EXPECT_TRUE(Contains(removed.output + removed.error, "_memory_management"))
      << removed.output << removed.error;
  const Ran again = RunCommand(cleanup);
  EXPECT_EQ(again.exit_code, 0) << again.error;  // nothing to do is no failure
}

TEST(DaemonStartTest, AfterAKillTheNextStartAdoptsPoolsAndChannels) {
  DaemonProcess daemon({"--pool", "a=4KiBx16", "--channel", "c=a"});
  daemon.Stop(SIGKILL);
  daemon.Start();
  const Ran pools = RunCommand(daemon.Command({"pools"}));
  EXPECT_TRUE(Contains(pools.output, "a ")) << pools.output;
  EXPECT_EQ(RunCommand(daemon.Command({"audit"})).exit_code, 0);
  EXPECT_TRUE(Contains(daemon.Log(), "adopt")) << daemon.Log();
  EXPECT_EQ(daemon.Stop(SIGTERM), 0);
  EXPECT_TRUE(daemon.Segments().empty());
}

TEST(DaemonStartTest, AForeignFileOnASegmentsNameIsReportedAndLeftAlone) {
  TempDir dir;
  const std::string instance = "squat-" + std::to_string(getpid());
  const std::string squatter = "/dev/shm/zerocp_" + instance + "_memory_chunk";
  WriteFile(squatter, "not yours");
  auto daemon = StartDaemon(dir.path() + "/run", dir.path() + "/log", {"--instance", instance});
  EXPECT_NE(daemon->Wait(), 0);
  EXPECT_TRUE(Contains(ReadFile(dir.path() + "/log"), squatter)) << ReadFile(dir.path() + "/log");
  EXPECT_EQ(ReadFile(squatter), "not yours");
  EXPECT_FALSE(std::filesystem::exists("/dev/shm/zerocp_" + instance + "_memory_management"));
  std::filesystem::remove(squatter);
}

TEST(DaemonStartTest, ASegmentOfAnotherUserIsNeverTouched) {
  if (geteuid() != 0) return;  // only root can make one; the rule is the same for everybody
  TempDir dir;
  const std::string instance = "other-" + std::to_string(getpid());
  const std::string theirs = "/dev/shm/zerocp_" + instance + "_memory_management";
  WriteFile(theirs, std::string(8192, 'x'));
  ASSERT_EQ(chmod(theirs.c_str(), 0600), 0);
  ASSERT_EQ(chown(theirs.c_str(), 12345, 12345), 0);
  auto daemon = StartDaemon(dir.path() + "/run", dir.path() + "/log", {"--instance", instance});
  EXPECT_NE(daemon->Wait(), 0);
  EXPECT_TRUE(Contains(ReadFile(dir.path() + "/log"), "12345")) << ReadFile(dir.path() + "/log");
  EXPECT_EQ(ReadFile(theirs), std::string(8192, 'x'));
  std::filesystem::remove(theirs);
}

TEST(DaemonStartTest, SegmentsOfAnotherLayoutAreRefusedByNameOfBothVersions) {
  DaemonProcess daemon;
  daemon.Stop(SIGKILL);
  for (const std::string& name : daemon.Segments()) {
    if (!Contains(name, "management")) continue;
    const int fd = open(name.c_str(), O_RDWR | O_CLOEXEC);
    const uint32_t version = 77;
    ASSERT_EQ(pwrite(fd, &version, sizeof(version), 8), static_cast<ssize_t>(sizeof(version)));
    close(fd);
  }
  TempDir dir;
  auto next = StartDaemon(daemon.runtime_dir(), dir.path() + "/log");
  EXPECT_EQ(next->Wait(), 1);
  const std::string log = ReadFile(dir.path() + "/log");
  const std::string ours = "version " + std::to_string(shm::kLayoutVersion);
  EXPECT_TRUE(Contains(log, "version 77") && Contains(log, ours) && Contains(log, "--cleanup"))
      << log;
  EXPECT_EQ(RunCommand({BinDir() + "/zerocpd", "--cleanup", "--runtime-dir", daemon.runtime_dir()})
                .exit_code,
            0);
}

TEST(DaemonStartTest, OnStopKeepAndUnlinkDoWhatTheySay) {
  TempDir dir;
  const std::string instance = "stop-" + std::to_string(getpid());
  const std::string segment = "/dev/shm/zerocp_" + instance + "_memory_management";
  for (const char* mode : {"keep", "unlink"}) {
    const std::string log = dir.path() + "/" + mode;
    auto daemon = StartDaemon(dir.path() + "/run", log,
                              {"--instance", instance, std::string("--on-stop=") + mode});
    WaitUntil([&] { return Contains(ReadFile(log), "ready:"); });
    daemon->Signal(SIGINT);
    EXPECT_EQ(daemon->Wait(), 0);
    EXPECT_EQ(std::filesystem::exists(segment), std::string(mode) == "keep") << mode;
    EXPECT_TRUE(Contains(ReadFile(log), "_memory_management")) << ReadFile(log);
  }
}

}  // namespace
}  // namespace zerocp::testing
