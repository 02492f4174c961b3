// When a client lets go of the memory, and what forks, a dead daemon and exec leave it with.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

using std::chrono::milliseconds;

bool IsMapped() {
  return testing::ReadFile("/proc/self/maps").find("memory_chunk") != std::string::npos;
}

class ClientLifetime : public ::testing::Test {
 protected:
  Client Connect(const std::string& name) {
    auto client = Client::Connect({.name = name, .runtime_dir = daemon_.runtime_dir()});
    EXPECT_TRUE(client) << client.message();
    return std::move(*client);
  }
  bool HasSession(const std::string& name) {
    return testing::RunCommand(daemon_.Command({"sessions"})).output.find(" " + name + " ") !=
           std::string::npos;
  }
  // The sample of a message of one byte; whatever made it is gone.
  Sample Orphan(const std::string& name, char byte) {
    Client client = Connect(name);
    auto subscriber = client.JoinAsSubscriber("camera");
    auto publisher = client.JoinAsPublisher("camera");
    auto loan = publisher->NewLoan(1);
    loan->data()[0] = static_cast<std::byte>(byte);
    EXPECT_TRUE(publisher->Publish(*loan));
    return std::move(*subscriber->TryTake());
  }

  testing::DaemonProcess daemon_{
      {"--pool", "frames=4KiBx32", "--channel", "camera=frames,queue=4"}};
};

TEST_F(ClientLifetime, ClosedClientIsDetachedAndUnmapped) {
  {
    Client client = Connect("short-lived");
    EXPECT_TRUE(IsMapped());
    EXPECT_TRUE(HasSession("short-lived"));
  }
  EXPECT_FALSE(IsMapped());
  EXPECT_FALSE(HasSession("short-lived"));
}

TEST_F(ClientLifetime, SampleKeepsTheMemoryUntilItIsReleased) {
  {
    Sample sample = Orphan("outlived", 'x');
    EXPECT_TRUE(HasSession("outlived"));
    EXPECT_EQ(sample.data()[0], static_cast<std::byte>('x'));
  }
  EXPECT_FALSE(IsMapped());
  EXPECT_FALSE(HasSession("outlived"));
}

TEST_F(ClientLifetime, LoanKeepsTheMemoryAndCanBeShared) {
  Loan loan = std::move(*Connect("loaner").NewLoan("frames", 8));
  std::memset(loan.data().data(), 1, 8);
  auto sample = std::move(loan).Share();
  ASSERT_TRUE(sample) << sample.message();
  EXPECT_TRUE(sample->handle());
  EXPECT_TRUE(HasSession("loaner"));
  *sample = Sample();
  EXPECT_FALSE(HasSession("loaner"));
}

TEST_F(ClientLifetime, AnotherThreadMayReleaseTheLastSample) {
  Sample sample = Orphan("handed-over", 'y');
  std::thread([sample = std::move(sample)] {}).join();
  EXPECT_FALSE(HasSession("handed-over"));
  EXPECT_FALSE(IsMapped());
}

TEST_F(ClientLifetime, ReleasesThatRaceWithTheCloseDetachExactlyOnce) {
  for (int round = 0; round < 200; ++round) {
    Client client = Connect("racer");
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
      auto loan = client.NewLoan("frames", 1);
      ASSERT_TRUE(loan) << loan.message();
      threads.emplace_back([loan = std::move(*loan)]() mutable { loan = Loan(); });
    }
    client = Client();
    for (std::thread& thread : threads) thread.join();
    ASSERT_FALSE(IsMapped()) << round;
  }
  EXPECT_FALSE(HasSession("racer"));
}

TEST_F(ClientLifetime, ProcessKeepsOneDescriptorThatExecCloses) {
  Client client = Connect("frugal");
  int sockets = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(entry.path(), error);
    EXPECT_EQ(target.find("memory_"), std::string::npos) << target;
    if (!target.starts_with("socket:")) continue;
    ++sockets;
    EXPECT_NE(fcntl(std::stoi(entry.path().filename()), F_GETFD) & FD_CLOEXEC, 0);
  }
  EXPECT_EQ(sockets, 1);
}

