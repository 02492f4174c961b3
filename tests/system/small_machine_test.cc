// Clients with little: locked memory, address space.
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
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

// What a client that lives under `prepare` says: "works", or the code and the text of its refusal.
template <class Prepare>
std::string Attach(const testing::DaemonProcess& daemon, Prepare prepare) {
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

const char* const kSetUp[] = {"--pool", "frames=4KiBx32", "--channel", "camera=frames"};

TEST(SmallMachine, AClientThatLocksItsMemoryIsToldWhatLimitsIt) {
  const testing::DaemonProcess daemon({std::begin(kSetUp), std::end(kSetUp)});
  const std::string said = Attach(daemon, [] { LockMemory(256 * kMiB); });
  EXPECT_TRUE(said.starts_with("LIMIT: ")) << said;
  EXPECT_NE(said.find("RLIMIT_MEMLOCK"), std::string::npos) << said;
  EXPECT_NE(said.find("--reserve"), std::string::npos) << said;
}

TEST(SmallMachine, WithASmallReserveAClientThatLocksItsMemoryWorks) {
  std::vector<std::string> arguments(std::begin(kSetUp), std::end(kSetUp));
  arguments.insert(arguments.end(), {"--reserve", "64MiB"});
  const testing::DaemonProcess daemon(arguments);
  rlimit allowed{};
  ASSERT_EQ(getrlimit(RLIMIT_MEMLOCK, &allowed), 0);
  const std::string said = Attach(daemon, [] { LockMemory(2048 * kMiB); });
  if (allowed.rlim_max >= 2048 * kMiB) {
    EXPECT_EQ(said, "works");
  } else {  // a container's limit: then with the numbers of the small reserve
    EXPECT_TRUE(said.starts_with("LIMIT: cannot map 1073741824 bytes")) << said;
  }
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
