// zerocpd under a service manager: this test is one, as systemd would be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zerocp/zerocp.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "shm/unique_fd.h"
#include "tests/system/child_process.h"

namespace zerocp::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kPatienceMs = 60'000;
// Longer than ten intervals of a ping.
constexpr int kSilenceMs = 500;
constexpr char kWatchdogUsec[] = "80000";

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  return address;
}

// Bound to `path`; inherited by the programs that this test starts.
shm::UniqueFd BoundSocket(const std::string& path, int type) {
  shm::UniqueFd fd(socket(AF_UNIX, type, 0));
  const sockaddr_un address = AddressOf(path);
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0)
      << path << ": " << std::strerror(errno);
  return fd;
}

shm::UniqueFd ListeningSocket(const std::string& path, int type) {
  shm::UniqueFd fd = BoundSocket(path, type);
  EXPECT_EQ(listen(fd.get(), SOMAXCONN), 0) << std::strerror(errno);
  return fd;
}

ino_t InodeOf(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

class ServiceManagerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(run_);
    std::filesystem::permissions(run_, std::filesystem::perms::owner_all);
  }
  void TearDown() override {
    if (daemon_ == nullptr || !daemon_->Running()) return;
    daemon_->Signal(SIGTERM);
    EXPECT_EQ(daemon_->Wait(), 0) << Log();
  }

  // Starts zerocpd with `passed` as its descriptors from 3 on. LISTEN_PID is that of a shell, which
  // becomes the daemon.
  void Start(const std::vector<std::string>& arguments, const std::vector<int>& passed = {},
             std::map<std::string, std::string> variables = {}) {
    std::string script = "export LISTEN_PID=${LISTEN_PID:-$$}; exec \"$@\"";
    for (size_t i = 0; i < passed.size(); ++i)
      script += " " + std::to_string(3 + i) + "<&" + std::to_string(passed[i]);
    ChildOptions options;
    options.command = {"/bin/bash",     "-c", script,      "bash",  BinDir() + "/zerocpd",
                       "--runtime-dir", run_, "--on-stop", "unlink"};
    options.command.insert(options.command.end(), arguments.begin(), arguments.end());
    options.env = std::move(variables);
    options.env["NOTIFY_SOCKET"] = dir_.path() + "/notify";
    if (!passed.empty()) options.env["LISTEN_FDS"] = std::to_string(passed.size());
    options.error = dir_.path() + "/log";
    daemon_ = std::make_unique<ChildProcess>(options);
  }

  std::string Log() const { return ReadFile(dir_.path() + "/log"); }
  std::string File(const char* name) const { return run_ + "/" + name; }

  // The next message within the time; empty: none came.
  std::string Message(int timeout_ms = kPatienceMs) const {
    pollfd readable{notify_.get(), POLLIN, 0};
    if (poll(&readable, 1, timeout_ms) != 1) return {};
    char bytes[4096];
    const ssize_t got = recv(notify_.get(), bytes, sizeof(bytes), 0);
    return got > 0 ? std::string(bytes, static_cast<size_t>(got)) : std::string();
  }
  // The first message that begins so; those before it are skipped. Empty: none came.
  std::string MessageThatBegins(const std::string& beginning) const {
    std::string message = Message();
    while (!message.empty() && message.rfind(beginning, 0) != 0) message = Message();
    EXPECT_FALSE(message.empty()) << beginning << " did not come; the daemon's log: " << Log();
    return message;
  }
  Ran Command(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), BinDir() + "/zerocp");
    arguments.insert(arguments.end(), {"--runtime-dir", run_});
    return RunCommand(arguments);
  }
  // gRPC and the attach socket both.
  bool Answers() const {
    return Command({"pools"}).exit_code == 0 && bool{Client::Connect({.runtime_dir = run_})};
  }
  bool AnswersAtLast() const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMs);
    while (!Answers()) {
      if (!daemon_->Running() || std::chrono::steady_clock::now() > end) return false;
    }
    return true;
  }

  TempDir dir_;
  const std::string run_ = dir_.path() + "/run";
  const shm::UniqueFd notify_ = BoundSocket(dir_.path() + "/notify", SOCK_DGRAM | SOCK_CLOEXEC);
  std::unique_ptr<ChildProcess> daemon_;
};

