// Waiting by descriptor: Subscriber::fd() with poll and epoll.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

constexpr int kWatchdogMs = 60'000;

bool IsReadable(int fd, int timeout_ms = 0) {
  pollfd entry{fd, POLLIN, 0};
  return poll(&entry, 1, timeout_ms) == 1 && (entry.revents & POLLIN) != 0;
}

// As asio, tokio and Go wait: once for each time that the descriptor becomes readable.
class EdgePoll {
 public:
  explicit EdgePoll(int fd) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    EXPECT_EQ(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event), 0);
  }
  ~EdgePoll() { close(epoll_); }
  EdgePoll(const EdgePoll&) = delete;
  EdgePoll& operator=(const EdgePoll&) = delete;

  // False if the watchdog barks.
  bool Next() const {
    epoll_event event;
    return epoll_wait(epoll_, &event, 1, kWatchdogMs) == 1;
  }

 private:
  const int epoll_ = epoll_create1(EPOLL_CLOEXEC);
};

size_t ThreadCount() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& task : std::filesystem::directory_iterator("/proc/self/task"))
    ++count;
  return count;
}

void Send(Publisher& publisher, int count) {
  for (int i = 0; i < count; ++i) {
    auto loan = publisher.NewLoan(1, std::nullopt);
    if (!loan || !publisher.Publish(*loan)) std::abort();
  }
}

class ReadyFdTest : public ::testing::Test {
 protected:
  Client Connect(const std::string& name = "looper") {
    auto client = Client::Connect({.name = name, .runtime_dir = daemon_.runtime_dir()});
    EXPECT_TRUE(client) << client.message();
    return std::move(*client);
  }
  void TearDown() override {
    const testing::Ran audit = testing::RunCommand(daemon_.Command({"audit"}));
    EXPECT_EQ(audit.exit_code, 0) << audit.output << audit.error;
  }
  // The descriptor of a subscriber that has found nothing.
  static int Armed(Subscriber& subscriber) {
    auto fd = subscriber.fd();
    EXPECT_TRUE(fd) << fd.message();
    EXPECT_TRUE(IsReadable(*fd));  // until the first take
    EXPECT_EQ(subscriber.TryTake().code(), Code::kTimeout);
    EXPECT_FALSE(IsReadable(*fd));
    return *fd;
  }
  // What a user's loop gets next that is not kTimeout; kTimeout if the watchdog barks.
  static Result<Sample> Next(Subscriber& subscriber, int fd) {
    for (;;) {
      auto sample = subscriber.TryTake();
      if (sample.code() != Code::kTimeout || !IsReadable(fd, kWatchdogMs)) return sample;
    }
  }

  testing::DaemonProcess daemon_{{"--pool", "frames=4KiBx512", "--channel",
                                  "camera=frames,queue=16", "--channel", "held=frames,max-held=1"}};
};

TEST_F(ReadyFdTest, IsReadableFromAMessageUntilATakeThatFindsNothing) {
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  const int fd = Armed(*subscriber);
  EXPECT_EQ(*subscriber->fd(), fd);
  EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
  for (int round = 0; round < 50; ++round) {
    // Past the thread's first short sleep, only the ring can wake it.
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    Send(*publisher, 3);
    ASSERT_TRUE(IsReadable(fd, kWatchdogMs)) << round;
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(subscriber->TryTake());
      EXPECT_TRUE(IsReadable(fd, kWatchdogMs));
    }
    // A second take may have to find nothing: the first may have met the thread on its way.
    while (IsReadable(fd)) ASSERT_EQ(subscriber->TryTake().code(), Code::kTimeout);
  }
}

TEST_F(ReadyFdTest, AMessageWakesALoopAtMostTwice) {
  constexpr int kRounds = 300;
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  const int fd = Armed(*subscriber);
  int wakes = 0;
  for (int taken = 0; taken < kRounds;) {
    const int before = taken;
    Send(*publisher, 1);
    do {
      ASSERT_TRUE(IsReadable(fd, kWatchdogMs)) << taken;
      ++wakes;
      auto sample = subscriber->TryTake();
      for (; sample; sample = subscriber->TryTake()) ++taken;
      ASSERT_EQ(sample.code(), Code::kTimeout) << sample.message();
    } while (taken == before || IsReadable(fd));
  }
  EXPECT_LE(wakes, 2 * kRounds + 20);  // 20 for the publisher that joined
}

