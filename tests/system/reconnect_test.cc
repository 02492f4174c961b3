// A client over the end of its daemon: with the same segments it finds back to the next one by
// itself, with others it is told.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>

#include "shm/attach_protocol.h"
#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

int Count(const std::string& text, const std::string& what) {
  int count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

class ReconnectTest : public ::testing::Test {
 protected:
  explicit ReconnectTest(const std::string& on_stop = "auto")
      : daemon_({"--pool", "frames=4KiBx32", "--channel", "camera=frames,queue=4", "--on-stop",
                 on_stop}) {}
  void TearDown() override {
    const testing::Ran audit = testing::RunCommand(daemon_.Command({"audit"}));
    EXPECT_EQ(audit.exit_code, 0) << audit.output << audit.error;
  }
  Client Connect(const std::string& name) {
    auto client = Client::Connect({.name = name, .runtime_dir = daemon_.runtime_dir()});
    EXPECT_TRUE(client) << client.message();
    return std::move(*client);
  }
  std::string Ask(const std::string& command) {
    return testing::RunCommand(daemon_.Command({command, "-o", "json"})).output;
  }
  int CountSessions(const std::string& state) { return Count(Ask("sessions"), state); }
  void Restart(int signal) {
    daemon_.Stop(signal);
    daemon_.Start();
  }
  static bool Send(Publisher& publisher, uint64_t number) {
    auto loan = publisher.NewLoan(sizeof(number), seconds(10));
    if (!loan) return false;
    std::memcpy(loan->data().data(), &number, sizeof(number));
    return static_cast<bool>(publisher.Publish(*loan, seconds(10)));
  }
  static uint64_t NumberIn(const Sample& sample) {
    uint64_t number = 0;
    std::memcpy(&number, sample.data().data(), sizeof(number));
    return number;
  }

  testing::DaemonProcess daemon_;
};

TEST_F(ReconnectTest, AClientJoinsOtherChannelsAfterARestartAndKeepsItsOwn) {
  for (const int signal : {SIGKILL, SIGTERM}) {
    Client client = Connect("stayer");
    auto subscriber = client.JoinAsSubscriber("camera");
    auto publisher = client.JoinAsPublisher("camera");
    ASSERT_TRUE(subscriber && publisher);
    ASSERT_TRUE(Send(*publisher, 1));
    daemon_.Stop(signal);
    EXPECT_EQ(client.state(), Code::kUnavailable);
    ASSERT_TRUE(Send(*publisher, 2));
    daemon_.Start();
    EXPECT_EQ(CountSessions("STATE_ORPHANED"), 1);
    auto late = client.JoinAsSubscriber("camera");
    ASSERT_TRUE(late) << late.message();
    EXPECT_EQ(CountSessions("STATE_ATTACHED"), 1);
    ASSERT_TRUE(Send(*publisher, 3));
    for (uint64_t number = 1; number <= 3; ++number) {
      auto sample = subscriber->TryTake();
      ASSERT_TRUE(sample) << sample.message();
      EXPECT_EQ(NumberIn(*sample), number);
    }
    auto sample = late->TryTake();
    ASSERT_TRUE(sample) << sample.message();
    EXPECT_EQ(NumberIn(*sample), 3u);
    EXPECT_EQ(client.state(), Code::kOk);
  }
  EXPECT_EQ(Count(Ask("sessions"), "\"client_name\""), 0);  // both detached in order
  EXPECT_EQ(Count(daemon_.Log(), "detached: "), 1);         // the log of the last daemon
}

TEST_F(ReconnectTest, WhoWaitsIsConnectedAgainWithoutAnyOtherCall) {
  Client client = Connect("waiter");
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  ASSERT_TRUE(subscriber && publisher);
  std::thread waiter([&] {
    auto sample = subscriber->Wait();
    ASSERT_TRUE(sample) << sample.message();
    EXPECT_EQ(NumberIn(*sample), 7u);
  });
  Restart(SIGKILL);
  while (CountSessions("STATE_ATTACHED") != 1) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_TRUE(Send(*publisher, 7));
  waiter.join();
}

// A join that the daemon carried out, and whose answer never came: made by hand on the library's
// connection, so that the library does not know of it.
TEST_F(ReconnectTest, AJoinWhoseAnswerWasLostIsUndone) {
  Client client = Connect("forgetful");
  auto kept = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  ASSERT_TRUE(kept && publisher);
  int connection = -1;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(entry.path(), error);
    if (target.starts_with("socket:")) connection = std::stoi(entry.path().filename());
  }
  ASSERT_GE(connection, 0);
  for (const auto op : {shm::AttachOp::kJoinSubscriber, shm::AttachOp::kJoinPublisher}) {
    shm::AttachRequest request{};
    request.magic = shm::kAttachMagic;
    request.version = shm::kAttachVersion;
    request.op = static_cast<uint32_t>(op);
    std::strcpy(request.name, "camera");
    ASSERT_EQ(send(connection, &request, sizeof(request), 0), ssize_t{sizeof(request)});
    shm::AttachReply reply{};
    ASSERT_EQ(recv(connection, &reply, sizeof(reply), 0), ssize_t{sizeof(reply)});
    ASSERT_EQ(reply.code, 0) << reply.message;
  }
  EXPECT_EQ(Count(Ask("stats"), "\"subscriber\":"), 2);
  EXPECT_EQ(Count(Ask("stats"), "\"publisher_count\": 2"), 1);
  Restart(SIGKILL);
  EXPECT_EQ(Count(Ask("stats"), "\"subscriber\":"), 2);
  EXPECT_EQ(client.state(), Code::kOk);  // reconnects
  EXPECT_EQ(Count(Ask("stats"), "\"subscriber\":"), 1);
  EXPECT_EQ(Count(Ask("stats"), "\"publisher_count\": 1"), 1);
  for (uint64_t number = 1; number <= 10; ++number) {  // more than a queue holds
    ASSERT_TRUE(Send(*publisher, number));
    auto sample = kept->TryTake();
    ASSERT_TRUE(sample) << sample.message();
    EXPECT_EQ(NumberIn(*sample), number);
  }
}

