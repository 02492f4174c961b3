// kill -9 of the sender, the receiver, or both, in the middle of a stream, a hundred times, with a
// survivor that stays attached and subscribed all the while.
#include <gtest/gtest.h>
#include <signal.h>
#include <zerocp/zerocp.h>

#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "tests/system/daemon_process.h"

namespace zerocp {
namespace {

using std::chrono::milliseconds;
using testing::ChildProcess;
using testing::DaemonProcess;
using testing::Ran;
using testing::RunCommand;

constexpr int kKills = 100;

class StreamTest : public ::testing::Test {
 protected:
  std::unique_ptr<ChildProcess> Start(const std::vector<std::string>& arguments,
                                      const std::string& input = {}) {
    testing::ChildOptions options;
    options.command = daemon_.Command(arguments);
    options.input = input;
    return std::make_unique<ChildProcess>(options);
  }
  std::string Ask(const std::vector<std::string>& arguments) {
    const Ran ran = RunCommand(daemon_.Command(arguments));
    EXPECT_EQ(ran.exit_code, 0) << arguments[0] << ": " << ran.output << ran.error;
    return ran.output;
  }
  static int Count(const std::string& text, const std::string& what) {
    int count = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1))
      ++count;
    return count;
  }

  DaemonProcess daemon_{{"--pool", "frames=64KiBx64", "--channel", "feed=frames,queue=8"}};
};

TEST_F(StreamTest, AHundredKillsLoseNothingAndTheNextRunWorks) {
  auto client = Client::Connect({"survivor", daemon_.runtime_dir()});
  ASSERT_TRUE(client) << client.message();
  auto subscriber = client->JoinAsSubscriber("feed");
  ASSERT_TRUE(subscriber) << subscriber.message();
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> taken{0};
  std::thread survivor([&] {
    while (!stop) {
      auto sample = subscriber->Wait(milliseconds(20));
      if (sample) ++taken;
    }
  });

  std::mt19937 random(20260101);  // the same delays in each run; what they meet differs
  for (int i = 0; i < kKills; ++i) {
    auto receiver = Start({"recv", "feed"});
    // The sender waits for one subscriber, and the survivor is one: it starts when both are there.
    while (Count(Ask({"stats", "-o", "json"}), "\"subscriber\":") != 2) {
      std::this_thread::sleep_for(milliseconds(2));
    }
    auto sender = Start({"send", "feed"}, "/dev/zero");
    const uint64_t before = taken;
    while (taken < before + 20) std::this_thread::yield();  // in mid-stream
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    const int victims = i % 3;  // sender, receiver, both
    if (victims != 1) sender->Signal(SIGKILL);
    if (victims != 0) receiver->Signal(SIGKILL);
    if (victims != 1) sender->Wait();
    if (victims != 0) receiver->Wait();
    if (i % 10 == 0) Ask({"audit"});  // the others still work
    if (victims == 1) {
      sender->Signal(SIGKILL);
      sender->Wait();
    } else if (victims == 0) {
      EXPECT_NE(receiver->Wait(), 0) << "a receiver whose sender died must say so";
    }
    // Noticed at once: soon only the survivor is there. (ctest's time limit is the watchdog.)
    while (Count(Ask({"sessions", "-o", "json"}), "\"client_name\"") != 1) {
      std::this_thread::sleep_for(milliseconds(2));
    }
    if (i % 10 == 9) Ask({"audit"});
  }
  stop = true;
  survivor.join();
  // Nothing waits for the survivor any more, and it holds nothing: all chunks are free or in its
  // cache.
  while (subscriber->TryTake().code() != Code::kTimeout) {
  }
  const std::string stats = Ask({"stats", "-o", "json"});
  EXPECT_EQ(Count(stats, "\"writing_chunk_count\": \"0\""), 1) << stats;
  EXPECT_EQ(Count(stats, "\"shared_chunk_count\": \"0\""), 1) << stats;
  Ask({"audit"});

  // The next run works, byte for byte.
  *subscriber = Subscriber();
  std::string bytes(10'000'000, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  testing::TempDir dir;
  testing::WriteFile(dir.path() + "/in", bytes);
  auto receiver = Start({"recv", "feed", "-o", dir.path() + "/out"});
  const Ran sent = RunCommand(daemon_.Command({"send", "feed", dir.path() + "/in"}));
  EXPECT_EQ(sent.exit_code, 0) << sent.error;
  EXPECT_EQ(receiver->Wait(), 0);
  EXPECT_EQ(testing::ReadFile(dir.path() + "/out"), bytes);

  *client = Client();
  EXPECT_EQ(daemon_.Stop(SIGTERM), 0) << daemon_.Log();
  EXPECT_EQ(daemon_.Segments(), std::vector<std::string>{});
}

}  // namespace
}  // namespace zerocp
