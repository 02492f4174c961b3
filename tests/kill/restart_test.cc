// A stream between two processes over ten ends of their daemon, by kill -9 and by SIGTERM in turn:
// nothing is lost, nothing comes twice, and messages flow while no daemon is alive (zerocp_bench
// says how fast). The other process is this program again: `--produce RUNTIME_DIR` publishes
// numbers until it gets SIGTERM.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>
#include <zerocp/zerocp.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>

#include "tests/system/daemon_process.h"

namespace zerocp {
namespace {

constexpr int kRestarts = 10;

std::atomic<bool> g_stop{false};

int Produce(const std::string& runtime_dir) {
  signal(SIGTERM, [](int) { g_stop = true; });
  auto client = Client::Connect({.name = "producer", .runtime_dir = runtime_dir});
  auto publisher = client->JoinAsPublisher("feed");
  if (!publisher || !publisher->WaitForSubscribers(1)) return 2;
  for (uint64_t number = 1; !g_stop; ++number) {
    auto loan = publisher->NewLoan(sizeof(number), std::nullopt);
    if (!loan) return std::fprintf(stderr, "loan: %s\n", loan.message().c_str()), 3;
    std::memcpy(loan->data().data(), &number, sizeof(number));
    auto published = publisher->Publish(*loan);
    if (!published) return std::fprintf(stderr, "publish: %s\n", published.message().c_str()), 4;
  }
  return 0;
}

class RestartTest : public ::testing::Test {
 protected:
  testing::DaemonProcess daemon_{
      {"--pool", "frames=4KiBx256", "--channel", "feed=frames,queue=64", "--on-stop", "auto"}};
  std::atomic<uint64_t> taken_{0};
};

TEST_F(RestartTest, AStreamOverTenEndsOfTheDaemonLosesAndRepeatsNothing) {
  auto client = Client::Connect({.name = "consumer", .runtime_dir = daemon_.runtime_dir()});
  ASSERT_TRUE(client) << client.message();
  auto subscriber = client->JoinAsSubscriber("feed");
  ASSERT_TRUE(subscriber) << subscriber.message();
  testing::ChildProcess producer({.command = {std::filesystem::read_symlink("/proc/self/exe"),
                                              "--produce", daemon_.runtime_dir()}});
  std::thread consumer([&] {
    for (uint64_t expected = 1;; ++expected) {
      auto sample = subscriber->Wait();
      if (!sample) {
        EXPECT_EQ(sample.code(), Code::kEndOfStream) << sample.message();
        return;
      }
      uint64_t number = 0;
      std::memcpy(&number, sample->data().data(), sizeof(number));
      ASSERT_EQ(number, expected);
      ASSERT_EQ(sample->sequence(), expected);
      taken_ = number;
    }
  });
  while (taken_ == 0) std::this_thread::yield();
  for (int i = 0; i < kRestarts; ++i) {
    daemon_.Stop(i % 2 == 0 ? SIGKILL : SIGTERM);
    const uint64_t before = taken_;
    while (taken_ < before + 1000) std::this_thread::yield();  // they flow without a daemon
    daemon_.Start();
    // The consumer's control calls work with each of them.
    auto second = client->JoinAsPublisher("feed");
    ASSERT_TRUE(second) << second.message();
    EXPECT_EQ(client->state(), Code::kOk);
    // So does the producer, which makes no such call: its loans see that the daemon calls.
    const auto attached = [&] {
      const std::string list =
          testing::RunCommand(daemon_.Command({"sessions", "-o", "json"})).output;
      return list.find("STATE_ORPHANED") == std::string::npos;
    };
    while (!attached()) std::this_thread::yield();
  }
  producer.Signal(SIGTERM);
  EXPECT_EQ(producer.Wait(), 0);
  consumer.join();
  *subscriber = Subscriber();
  *client = Client();
  const testing::Ran audit = testing::RunCommand(daemon_.Command({"audit"}));
  EXPECT_EQ(audit.exit_code, 0) << audit.output << audit.error;
  EXPECT_EQ(daemon_.Stop(SIGTERM), 0);
  EXPECT_TRUE(daemon_.Segments().empty());  // nobody was left attached
}

}  // namespace
}  // namespace zerocp

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--produce") return zerocp::Produce(argv[2]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