class InstanceLostTest : public ReconnectTest {
 protected:
  InstanceLostTest() : ReconnectTest("unlink") {}
};

TEST_F(InstanceLostTest, EveryCallThatNeedsTheDaemonOrWaitsSaysSoAndWhatIsHeldStaysReadable) {
  Client client = Connect("left-behind");
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  ASSERT_TRUE(subscriber && publisher);
  ASSERT_TRUE(Send(*publisher, 42));
  auto sample = subscriber->TryTake();
  auto loan = client.NewLoan("frames", 1);
  ASSERT_TRUE(sample && loan);
  std::thread waiter([&] {
    auto nothing = subscriber->Wait();
    EXPECT_EQ(nothing.code(), Code::kInstanceLost);
    EXPECT_NE(nothing.message().find("connect again"), std::string::npos) << nothing.message();
  });
  Restart(SIGTERM);
  waiter.join();
  EXPECT_EQ(client.state(), Code::kInstanceLost);
  EXPECT_EQ(client.JoinAsSubscriber("camera").code(), Code::kInstanceLost);
  EXPECT_EQ(client.NewLoan("frames", 1).code(), Code::kInstanceLost);
  EXPECT_EQ(publisher->NewLoan(1).code(), Code::kInstanceLost);
  EXPECT_EQ(publisher->Publish(*loan).code(), Code::kInstanceLost);
  EXPECT_EQ(publisher->WaitForSubscribers(5).code(), Code::kInstanceLost);
  EXPECT_EQ(NumberIn(*sample), 42u);
  EXPECT_TRUE(daemon_.Log().find("refused to reconnect") != std::string::npos) << daemon_.Log();

  Client fresh = Connect("arrived");
  EXPECT_TRUE(fresh.NewLoan("frames", 1));
  *publisher = Publisher();
  *subscriber = Subscriber();
  client = Client();
  EXPECT_EQ(NumberIn(*sample), 42u);
  *sample = Sample();
  *loan = Loan();
  const std::string maps = testing::ReadFile("/proc/self/maps");
  EXPECT_EQ(maps.find("(deleted)"), maps.rfind("(deleted)")) << maps;
  EXPECT_EQ(maps.find("memory_chunk (deleted)"), std::string::npos) << maps;
}

TEST_F(InstanceLostTest, ABlockedPublisherAndAWaitingLoanLearnItToo) {
  Client client = Connect("blocked");
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  for (uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(Send(*publisher, i));  // the queue is full
  auto next = publisher->NewLoan(1);                                  // before all others are taken
  ASSERT_TRUE(next) << next.message();
  std::thread blocked([&] { EXPECT_EQ(publisher->Publish(*next).code(), Code::kInstanceLost); });
  std::thread starved([&] {
    std::vector<Loan> all;
    for (;;) {
      auto loan = client.NewLoan("frames", 1, std::nullopt);
      if (!loan) {
        EXPECT_EQ(loan.code(), Code::kInstanceLost);
        return;
      }
      all.push_back(std::move(*loan));
    }
  });
  Restart(SIGTERM);
  blocked.join();
  starved.join();
}

}  // namespace
}  // namespace zerocp