TEST_F(ReadyFdTest, WhatComesAfterATakeThatFindsNothingIsAnEdge) {
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  const EdgePoll edges(Armed(*subscriber));
  for (int round = 0; round < 1000; ++round) {
    Send(*publisher, 1);
    bool taken = false;
    while (!taken) {
      ASSERT_TRUE(edges.Next()) << "no edge for message " << round;
      auto sample = subscriber->TryTake();
      for (; sample; sample = subscriber->TryTake()) taken = true;
      ASSERT_EQ(sample.code(), Code::kTimeout) << sample.message();
    }
  }
}

// Who takes no more after it sleeps until something comes, and that is an edge.
TEST_F(ReadyFdTest, TheEndOfAStreamFoundNothing) {
  constexpr int kStreams = 20;
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto fd = subscriber->fd();
  ASSERT_TRUE(fd) << fd.message();
  const EdgePoll edges(*fd);
  int quiet = 0;
  for (int stream = 0; stream < kStreams; ++stream) {
    auto publisher = client.JoinAsPublisher("camera");
    Send(*publisher, 1);
    publisher->Close();
    int taken = 0;
    auto sample = subscriber->TryTake();
    while (sample.code() != Code::kEndOfStream) {
      if (sample) {
        ++taken;
      } else {
        ASSERT_EQ(sample.code(), Code::kTimeout) << sample.message();
        ASSERT_TRUE(edges.Next()) << "no edge for stream " << stream;
      }
      sample = subscriber->TryTake();
    }
    EXPECT_EQ(taken, 1);
    quiet += IsReadable(*fd) ? 0 : 1;
  }
  EXPECT_GT(quiet, 0);  // not always: the daemon may have rung meanwhile
}

TEST_F(ReadyFdTest, ALoopOverThreeSubscribersLosesNothingAndDoesNotSpin) {
  constexpr uint64_t kMessages = 20'000;
  Client client = Connect();
  std::vector<Subscriber> subscribers;
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  ASSERT_GE(epoll, 0);
  for (uint32_t i = 0; i < 3; ++i) {
    auto subscriber = client.JoinAsSubscriber("camera");
    ASSERT_TRUE(subscriber);
    auto fd = subscriber->fd();
    ASSERT_TRUE(fd) << fd.message();
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u32 = i;
    ASSERT_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, *fd, &event), 0);
    subscribers.push_back(std::move(*subscriber));
  }
  std::vector<std::thread> senders;
  for (int i = 0; i < 2; ++i) {
    senders.emplace_back([this] {
      Client own = Connect("sender");
      auto publisher = own.JoinAsPublisher("camera");
      if (!publisher) std::abort();
      Send(*publisher, kMessages);
    });
  }
  uint64_t taken[3] = {};
  uint64_t nothing = 0;
  size_t ended = 0;
  while (ended < 3 || taken[0] + taken[1] + taken[2] < 6 * kMessages) {
    epoll_event events[3];
    const int count = epoll_wait(epoll, events, 3, kWatchdogMs);
    ASSERT_GT(count, 0) << taken[0] << " " << taken[1] << " " << taken[2];
    for (int i = 0; i < count; ++i) {
      const uint32_t which = events[i].data.u32;
      for (;;) {
        auto sample = subscribers[which].TryTake();
        if (sample) {
          ++taken[which];
          continue;
        }
        if (sample.code() == Code::kTimeout) {
          ++nothing;
          break;
        }
        ASSERT_EQ(sample.code(), Code::kEndOfStream) << sample.message();
        ended += taken[which] == 2 * kMessages ? 1 : 0;
      }
    }
  }
  for (std::thread& sender : senders) sender.join();
  for (uint64_t count : taken) EXPECT_EQ(count, 2 * kMessages);
  // At most two looks for nothing for each message and each join or leave.
  EXPECT_LE(nothing, 2 * (6 * kMessages + 100));
  close(epoll);
}

TEST_F(ReadyFdTest, TheEndOfAStreamAndADeathMakeItReadable) {
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  const int fd = Armed(*subscriber);
  publisher->Close();
  EXPECT_EQ(Next(*subscriber, fd).code(), Code::kEndOfStream);
  *publisher = std::move(*client.JoinAsPublisher("camera"));
  EXPECT_EQ(subscriber->TryTake().code(), Code::kTimeout);
  const pid_t pid = fork();
  if (pid == 0) {
    auto own = Client::Connect({.name = "dies", .runtime_dir = daemon_.runtime_dir()});
    auto mine = own->JoinAsPublisher("camera");
    Send(*mine, 1);
    kill(getpid(), SIGKILL);
  }
  EXPECT_EQ(waitpid(pid, nullptr, 0), pid);
  EXPECT_TRUE(Next(*subscriber, fd));
  publisher->Close();
  EXPECT_EQ(Next(*subscriber, fd).code(), Code::kPublisherDied);
}