// The manager's queue is full, so the daemon stands still in what it says: what it does before it
// says that it is ready is done by then.
TEST_F(ServiceManagerTest, ReadyIsSaidWhenCallsAreAnswered) {
  const shm::UniqueFd filler(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const sockaddr_un address = AddressOf(dir_.path() + "/notify");
  const auto fill = [&] {
    return sendto(filler.get(), "filler", 6, 0, reinterpret_cast<const sockaddr*>(&address),
                  sizeof(address)) == 6;
  };
  int fillers = 0;
  while (fill()) ++fillers;
  ASSERT_EQ(errno, EAGAIN);
  EXPECT_EQ(Message(), "filler");  // room for one: STATUS
  Start({"--pool", "p=4KiBx16"});
  EXPECT_TRUE(AnswersAtLast()) << Log();
  for (int i = 1; i < fillers; ++i) ASSERT_EQ(Message(), "filler");
  EXPECT_THAT(Message(), StartsWith("STATUS="));
  EXPECT_EQ(Message(), "READY=1\nSTATUS=ready in " + run_);
}

TEST_F(ServiceManagerTest, AStopIsSaidBeforeItBegins) {
  Start({});
  MessageThatBegins("READY=1");
  daemon_->Signal(SIGTERM);
  EXPECT_THAT(MessageThatBegins("STOPPING=1"), HasSubstr("\nSTATUS="));
  EXPECT_EQ(daemon_->Wait(), 0);
}

TEST_F(ServiceManagerTest, AReloadIsSaidWithWhatCameOfIt) {
  const std::string file = dir_.path() + "/config.yaml";
  const std::string pool = "pools: [{name: pools/p, chunk_size_bytes: 4KiB, chunk_count: 16}]\n";
  WriteFile(file, pool);
  Start({"--config", file});
  MessageThatBegins("READY=1");

  WriteFile(
      file,
      pool + "channels: [{name: channels/camera, pool: pools/p, when_full: WHEN_FULL_WAIT}]\n");
  daemon_->Signal(SIGHUP);
  MessageThatBegins("RELOADING=1");
  EXPECT_EQ(MessageThatBegins("READY=1"), "READY=1\nSTATUS=ready in " + run_);
  EXPECT_THAT(Command({"channels"}).output, HasSubstr("camera"));

  WriteFile(file, "pools: [{name: wrong}]\n");
  daemon_->Signal(SIGHUP);
  MessageThatBegins("RELOADING=1");
  EXPECT_THAT(MessageThatBegins("READY=1"), HasSubstr("was not taken over: "));
}

// All threads of a process but its first stand still while it lives.
class StoppedThreads {
 public:
  explicit StoppedThreads(pid_t process) {
    for (const auto& entry :
         std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/task")) {
      const pid_t thread = std::stoi(entry.path().filename());
      if (thread == process || ptrace(PTRACE_SEIZE, thread, nullptr, nullptr) != 0) continue;
      EXPECT_EQ(ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr), 0) << std::strerror(errno);
      EXPECT_EQ(waitpid(thread, nullptr, __WALL), thread) << std::strerror(errno);
      threads_.push_back(thread);
    }
    EXPECT_FALSE(threads_.empty());
  }
  ~StoppedThreads() {
    for (const pid_t thread : threads_) ptrace(PTRACE_DETACH, thread, nullptr, nullptr);
  }

 private:
  std::vector<pid_t> threads_;
};

TEST_F(ServiceManagerTest, PingsEndWhileTheDaemonStandsStill) {
  Start({"--pool", "p=4KiBx16"}, {}, {{"WATCHDOG_USEC", kWatchdogUsec}});
  MessageThatBegins("READY=1");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Message(), "WATCHDOG=1");
  {
    const StoppedThreads stopped(daemon_->pid());
    // What was said before, and what was proven and not said yet.
    int said = 0;
    while (said < 100 && !Message(kSilenceMs).empty()) ++said;
    EXPECT_LT(said, 100);
  }
  EXPECT_EQ(Message(), "WATCHDOG=1");
}