// Runs `child` in a fork, which ends by exit() so that all destructors run. Returns its status.
template <class Child>
int InFork(Child child) {
  const pid_t pid = fork();
  if (pid == 0) {
    const bool good = child();
    std::fflush(stderr);
    exit(good ? 0 : 1);
  }
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

TEST_F(ClientLifetime, ChildOfAForkIsRefusedAndHarmsNothing) {
  Client client = Connect("parent");
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  auto loan = publisher->NewLoan(4);
  ASSERT_TRUE(loan);
  const int status = InFork([&] {
    auto another = publisher->NewLoan(4);
    const bool told = another.message().find("connect again after fork") != std::string::npos;
    const bool refused = another.code() == Code::kUnavailable &&
                         publisher->Publish(*loan).code() == Code::kUnavailable &&
                         subscriber->Wait().code() == Code::kUnavailable &&
                         publisher->WaitForSubscribers(1).code() == Code::kUnavailable &&
                         client.NewLoan("frames", 1).code() == Code::kUnavailable &&
                         client.JoinAsPublisher("camera").code() == Code::kUnavailable &&
                         std::move(*loan).Share().code() == Code::kUnavailable;
    *loan = Loan();
    *publisher = Publisher();
    *subscriber = Subscriber();
    client = Client();
    return told && refused;
  });
  EXPECT_EQ(status, 0);
  ASSERT_TRUE(publisher->Publish(*loan));
  EXPECT_TRUE(subscriber->TryTake());
  EXPECT_TRUE(HasSession("parent"));
}

TEST_F(ClientLifetime, ChildOfAForkMayConnectAgain) {
  Client client = Connect("parent");
  EXPECT_TRUE(client.NewLoan("frames", 1));
  const int status = InFork([&] {
    auto own = Client::Connect({.name = "child", .runtime_dir = daemon_.runtime_dir()});
    auto loan = own->NewLoan("frames", 1);
    return own && loan && client.NewLoan("frames", 1).code() == Code::kUnavailable;
  });
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(client.NewLoan("frames", 1));
}

// What a process holds when it ends in another way than by closing all of it: each in a child with
// a connection of its own.
class ProcessEnd : public ClientLifetime {
 protected:
  // In a child: attaches, takes a sample of its own message, keeps a loan, a thread's cached chunks
  // and both ports, then calls `end`.
  template <class End>
  pid_t Spawn(End end) {
    const pid_t pid = fork();
    if (pid != 0) return pid;
    auto client = Client::Connect({.name = "ending", .runtime_dir = daemon_.runtime_dir()});
    auto subscriber = client->JoinAsSubscriber("camera");
    auto publisher = client->JoinAsPublisher("camera");
    auto sent = publisher->NewLoan(1);
    if (!publisher->Publish(*sent)) _exit(2);
    auto sample = subscriber->TryTake();
    auto loan = client->NewLoan("frames", 1);
    std::thread([&] { (void)client->NewLoan("frames", 1); }).join();
    if (!sample || !loan) _exit(3);
    end();
    _exit(4);
  }
  void WaitUntilRecovered() {
    while (HasSession("ending")) std::this_thread::sleep_for(milliseconds(2));
    const std::string stats = testing::RunCommand(daemon_.Command({"stats", "-o", "json"})).output;
    EXPECT_NE(stats.find("\"free_chunk_count\": \"32\""), std::string::npos) << stats;
    EXPECT_NE(stats.find("\"publisher_count\": 0"), std::string::npos) << stats;
    EXPECT_EQ(stats.find("\"subscriber\":"), std::string::npos) << stats;
    const testing::Ran audit = testing::RunCommand(daemon_.Command({"audit"}));
    EXPECT_EQ(audit.exit_code, 0) << audit.output;
  }
};

TEST_F(ProcessEnd, ExitWithHeldSamplesAndWithoutACloseIsRecovered) {
  int status = -1;
  const pid_t child = Spawn([] { _exit(0); });
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  WaitUntilRecovered();
}

TEST_F(ProcessEnd, ExecEndsTheSessionWhileTheProcessLives) {
  const pid_t child = Spawn([] { execl("/bin/sleep", "sleep", "1000", nullptr); });
  while (daemon_.Log().find("\"ending\"") == std::string::npos) {
    std::this_thread::sleep_for(milliseconds(2));
  }
  WaitUntilRecovered();
  EXPECT_EQ(waitpid(child, nullptr, WNOHANG), 0);  // it lives
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

TEST_F(ClientLifetime, ChunksInTheCacheOfAThreadAreFreeWhenItEnds) {
  Client client = Connect("threads");
  std::thread([&] {
    std::vector<Loan> loans;
    for (int i = 0; i < 32; ++i) {
      auto loan = client.NewLoan("frames", 1, milliseconds(10'000));
      ASSERT_TRUE(loan) << loan.message();
      loans.push_back(std::move(*loan));
    }
  }).join();
  const std::string stats = testing::RunCommand(daemon_.Command({"stats", "-o", "json"})).output;
  EXPECT_NE(stats.find("\"free_chunk_count\": \"32\""), std::string::npos) << stats;
}

TEST_F(ClientLifetime, DataFlowsOnWithoutTheDaemonAndDestructorsDoNotHang) {
  Client client = Connect("survivor");
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  daemon_.Stop(SIGKILL);
  for (int i = 0; i < 100; ++i) {
    auto loan = publisher->NewLoan(1);
    ASSERT_TRUE(loan) << loan.message();
    ASSERT_TRUE(publisher->Publish(*loan));
    ASSERT_TRUE(subscriber->TryTake());
  }
  auto late = client.JoinAsPublisher("camera");
  EXPECT_EQ(late.code(), Code::kUnavailable);
  EXPECT_NE(late.message().find("the next call tries again"), std::string::npos) << late.message();
  EXPECT_EQ(client.state(), Code::kUnavailable);
  *publisher = Publisher();
  *subscriber = Subscriber();
  client = Client();
  EXPECT_FALSE(IsMapped());
  daemon_.Start();
}

}  // namespace
}  // namespace zerocp
