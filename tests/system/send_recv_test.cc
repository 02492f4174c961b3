// The commands `zerocp send` and `zerocp recv` against a real daemon.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/system/daemon_process.h"

namespace zerocp::testing {
namespace {

constexpr size_t kChunkBytes = 65536;

std::string Bytes(size_t count) {
  std::string bytes(count, '\0');
  uint64_t state = count + 1;
  for (char& byte : bytes) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<char>(state >> 56);
  }
  return bytes;
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class SendRecv : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) { return dir_.path() + "/" + name; }
  ChildOptions Command(std::vector<std::string> arguments, const std::string& name) {
    return {.command = daemon_.Command(std::move(arguments)),
            .output = Path(name + ".out"),
            .error = Path(name + ".err")};
  }
  std::string Error(const std::string& name) { return ReadFile(Path(name + ".err")); }
  std::string Output(const std::string& name) { return ReadFile(Path(name + ".out")); }
  // Waits until `text` is in the output of a `zerocp stats` (a member joined, a queue filled).
  void WaitForStats(const std::string& text) {
    for (int i = 0; i < 1000; ++i) {
      if (Contains(RunCommand(daemon_.Command({"stats"})).output, text)) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    FAIL() << "never in the statistics: " << text;
  }
  void TearDown() override {
    const Ran audit = RunCommand(daemon_.Command({"audit"}));
    EXPECT_EQ(audit.exit_code, 0) << audit.output << audit.error;
  }

  TempDir dir_;
  DaemonProcess daemon_{{"--pool", "p=64KiBx32", "--channel", "c=p,queue=4"}};
};

TEST_F(SendRecv, FileArrivesByteForByteWhateverItsSize) {
  for (size_t size : {size_t{0}, size_t{1}, kChunkBytes - 1, kChunkBytes, kChunkBytes + 1,
                      5 * kChunkBytes, size_t{64} << 20}) {
    WriteFile(Path("in"), Bytes(size));
    ChildProcess receiver(Command({"recv", "c", "-o", Path("copy")}, "recv"));
    ChildProcess sender(Command({"send", "c", Path("in")}, "send"));
    EXPECT_EQ(sender.Wait(), 0) << Error("send");
    EXPECT_EQ(receiver.Wait(), 0) << Error("recv");
    EXPECT_TRUE(ReadFile(Path("copy")) == ReadFile(Path("in"))) << size;
    const size_t chunks = (size + kChunkBytes - 1) / kChunkBytes;
    const std::string summary =
        std::to_string(size) + " bytes in " + std::to_string(chunks) + " chunks";
    EXPECT_TRUE(Contains(Error("send"), summary)) << Error("send");
    EXPECT_TRUE(Contains(Error("recv"), summary)) << Error("recv");
  }
}

TEST_F(SendRecv, StandardStreamsAreTheDefault) {
  WriteFile(Path("in"), Bytes(300'000));
  ChildProcess receiver(Command({"recv", "c"}, "recv"));
  ChildOptions options = Command({"send", "c"}, "send");
  options.input = Path("in");
  EXPECT_EQ(ChildProcess(options).Wait(), 0) << Error("send");
  EXPECT_EQ(receiver.Wait(), 0) << Error("recv");
  EXPECT_TRUE(Output("recv") == ReadFile(Path("in")));
}

TEST_F(SendRecv, EveryReceiverGetsEverything) {
  WriteFile(Path("in"), Bytes(1'000'000));
  ChildProcess first(Command({"recv", "c"}, "first"));
  ChildProcess second(Command({"recv", "c"}, "second"));
  WaitForStats("c/subscribers/1-1");
  EXPECT_EQ(ChildProcess(Command({"send", "c", Path("in")}, "send")).Wait(), 0) << Error("send");
  EXPECT_EQ(first.Wait() + second.Wait(), 0) << Error("first") << Error("second");
  EXPECT_TRUE(Output("first") == ReadFile(Path("in")));
  EXPECT_TRUE(Output("second") == ReadFile(Path("in")));
}

TEST_F(SendRecv, PipeDeliversWhatIsThereAtOnce) {
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  ChildProcess receiver(Command({"recv", "c"}, "recv"));
  ChildOptions options = Command({"send", "c"}, "send");
  options.input_fd = pipe_ends[0];
  ChildProcess sender(options);
  close(pipe_ends[0]);
  ASSERT_EQ(write(pipe_ends[1], "hello", 5), 5);
  for (int i = 0; i < 1000 && Output("recv") != "hello"; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(Output("recv"), "hello");
  close(pipe_ends[1]);
  EXPECT_EQ(sender.Wait(), 0) << Error("send");
  EXPECT_EQ(receiver.Wait(), 0) << Error("recv");
}

TEST_F(SendRecv, DigestIsTakenInPlace) {
  WriteFile(Path("in"), "abc");
  ChildProcess receiver(Command({"recv", "c", "--sha256", "--verify-in-place"}, "recv"));
  EXPECT_EQ(ChildProcess(Command({"send", "c", Path("in")}, "send")).Wait(), 0) << Error("send");
  EXPECT_EQ(receiver.Wait(), 0) << Error("recv");
  EXPECT_EQ(Output("recv"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  c\n");
  EXPECT_TRUE(Contains(Error("recv"), "read in place: /dev/shm/")) << Error("recv");
}

TEST_F(SendRecv, ReceiverStopsAfterTheCountAndTheSenderSaysThatNobodyIsLeft) {
  WriteFile(Path("in"), Bytes(64 * kChunkBytes));
  ChildProcess receiver(Command({"recv", "c", "--count", "2"}, "recv"));
  ChildProcess sender(Command({"send", "c", Path("in")}, "send"));
  EXPECT_EQ(receiver.Wait(), 0) << Error("recv");
  EXPECT_EQ(Output("recv").size(), 2 * kChunkBytes);
  EXPECT_EQ(sender.Wait(), 1);
  EXPECT_TRUE(Contains(Error("send"), "the last subscriber of 'c' left")) << Error("send");
}

TEST_F(SendRecv, WithoutAReceiverSendWaitsOrDoesNot) {
  WriteFile(Path("in"), Bytes(100));
  EXPECT_EQ(ChildProcess(Command({"send", "c", Path("in"), "--no-wait"}, "send")).Wait(), 0);
  EXPECT_EQ(ChildProcess(Command({"send", "c", Path("in"), "--timeout", "0.1"}, "send")).Wait(), 1);
  EXPECT_TRUE(Contains(Error("send"), "got no subscriber in time")) << Error("send");
}

TEST_F(SendRecv, ReceiverTimesOut) {
  EXPECT_EQ(ChildProcess(Command({"recv", "c", "--timeout", "0.1"}, "recv")).Wait(), 1);
  EXPECT_TRUE(Contains(Error("recv"), "nothing came in time")) << Error("recv");
}

TEST_F(SendRecv, ASenderThatFindsNoRoomSaysWhoMadeNone) {
  WriteFile(Path("in"), Bytes(5 * kChunkBytes));
  ChildProcess receiver(Command({"recv", "c"}, "recv"));
  WaitForStats("c/subscribers/0-1");
  receiver.Signal(SIGSTOP);
  ChildProcess sender(Command({"send", "c", Path("in"), "--timeout", "0.1"}, "send"));
  EXPECT_EQ(sender.Wait(), 1);
  EXPECT_TRUE(Contains(Error("send"), "channels/c/subscribers/0-1 of \"zerocp recv\" (sessions/") &&
              Contains(Error("send"), ") has 4 of 4 messages of a publisher to take") &&
              Contains(Error("send"), "`zerocp subscribers detach channels/c/subscribers/0-1`"))
      << Error("send");
  receiver.Signal(SIGCONT);
  EXPECT_EQ(receiver.Wait(), 0) << Error("recv");
}

TEST_F(SendRecv, KilledSenderIsAFailureOfTheReceiver) {
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  ChildProcess receiver(Command({"recv", "c"}, "recv"));
  ChildOptions options = Command({"send", "c"}, "send");
  options.input_fd = pipe_ends[0];
  ChildProcess sender(options);
  close(pipe_ends[0]);
  ASSERT_EQ(write(pipe_ends[1], "half", 4), 4);
  WaitForStats("c                 1          1");
  sender.Signal(SIGKILL);
  EXPECT_EQ(sender.Wait(), 128 + SIGKILL);
  EXPECT_EQ(receiver.Wait(), 1);
  EXPECT_TRUE(Contains(Error("recv"), "publisher died after 4 bytes")) << Error("recv");
  EXPECT_EQ(Output("recv"), "half");
  close(pipe_ends[1]);
}

TEST_F(SendRecv, SignalsEndBothInOrder) {
  for (int signal : {SIGINT, SIGTERM}) {
    int pipe_ends[2];
    ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
    ChildProcess receiver(Command({"recv", "c"}, "recv"));
    ChildOptions options = Command({"send", "c"}, "send");
    options.input_fd = pipe_ends[0];
    ChildProcess sender(options);
    close(pipe_ends[0]);
    WaitForStats("c                 1          0            1");
    sender.Signal(signal);
    EXPECT_EQ(sender.Wait(), 128 + signal) << Error("send");
    EXPECT_EQ(receiver.Wait(), 0) << Error("recv");  // the end of the stream
    close(pipe_ends[1]);

    ChildProcess waiting(Command({"recv", "c"}, "recv"));
    WaitForStats("c                 0          0            1");
    waiting.Signal(signal);
    EXPECT_EQ(waiting.Wait(), 128 + signal) << Error("recv");
    ChildProcess alone(Command({"send", "c"}, "send"));
    for (int i = 0; i < 1000 && !Contains(Error("send"), "waiting"); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    alone.Signal(signal);
    EXPECT_EQ(alone.Wait(), 128 + signal) << Error("send");
  }
}

TEST_F(SendRecv, ClosedOutputIsAFailureNotASignal) {
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  ChildOptions options = Command({"recv", "c"}, "recv");
  options.output_fd = pipe_ends[1];
  ChildProcess receiver(options);
  close(pipe_ends[1]);
  close(pipe_ends[0]);
  WriteFile(Path("in"), "x");
  EXPECT_EQ(ChildProcess(Command({"send", "c", Path("in")}, "send")).Wait(), 0) << Error("send");
  EXPECT_EQ(receiver.Wait(), 1);
  EXPECT_TRUE(Contains(Error("recv"), "the reader of the output is gone")) << Error("recv");
}

TEST_F(SendRecv, ASignalEndsAReceiverInTheMiddleOfAWrite) {
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  const int capacity = fcntl(pipe_ends[0], F_SETPIPE_SZ, 4096);  // less than a message
  WriteFile(Path("in"), Bytes(2 * kChunkBytes));
  ChildOptions options = Command({"recv", "c"}, "recv");
  options.output_fd = pipe_ends[1];
  ChildProcess receiver(options);
  close(pipe_ends[1]);
  ChildProcess sender(Command({"send", "c", Path("in")}, "send"));
  int queued = 0;
  while (ioctl(pipe_ends[0], FIONREAD, &queued) == 0 && queued < capacity)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  receiver.Signal(SIGTERM);
  EXPECT_EQ(receiver.Wait(), 128 + SIGTERM) << Error("recv");
  close(pipe_ends[0]);
}

TEST_F(SendRecv, FailuresSayWhatToDo) {
  const Ran no_channel = RunCommand(daemon_.Command({"send", "nowhere"}));
  EXPECT_EQ(no_channel.exit_code, 1);
  EXPECT_TRUE(Contains(no_channel.error, "`zerocp channels create`")) << no_channel.error;
  const Ran no_file = RunCommand(daemon_.Command({"send", "c", Path("absent")}));
  EXPECT_EQ(no_file.exit_code, 1);
  EXPECT_TRUE(Contains(no_file.error, "No such file")) << no_file.error;
  EXPECT_EQ(RunCommand(daemon_.Command({"send", "c", dir_.path()})).exit_code, 1);
  EXPECT_EQ(RunCommand(daemon_.Command({"recv", "c", "-o", Path("no/such/dir")})).exit_code, 1);
}

TEST(CommandLine, ExitCodesAreAsDocumented) {
  const std::string zerocp = BinDir() + "/zerocp";
  for (const char* command : {"send", "recv"}) {
    const Ran ran = RunCommand({zerocp, command, "c", "--runtime-dir", "/tmp/zerocp-none"});
    EXPECT_EQ(ran.exit_code, 3) << command;
    EXPECT_TRUE(Contains(ran.error, "/tmp/zerocp-none/attach.sock does not exist")) << ran.error;
  }
  for (const char* command :
       {"pools", "channels", "sessions", "stats", "events", "info", "audit"}) {
    EXPECT_EQ(RunCommand({zerocp, command, "--runtime-dir", "/tmp/zerocp-none"}).exit_code, 3)
        << command;
    const Ran help = RunCommand({zerocp, command, "--help"});
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_TRUE(Contains(help.output, "Examples:")) << help.output;
  }
  EXPECT_EQ(RunCommand({zerocp}).exit_code, 2);
  EXPECT_EQ(RunCommand({zerocp, "fly"}).exit_code, 2);
  EXPECT_EQ(RunCommand({zerocp, "send"}).exit_code, 2);
  EXPECT_EQ(RunCommand({zerocp, "recv", "c", "--count", "0"}).exit_code, 2);
  EXPECT_EQ(RunCommand({zerocp, "pools", "-o", "xml"}).exit_code, 2);
  EXPECT_TRUE(RunCommand({zerocp, "--version"}).output.starts_with("zerocp "));
}

TEST_F(SendRecv, EveryQuestionIsAnsweredAsTableAndAsJson) {
  for (const char* command :
       {"pools", "channels", "sessions", "stats", "events", "info", "audit"}) {
    const Ran table = RunCommand(daemon_.Command({command}));
    EXPECT_EQ(table.exit_code, 0) << table.error;
    EXPECT_FALSE(table.output.empty());
    const Ran json = RunCommand(daemon_.Command({command, "-o", "json"}));
    EXPECT_EQ(json.exit_code, 0) << json.error;
    EXPECT_TRUE(json.output.starts_with("{")) << json.output;
  }
}

}  // namespace
}  // namespace zerocp::testing