TEST_F(ServiceManagerTest, NoPingIsSentThatNobodyWaitsFor) {
  Start({"--pool", "p=4KiBx16"}, {}, {{"WATCHDOG_USEC", kWatchdogUsec}, {"WATCHDOG_PID", "1"}});
  MessageThatBegins("READY=1");
  EXPECT_EQ(Message(kSilenceMs), "");
}

TEST_F(ServiceManagerTest, SocketsThatArePassedAreUsedAndStay) {
  const shm::UniqueFd client = ListeningSocket(File("client.sock"), SOCK_STREAM);
  const shm::UniqueFd attach = ListeningSocket(File("attach.sock"), SOCK_SEQPACKET);
  std::vector<ino_t> inodes;
  for (const char* name : {"client.sock", "attach.sock"}) inodes.push_back(InodeOf(File(name)));

  // Who comes before the daemon waits for it.
  ChildProcess early({.command = {BinDir() + "/zerocp", "info", "--runtime-dir", run_}});
  for (int round = 0; round < 2; ++round) {
    Start({"--pool", "p=4KiBx16"}, {client.get(), attach.get()},
          {{"LISTEN_FDNAMES", "zerocpd-client.socket:zerocpd.socket"}});
    MessageThatBegins("READY=1");
    EXPECT_EQ(early.Wait(), 0);
    EXPECT_TRUE(Answers()) << Log();
    EXPECT_NE(InodeOf(File("admin.sock")), 0U);  // which nobody passed
    daemon_->Signal(SIGTERM);
    EXPECT_EQ(daemon_->Wait(), 0) << Log();
    EXPECT_EQ(InodeOf(File("admin.sock")), 0U);
    EXPECT_EQ(InodeOf(File("client.sock")), inodes[0]);
    EXPECT_EQ(InodeOf(File("attach.sock")), inodes[1]);
  }
}

TEST_F(ServiceManagerTest, ASocketThatFitsNowhereEndsTheStart) {
  const shm::UniqueFd stray = ListeningSocket(dir_.path() + "/stray", SOCK_STREAM);
  Start({"--pool", "p=4KiBx16"}, {stray.get()}, {{"LISTEN_FDNAMES", "other.socket"}});
  EXPECT_EQ(daemon_->Wait(), 2);
  EXPECT_THAT(Log(),
              HasSubstr("a socket other.socket at " + dir_.path() + "/stray, which is none"));
  EXPECT_NE(InodeOf(dir_.path() + "/stray"), 0U);

  const shm::UniqueFd attach = ListeningSocket(File("attach.sock"), SOCK_STREAM);
  Start({"--pool", "p=4KiBx16"}, {attach.get()}, {{"LISTEN_FDNAMES", "zerocpd.socket"}});
  EXPECT_EQ(daemon_->Wait(), 2);
  EXPECT_THAT(Log(), HasSubstr("needs ListenSequentialPacket=" + File("attach.sock")));
  EXPECT_NE(InodeOf(File("attach.sock")), 0U);
}

TEST_F(ServiceManagerTest, SocketsForAnotherProcessAreLeftAlone) {
  const shm::UniqueFd stray = ListeningSocket(dir_.path() + "/stray", SOCK_STREAM);
  Start({"--pool", "p=4KiBx16"}, {stray.get()}, {{"LISTEN_PID", "1"}});
  MessageThatBegins("READY=1");
  EXPECT_TRUE(Answers()) << Log();
}

TEST_F(ServiceManagerTest, VariablesThatMakeNoSenseAreNamed) {
  for (const auto& [name, value] : {std::pair("WATCHDOG_USEC", "soon"), {"LISTEN_FDS", "-1"}}) {
    Start({}, {}, {{name, value}});
    EXPECT_EQ(daemon_->Wait(), 2);
    EXPECT_THAT(Log(), HasSubstr(std::string(name) + "=" + value));
  }
}

}  // namespace
}  // namespace zerocp::testing
