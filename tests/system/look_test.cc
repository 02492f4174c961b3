// `zerocp tap` and `zerocp hz`: what they show, and that no publisher ever waits for them.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp::testing {
namespace {

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++count;
  return count;
}

// The sum of the numbers behind each `name` in objects of JSON.
uint64_t Sum(const std::string& json, const std::string& name) {
  uint64_t sum = 0;
  for (size_t at = 0; (at = json.find(name, at)) != std::string::npos; at += name.size())
    sum += std::stoull(json.substr(at + name.size()));
  return sum;
}

class Look : public ::testing::Test {
 protected:
  Look() {
    auto client = Client::Connect({.name = "camera", .runtime_dir = daemon_.runtime_dir()});
    EXPECT_TRUE(client) << client.message();
    client_ = std::move(*client);
    auto publisher = client_.JoinAsPublisher("waits");
    EXPECT_TRUE(publisher) << publisher.message();
    publisher_ = std::move(*publisher);
  }
  void TearDown() override {
    publisher_.Close();
    const Ran audit = RunCommand(daemon_.Command({"audit"}));
    EXPECT_EQ(audit.exit_code, 0) << audit.output << audit.error;
  }

  ChildOptions Looking(std::vector<std::string> arguments) {
    return {.command = daemon_.Command(std::move(arguments)),
            .output = dir_.path() + "/out",
            .error = dir_.path() + "/err"};
  }
  std::string Shown() const { return ReadFile(dir_.path() + "/out"); }
  std::string Said() const { return ReadFile(dir_.path() + "/err"); }
  static void Stop(ChildProcess& process) {
    process.Signal(SIGSTOP);
    const std::string stat = "/proc/" + std::to_string(process.pid()) + "/stat";
    while (!Has(ReadFile(stat), ") T ")) ASSERT_TRUE(process.Running());
  }
  void AwaitSubscriber() { ASSERT_TRUE(publisher_.WaitForSubscribers(1, std::chrono::minutes(1))); }
  // False: somebody has to be waited for.
  bool PublishAtOnce(std::string_view text) {
    auto loan = publisher_.NewLoan(text.size());
    EXPECT_TRUE(loan) << loan.message();
    if (!loan) return false;
    std::memcpy(loan->data().data(), text.data(), text.size());
    const auto published = publisher_.Publish(*loan, std::chrono::nanoseconds(0));
    EXPECT_TRUE(published) << published.message();
    return bool(published);
  }

  TempDir dir_;
  DaemonProcess daemon_{{"--pool", "p=4KiBx8", "--channel", "waits=p,queue=4"}};
  Client client_;
  Publisher publisher_;
};

TEST_F(Look, NoPublisherWaitsForOneThatIsStopped) {
  for (const char* word : {"tap", "hz"}) {
    ChildProcess looking(Looking({word, "waits"}));
    AwaitSubscriber();
    Stop(looking);
    // More than the pool has: what it keeps does not add up.
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(PublishAtOnce("x")) << word << " " << i;
    looking.Signal(SIGCONT);
    looking.Signal(SIGINT);
    EXPECT_EQ(looking.Wait(), 0) << Said();
  }
}

TEST_F(Look, ATapShowsMessagesAndHowManyItMissed) {
  ChildProcess tap(Looking({"tap", "waits", "--count", "2", "--bytes", "4"}));
  AwaitSubscriber();
  ASSERT_TRUE(PublishAtOnce("first!"));
  while (!Has(Shown(), "\n")) ASSERT_TRUE(tap.Running());
  EXPECT_TRUE(Has(Shown(), "Z  #1                 6 bytes  66 69 72 73  firs\n")) << Shown();
  Stop(tap);
  for (int i = 2; i <= 10; ++i) ASSERT_TRUE(PublishAtOnce("again\n"));
  tap.Signal(SIGCONT);
  EXPECT_EQ(tap.Wait(), 0);
  EXPECT_TRUE(Has(Shown(), "\n-- 8 came faster than they were shown\n")) << Shown();
  EXPECT_TRUE(Has(Shown(), "Z  #10                6 bytes  61 67 61 69  agai\n")) << Shown();
}

TEST_F(Look, ATapPrintsObjectsAndEndsInTime) {
  ChildProcess tap(Looking({"tap", "waits", "-o", "json", "--count", "1"}));
  AwaitSubscriber();
  ASSERT_TRUE(PublishAtOnce("\"\\"));
  EXPECT_EQ(tap.Wait(), 0);
  EXPECT_TRUE(Has(Shown(), R"(Z", "sequence": 1, "missed_before": 0, "size": 2, "bytes": "225c"})"))
      << Shown();
  const Ran late = RunCommand(daemon_.Command({"tap", "waits", "--timeout", "0"}));
  EXPECT_EQ(late.exit_code, 1);
  EXPECT_TRUE(Has(late.error, "nothing came in time on 'waits', after 0 messages")) << late.error;
  EXPECT_EQ(RunCommand(daemon_.Command({"tap", "none"})).exit_code, 1);
  EXPECT_EQ(RunCommand(daemon_.Command({"hz", "none"})).exit_code, 1);
}

TEST_F(Look, HzCountsEveryMessage) {
  ChildProcess hz(Looking({"hz", "waits", "--interval", "0.1", "-o", "json"}));
  AwaitSubscriber();
  Stop(hz);
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(PublishAtOnce("x"));
  hz.Signal(SIGCONT);
  while (Sum(Shown(), "\"unseen\": ") < 299) ASSERT_TRUE(hz.Running());
  ASSERT_TRUE(PublishAtOnce("x"));
  while (Sum(Shown(), "\"seen\": ") < 2) ASSERT_TRUE(hz.Running());
  hz.Signal(SIGTERM);
  EXPECT_EQ(hz.Wait(), 0);
  EXPECT_EQ(Sum(Shown(), "\"seen\": ") + Sum(Shown(), "\"unseen\": "), 301u) << Shown();
  EXPECT_TRUE(Has(Shown(), "\"rate\": ")) << Shown();

  ChildProcess three(Looking({"hz", "waits", "--interval", "0.1", "--count", "3"}));
  EXPECT_EQ(three.Wait(), 0);
  EXPECT_EQ(Count(Shown(), "\n"), 4u) << Shown();
}

TEST_F(Look, TheyGoOnAfterAPublisherAndEndWithTheirChannel) {
  ChildProcess tap(Looking({"tap", "waits"}));
  AwaitSubscriber();
  publisher_.Close();
  while (!Has(Said(), "-- the last publisher has left")) ASSERT_TRUE(tap.Running());
  EXPECT_EQ(
      RunCommand(daemon_.Command({"channels", "delete", "waits", "--even-if-in-use"})).exit_code,
      0);
  EXPECT_EQ(tap.Wait(), 1);
  EXPECT_TRUE(Has(Said(), "zerocp tap: the channel was deleted")) << Said();
}

}  // namespace
}  // namespace zerocp::testing
