// The process that dies is this program again: `--connect PATH` connects and waits to be killed;
// `--leader-exits PATH` does the same from a second thread, after its first has ended.
#include "server/death_watch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include "server/runtime_directory.h"
#include "tests/unit/server/test_instance.h"

extern char** environ;

namespace zerocp {
namespace {

using Verdict = DeathWatch::Verdict;

constexpr std::chrono::seconds kPatience{60};

bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

class Child {
 public:
  explicit Child(std::vector<std::string> arguments) {
    std::vector<char*> argv;
    argv.reserve(arguments.size() + 1);
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], nullptr, nullptr, argv.data(), environ), 0);
  }
  ~Child() {
    Signal(SIGKILL);
    Reap();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) const { kill(pid_, signal); }
  // Dead, but not reaped: a zombie.
  void WaitUntilDead() const {
    siginfo_t info{};
    EXPECT_EQ(waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT), 0);
  }
  void WaitUntilStopped() const {
    siginfo_t info{};
    EXPECT_EQ(waitid(P_PID, static_cast<id_t>(pid_), &info, WSTOPPED | WNOWAIT), 0);
  }
  void Reap() {
    if (!reaped_) waitpid(pid_, nullptr, 0);
    reaped_ = true;
  }

 private:
  pid_t pid_ = 0;
  bool reaped_ = false;
};

class DeathWatchTest : public ::testing::TestWithParam<DeathWatchMode> {
 protected:
  DeathWatchTest() {
    auto directory = RuntimeDirectory::Open(base_, RuntimeDirectory::Kind::kUser);
    auto socket = directory->Listen("s", SOCK_SEQPACKET, std::nullopt);
    listener_ = std::move(*socket);
  }
  ~DeathWatchTest() override { std::filesystem::remove_all(base_); }

  // The connection of a child that was started with base_/s.
  shm::UniqueFd Accept() {
    pollfd ready{listener_.get(), POLLIN, 0};
    EXPECT_EQ(poll(&ready, 1, 60'000), 1);
    return shm::UniqueFd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }

  const std::string base_ = NewDirectory("/tmp");
  shm::UniqueFd listener_;
};

TEST_P(DeathWatchTest, OnlyTheEndOfTheProcessIsDeath) {
  Child child({"/proc/self/exe", "--connect", base_ + "/s"});
  const shm::UniqueFd connection = Accept();
  const DeathWatch watch = DeathWatch::OfPeer(connection.get(), child.pid(), GetParam());
  EXPECT_EQ(watch.process().pid, child.pid());
  EXPECT_EQ(watch.pidfd() >= 0, GetParam() != DeathWatchMode::kHangup);
  EXPECT_EQ(watch.Examine(), Verdict::kAlive);
  child.Signal(SIGSTOP);
  child.WaitUntilStopped();
  EXPECT_EQ(watch.Examine(), Verdict::kAlive);
  child.Signal(SIGKILL);
  child.WaitUntilDead();
  EXPECT_EQ(watch.Examine(), Verdict::kDead);  // while it is a zombie
  child.Reap();
  EXPECT_EQ(watch.Examine(), Verdict::kDead);
}

TEST_P(DeathWatchTest, AProcessWhoseFirstThreadEndedLives) {
  Child child({"/proc/self/exe", "--leader-exits", base_ + "/s"});
  const shm::UniqueFd connection = Accept();
  const DeathWatch watch = DeathWatch::OfPeer(connection.get(), child.pid(), GetParam());
  ASSERT_TRUE(Eventually([&] {  // its /proc/<pid>/maps reads empty from then on
    std::ifstream maps("/proc/" + std::to_string(child.pid()) + "/maps");
    return maps.peek() == std::ifstream::traits_type::eof();
  }));
  EXPECT_EQ(watch.Examine(), Verdict::kAlive);
  EXPECT_NE(watch.ExamineMappings({1}), Verdict::kDead);
  child.Signal(SIGKILL);
  child.WaitUntilDead();
  EXPECT_EQ(watch.Examine(), Verdict::kDead);
}

TEST_P(DeathWatchTest, AProcessOfAnEarlierRunIsKnownByItsStartTime) {
  Child child({"/bin/sleep", "1000"});
  const auto start_time = StartTimeOf(child.pid());
  ASSERT_TRUE(start_time);
  const DeathWatch same = DeathWatch::OfProcess({child.pid(), *start_time}, GetParam());
  EXPECT_EQ(same.Examine(), Verdict::kAlive);
  const DeathWatch other = DeathWatch::OfProcess({child.pid(), *start_time + 1}, GetParam());
  EXPECT_EQ(other.Examine(), Verdict::kDead);
  const DeathWatch unproved = DeathWatch::OfProcess({child.pid(), 0}, GetParam());
  EXPECT_EQ(unproved.Examine(), Verdict::kUnknown);
  const DeathWatch invisible = DeathWatch::OfProcess({0, 0}, GetParam());
  EXPECT_EQ(invisible.Examine(), Verdict::kUnknown);
  EXPECT_EQ(invisible.ExamineMappings({1}), Verdict::kUnknown);
}

TEST_P(DeathWatchTest, AnotherProgramThatMapsNothingIsDeath) {
  Child child({"/bin/sleep", "1000"});
  ASSERT_TRUE(Eventually([&] {  // between spawn and exec it still is this program
    std::ifstream comm("/proc/" + std::to_string(child.pid()) + "/comm");
    std::string name;
    return std::getline(comm, name) && name == "sleep";
  }));
  std::ofstream(base_ + "/segment") << std::string(4096, 'x');
  const int fd = open((base_ + "/segment").c_str(), O_RDWR | O_CLOEXEC);
  struct stat info {};
  ASSERT_EQ(fstat(fd, &info), 0);
  void* mapped = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  close(fd);
  const DeathWatch sleep =
      DeathWatch::OfProcess({child.pid(), *StartTimeOf(child.pid())}, GetParam());
  const DeathWatch self = DeathWatch::OfProcess({getpid(), *StartTimeOf(getpid())}, GetParam());
  EXPECT_EQ(sleep.ExamineMappings({info.st_ino}), Verdict::kDead);
  EXPECT_EQ(self.ExamineMappings({info.st_ino}), Verdict::kAlive);
  munmap(mapped, 4096);
}

INSTANTIATE_TEST_SUITE_P(Modes, DeathWatchTest,
                         ::testing::Values(DeathWatchMode::kAuto, DeathWatchMode::kPidfdOpen,
                                           DeathWatchMode::kHangup));

void Connect(const std::string& path) {
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) _exit(1);
}

int ConnectAndWait(const std::string& path, bool leader_exits) {
  if (leader_exits) {
    std::thread([path] {
      Connect(path);
      pause();
    }).detach();
    pthread_exit(nullptr);
  }
  Connect(path);
  pause();
  return 0;
}

}  // namespace
}  // namespace zerocp

int main(int argc, char** argv) {
  if (argc == 3 && argv[1] == std::string("--connect"))
    return zerocp::ConnectAndWait(argv[2], false);
  if (argc == 3 && argv[1] == std::string("--leader-exits")) {
    return zerocp::ConnectAndWait(argv[2], true);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
