// Clients with little: locked memory, address space.
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

constexpr rlim_t kMiB = 1 << 20;

// Bytes of address space that this process has now.
rlim_t MappedBytes() {
  const std::string pages = testing::ReadFile("/proc/self/statm");
  return std::stoull(pages) * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
}

void Limit(int resource, rlim_t bytes) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) _exit(10);
  limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
  if (setrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) _exit(11);
}

// Locks all that this process will map, at most `bytes`, as a user without privileges. Where less
// is allowed, less.
void LockMemory(rlim_t bytes) {
  Limit(RLIMIT_MEMLOCK, bytes);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) _exit(13);
  data[0].effective &= ~(1u << CAP_IPC_LOCK);
  if (syscall(SYS_capset, &header, data) != 0) _exit(14);
  if (mlockall(MCL_FUTURE) != 0) _exit(15);  // MCL_CURRENT only asks whether the test fits
}

// Bytes that this process has locked.
std::string LockedBytes() {
  const std::string status = testing::ReadFile("/proc/self/status");
  const size_t at = status.find("VmLck:");
  return ", " +
         (at == std::string::npos ? "" : std::to_string(std::stoull(status.substr(at + 6)) << 10));
}

std::string Nothing() { return ""; }

// What a client that lives under `prepare` says: "works" and what it notices of itself then, or the
// code and the text of its refusal.
template <class Prepare>
std::string Attach(const testing::DaemonProcess& daemon, Prepare prepare,
                   std::string (*notice)() = Nothing) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t pid = fork();
  if (pid == 0) {
    prepare();
    std::string said = "works";
    auto client = Client::Connect({.name = "small", .runtime_dir = daemon.runtime_dir()});
    if (!client) {
      said = std::string(Name(client.code())) + ": " + client.message();
    } else {
      auto subscriber = client->JoinAsSubscriber("camera");
      auto publisher = client->JoinAsPublisher("camera");
      auto loan = publisher->NewLoan(100);
      if (!loan || !publisher->Publish(*loan) || !subscriber->TryTake()) said = "does not work";
      said += notice();
    }
    const auto written = write(ends[1], said.data(), said.size());
    _exit(written == static_cast<ssize_t>(said.size()) ? 0 : 16);
  }
  close(ends[1]);
  std::string said;
  char text[1024];
  for (ssize_t size; (size = read(ends[0], text, sizeof(text))) > 0;)
    said.append(text, static_cast<size_t>(size));
  close(ends[0]);
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  return said;
}

// Super block and tables of an instance for 4,096 sessions.
constexpr rlim_t kTables = 8192 + 4098 * 128 + 1024 * 256;

const char* const kSetUp[] = {"--pool", "frames=4KiBx32", "--channel", "camera=frames"};

// The 64 GiB of addresses do not count, nor what a pool may grow to.
TEST(SmallMachine, AClientThatLocksItsMemoryLocksThePoolsThatExist) {
  const testing::DaemonProcess daemon({std::begin(kSetUp), std::end(kSetUp)});
  const std::string said = Attach(
      daemon, [] { LockMemory(8 * kMiB); }, LockedBytes);
  ASSERT_TRUE(said.starts_with("works, ")) << said;
  const rlim_t locked = std::stoull(said.substr(strlen("works, ")));
  EXPECT_GE(locked, kTables + 32 * 4096u);
  EXPECT_LE(locked, 8 * kMiB);
}

TEST(SmallMachine, AClientThatMayNotLockThePoolsIsToldHowMuchItNeeds) {
  const testing::DaemonProcess daemon({"--pool", "frames=1MiBx16", "--channel", "camera=frames"});
  const std::string said = Attach(daemon, [] { LockMemory(8 * kMiB); });
  EXPECT_TRUE(said.starts_with("LIMIT: mlockall(MCL_FUTURE) asks for all pools in locked memory, "))
      << said;
  const size_t number = said.find_first_of("0123456789");
  ASSERT_NE(number, std::string::npos) << said;
  const rlim_t needed = std::stoull(said.substr(number));
  EXPECT_GE(needed, 16 * kMiB) << said;
  EXPECT_LE(needed, 18 * kMiB) << said;
  EXPECT_NE(said.find("RLIMIT_MEMLOCK is 8388608 bytes"), std::string::npos) << said;
}

// Also one that may lock anything: what is between the pools stays no memory.
TEST(SmallMachine, AClientThatLocksItsMemoryTakesNoMoreThanWasPromised) {
  const testing::DaemonProcess daemon(
      {"--pool", "frames=4KiBx32", "--pool", "more=4KiBx32", "--channel", "camera=frames"});
  const auto chunk_memory = [&] {
    struct stat info {};
    for (const std::string& path : daemon.Segments()) {
      if (!path.ends_with("memory_chunk")) continue;
      EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
    }
    return info.st_blocks;
  };
  const blkcnt_t before = chunk_memory();
  const std::string said = Attach(daemon, [] {
    if (mlockall(MCL_FUTURE) != 0) _exit(15);
  });
  EXPECT_EQ(said, "works");
  EXPECT_GT(before, 0);
  EXPECT_EQ(chunk_memory(), before);
}

TEST(SmallMachine, AClientWithLittleAddressSpaceIsToldSo) {
  const testing::DaemonProcess daemon({std::begin(kSetUp), std::end(kSetUp)});
  const std::string said = Attach(daemon, [] { Limit(RLIMIT_AS, MappedBytes() + 1024 * kMiB); });
  EXPECT_TRUE(said.starts_with("LIMIT: ")) << said;
  EXPECT_NE(said.find("RLIMIT_AS"), std::string::npos) << said;
  EXPECT_NE(said.find("--reserve"), std::string::npos) << said;
}

}  // namespace
}  // namespace zerocp