TEST_F(ReadyFdTest, SurvivesTheDaemonAndTellsThatAnotherCame) {
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  const int fd = Armed(*subscriber);
  daemon_.Stop(SIGKILL);
  Send(*publisher, 1);
  EXPECT_TRUE(Next(*subscriber, fd));
  EXPECT_EQ(subscriber->TryTake().code(), Code::kTimeout);
  daemon_.Start();
  Send(*publisher, 1);
  EXPECT_TRUE(Next(*subscriber, fd));
  EXPECT_EQ(subscriber->TryTake().code(), Code::kTimeout);
  daemon_.Stop(SIGKILL);
  for (const std::string& segment : daemon_.Segments()) std::filesystem::remove(segment);
  daemon_.Start();
  EXPECT_EQ(Next(*subscriber, fd).code(), Code::kInstanceLost);
  EXPECT_TRUE(IsReadable(fd, kWatchdogMs));  // of the daemon it is told within half a second
}

TEST_F(ReadyFdTest, AWaitMakesItReadableAndTheNextTakeArmsItAgain) {
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  const int fd = Armed(*subscriber);
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(subscriber->Wait(std::chrono::milliseconds(3)).code(), Code::kTimeout);
    EXPECT_TRUE(IsReadable(fd, kWatchdogMs));
    EXPECT_EQ(subscriber->TryTake().code(), Code::kTimeout);
    std::thread sender([&] { Send(*publisher, 1); });
    auto sample = round % 2 == 0 ? subscriber->Wait(std::chrono::milliseconds(kWatchdogMs))
                                 : Next(*subscriber, fd);
    sender.join();
    ASSERT_TRUE(sample) << round;
    EXPECT_EQ(subscriber->TryTake().code(), Code::kTimeout);
  }
}

TEST_F(ReadyFdTest, WhatIsHeldMustBeReleasedFirst) {
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("held");
  auto publisher = client.JoinAsPublisher("held");
  const int fd = Armed(*subscriber);
  Send(*publisher, 2);
  auto first = Next(*subscriber, fd);
  ASSERT_TRUE(first);
  EXPECT_EQ(subscriber->TryTake().code(), Code::kHeldLimit);
  EXPECT_TRUE(IsReadable(fd, kWatchdogMs));
  *first = Sample();
  EXPECT_TRUE(Next(*subscriber, fd));
}

TEST_F(ReadyFdTest, TheThreadBlocksSignalsAndEndsWithTheSubscriber) {
  Client client = Connect();
  const size_t before = ThreadCount();
  auto subscriber = client.JoinAsSubscriber("camera");
  EXPECT_EQ(ThreadCount(), before);
  Armed(*subscriber);
  ASSERT_EQ(ThreadCount(), before + 1);
  bool found = false;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (testing::ReadFile(task.path() / "comm") != "zerocp-ready\n") continue;
    found = true;
    const std::string status = testing::ReadFile(task.path() / "status");
    const size_t at = status.find("SigBlk:\t");
    ASSERT_NE(at, std::string::npos);
    const uint64_t blocked = std::stoull(status.substr(at + 8), nullptr, 16);
    for (int signal : {SIGTERM, SIGINT, SIGUSR1, SIGALRM, SIGCHLD, SIGHUP})
      EXPECT_NE(blocked >> (signal - 1) & 1, 0u) << signal;
  }
  EXPECT_TRUE(found);
  subscriber->Close();
  EXPECT_EQ(ThreadCount(), before);
}

TEST_F(ReadyFdTest, AChildOfAForkIsRefusedAndDisturbsNothing) {
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  const int fd = Armed(*subscriber);
  const pid_t pid = fork();
  if (pid == 0) {
    const bool good = subscriber->fd().code() == Code::kUnavailable &&
                      subscriber->TryTake().code() == Code::kUnavailable && ThreadCount() == 1;
    *subscriber = Subscriber();
    client = Client();
    _exit(good ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(IsReadable(fd));
  Send(*publisher, 1);
  EXPECT_TRUE(Next(*subscriber, fd));
}

TEST_F(ReadyFdTest, AProcessThatReturnsFromMainEnds) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(60);
    auto client = new auto(Client::Connect({.name = "ends", .runtime_dir = daemon_.runtime_dir()}));
    auto subscriber = new auto((*client)->JoinAsSubscriber("camera"));
    Armed(**subscriber);
    std::quick_exit(HasFailure() ? 1 : 0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace zerocp
