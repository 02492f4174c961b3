// How much may be held at once: samples of a channel by one subscriber (max_held_count), loans and
// samples by a process (--max-chunks-per-session).
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

class HeldLimit : public ::testing::Test {
 protected:
  Client Connect() {
    auto client = Client::Connect({.name = "holder", .runtime_dir = daemon_.runtime_dir()});
    EXPECT_TRUE(client) << client.message();
    return std::move(*client);
  }
  void TearDown() override {
    const testing::Ran audit = testing::RunCommand(daemon_.Command({"audit"}));
    EXPECT_EQ(audit.exit_code, 0) << audit.output << audit.error;
  }
  static void Send(Publisher& publisher, int count) {
    for (int i = 0; i < count; ++i) {
      auto loan = publisher.NewLoan(1);
      ASSERT_TRUE(loan) << loan.message();
      ASSERT_TRUE(publisher.Publish(*loan));
    }
  }

  testing::DaemonProcess daemon_{{"--pool", "frames=4KiBx32", "--channel",
                                  "camera=frames,queue=8,max-held=2", "--channel",
                                  "free=frames,queue=16"}};
};

TEST_F(HeldLimit, ATakeBeyondItIsRefusedAtOnceAndLeavesTheMessage) {
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  ASSERT_TRUE(subscriber && publisher);
  Send(*publisher, 4);
  auto first = subscriber->TryTake();
  auto second = subscriber->TryTake();
  ASSERT_TRUE(first && second);
  const auto third = subscriber->TryTake();
  EXPECT_EQ(third.code(), Code::kHeldLimit);
  EXPECT_NE(third.message().find("holds 2 samples"), std::string::npos) << third.message();
  EXPECT_NE(third.message().find("channel 'camera'"), std::string::npos) << third.message();
  EXPECT_EQ(subscriber->Wait().code(), Code::kHeldLimit);  // for ever, if it slept
  *first = Sample();
  auto next = subscriber->TryTake();
  ASSERT_TRUE(next);
  EXPECT_EQ(next->sequence(), 3u);
  EXPECT_EQ(subscriber->TryTake().code(), Code::kHeldLimit);
  *second = Sample();
  *next = Sample();
  next = subscriber->TryTake();
  ASSERT_TRUE(next);
  EXPECT_EQ(next->sequence(), 4u);
}

TEST_F(HeldLimit, EachSubscriberHasItsOwnAndWhatOutlivesOneCountsForNobodyElse) {
  Client client = Connect();
  auto publisher = client.JoinAsPublisher("camera");
  std::vector<Sample> kept;
  for (int round = 0; round < 8; ++round) {
    auto subscriber = client.JoinAsSubscriber("camera");
    auto other = client.JoinAsSubscriber("camera");
    ASSERT_TRUE(subscriber && other) << subscriber.message();
    Send(*publisher, 3);
    for (int i = 0; i < 2; ++i) {
      auto sample = subscriber->TryTake();
      ASSERT_TRUE(sample) << sample.message();
      kept.push_back(std::move(*sample));
      ASSERT_TRUE(other->TryTake());
    }
    EXPECT_EQ(subscriber->TryTake().code(), Code::kHeldLimit);
    EXPECT_TRUE(other->TryTake());
    subscriber->Close();
    if (round % 2 == 1) kept.clear();  // after their subscribers
  }
}

TEST_F(HeldLimit, ASampleThatWasNamedStillCounts) {
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  Send(*publisher, 3);
  auto first = subscriber->TryTake();
  auto second = subscriber->TryTake();
  auto handle = second->handle();
  ASSERT_TRUE(first && handle);
  auto opened = client.Open(*handle);  // not the subscriber's
  ASSERT_TRUE(opened);
  *opened = Sample();
  EXPECT_EQ(subscriber->TryTake().code(), Code::kHeldLimit);
  *second = Sample();
  EXPECT_TRUE(subscriber->TryTake());
}

TEST_F(HeldLimit, OtherThreadsReleaseWhatOneTakes) {
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  constexpr int kMessages = 5'000;
  std::thread sender([&] {
    for (int i = 0; i < kMessages; ++i) {
      auto loan = publisher->NewLoan(1, std::nullopt);
      if (!loan || !publisher->Publish(*loan)) std::abort();
    }
  });
  std::atomic<int> held{0};
  struct Place {
    Sample sample;
    std::atomic<bool> full{false};
  } places[2];
  std::atomic<bool> done{false};
  std::vector<std::thread> releasers;
  for (Place& place : places) {
    releasers.emplace_back([&] {
      while (!done) {
        if (!place.full.load(std::memory_order_acquire)) {
          std::this_thread::yield();
          continue;
        }
        held.fetch_sub(1);
        place.sample = Sample();
        place.full.store(false, std::memory_order_release);
      }
    });
  }
  uint64_t expected = 1;
  while (expected <= kMessages) {
    auto sample = subscriber->Wait(std::chrono::milliseconds(1));
    if (!sample) {
      ASSERT_TRUE(sample.code() == Code::kHeldLimit || sample.code() == Code::kTimeout);
      continue;
    }
    ASSERT_EQ(sample->sequence(), expected++);
    ASSERT_LE(held.fetch_add(1) + 1, 2);
    for (bool placed = false; !placed;) {
      for (Place& place : places) {
        if (place.full.load(std::memory_order_acquire)) continue;
        place.sample = std::move(*sample);
        place.full.store(true, std::memory_order_release);
        placed = true;
        break;
      }
    }
  }
  sender.join();
  while (places[0].full || places[1].full) std::this_thread::yield();
  done = true;
  for (std::thread& thread : releasers) thread.join();
}

TEST_F(HeldLimit, AChildOfAForkCountsNothingForItsParent) {
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  Send(*publisher, 3);
  auto first = subscriber->TryTake();
  auto second = subscriber->TryTake();
  ASSERT_TRUE(first && second);
  const pid_t pid = fork();
  if (pid == 0) {
    bool good = subscriber->TryTake().code() == Code::kUnavailable;
    *first = Sample();
    *second = Sample();
    *subscriber = Subscriber();
    auto own = Client::Connect({.name = "child", .runtime_dir = daemon_.runtime_dir()});
    auto joined = own->JoinAsSubscriber("camera");
    good = good && joined && joined->TryTake().code() == Code::kTimeout;
    _exit(good ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(subscriber->TryTake().code(), Code::kHeldLimit);
  *first = Sample();
  EXPECT_TRUE(subscriber->TryTake());
}

TEST_F(HeldLimit, IsShownAndSurvivesTheDaemon) {
  const auto shown = [&] { return testing::RunCommand(daemon_.Command({"channels"})).output; };
  EXPECT_NE(shown().find("MAX HELD"), std::string::npos);
  Client client = Connect();
  daemon_.Stop(SIGKILL);
  daemon_.Start();
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  ASSERT_TRUE(subscriber && publisher) << subscriber.message() << publisher.message();
  Send(*publisher, 3);
  auto first = subscriber->TryTake();
  auto second = subscriber->TryTake();
  EXPECT_EQ(subscriber->TryTake().code(), Code::kHeldLimit);
}

TEST_F(HeldLimit, ThereIsNoneUnlessTheChannelHasOne) {
  Client client = Connect();
  auto subscriber = client.JoinAsSubscriber("free");
  auto publisher = client.JoinAsPublisher("free");
  Send(*publisher, 16);
  std::vector<Sample> held;
  for (int i = 0; i < 16; ++i) {
    auto sample = subscriber->TryTake();
    ASSERT_TRUE(sample) << sample.message();
    held.push_back(std::move(*sample));
  }
}

class SessionLimit : public ::testing::Test {
 protected:
  Client Connect() {
    auto client = Client::Connect({.name = "holder", .runtime_dir = daemon_.runtime_dir()});
    EXPECT_TRUE(client) << client.message();
    return std::move(*client);
  }

  testing::DaemonProcess daemon_{{"--pool", "frames=4KiBx32", "--pool", "points=64x5000",
                                  "--channel", "camera=frames,queue=8", "--channel", "light=frames",
                                  "--max-chunks-per-session", "4"}};
};

TEST_F(SessionLimit, LoansAndSamplesOfAllPoolsCountTogether) {
  Client client = Connect();
  auto publisher = client.JoinAsPublisher("camera");
  auto subscriber = client.JoinAsSubscriber("camera");
  ASSERT_TRUE(publisher && subscriber);
  auto frame = publisher->NewLoan(1);
  auto point = client.NewLoan("points", 1);
  ASSERT_TRUE(frame && point);
  ASSERT_TRUE(publisher->Publish(*frame));  // what waits in a queue does not count
  auto loan = client.NewLoan("points", 1);
  ASSERT_TRUE(loan) << loan.message();
  auto shared = std::move(*loan).Share();
  ASSERT_TRUE(shared) << shared.message();
  auto sample = subscriber->TryTake();
  ASSERT_TRUE(sample) << sample.message();
  auto last = publisher->NewLoan(1);
  ASSERT_TRUE(last) << last.message();

  const auto refused = publisher->NewLoan(1, std::nullopt);  // would wait for ever, if it did
  EXPECT_EQ(refused.code(), Code::kHeldLimit);
  EXPECT_NE(refused.message().find("has 4 loans and samples"), std::string::npos)
      << refused.message();
  EXPECT_NE(refused.message().find("--max-chunks-per-session"), std::string::npos);
  EXPECT_EQ(client.NewLoan("points", 1).code(), Code::kHeldLimit);
  EXPECT_EQ(client.Open(*shared->handle()).code(), Code::kHeldLimit);
  EXPECT_EQ(subscriber->Wait().code(), Code::kHeldLimit);
  ASSERT_TRUE(publisher->Publish(*last));
  EXPECT_EQ(client.Open(*shared->handle()).code(), Code::kOk);
  sample = subscriber->TryTake();
  EXPECT_TRUE(sample) << sample.message();
}

TEST_F(SessionLimit, WhatAThreadReleasedAnotherCanHave) {
  Client client = Connect();
  for (int round = 0; round < 100; ++round) {
    std::vector<Loan> loans;
    for (int i = 0; i < 4; ++i) {
      auto loan = client.NewLoan("points", 1);
      ASSERT_TRUE(loan) << loan.message();
      loans.push_back(std::move(*loan));
    }
    std::thread([&] {
      EXPECT_EQ(client.NewLoan("points", 1).code(), Code::kHeldLimit);
      loans.clear();
    }).join();
  }
}

TEST_F(SessionLimit, WhoHasWaitedForAMessageIsAskedWhenItIsThere) {
  Client client = Connect();
  Client sender = Connect();  // has a session of its own, and so a limit
  auto camera = sender.JoinAsPublisher("camera");
  auto light = sender.JoinAsPublisher("light");
  auto first = client.JoinAsSubscriber("camera");
  auto second = client.JoinAsSubscriber("light");
  ASSERT_TRUE(camera && light && first && second);
  std::vector<Loan> loans;
  for (int i = 0; i < 3; ++i) loans.push_back(std::move(*client.NewLoan("points", 1)));
  Code code = Code::kOk;
  std::thread waiting([&] { code = second->Wait().code(); });
  const auto send = [](Publisher& publisher) {
    auto loan = publisher.NewLoan(1);
    return loan && publisher.Publish(*loan);
  };
  ASSERT_TRUE(send(*camera));
  const auto sample = first->Wait();
  EXPECT_TRUE(sample) << sample.message();
  ASSERT_TRUE(send(*light));
  waiting.join();
  EXPECT_EQ(code, Code::kHeldLimit);
  loans.clear();
  EXPECT_TRUE(second->TryTake());
}

TEST_F(SessionLimit, TheNextDaemonsLimitIsForWhoAttachesThen) {
  const auto loans_until_refused = [](Client& client) {
    std::vector<Loan> loans;
    for (;;) {
      auto loan = client.NewLoan("points", 1);
      if (!loan) {
        EXPECT_EQ(loan.code(), Code::kHeldLimit) << loan.message();
        return loans.size();
      }
      loans.push_back(std::move(*loan));
    }
  };
  Client client = Connect();
  EXPECT_EQ(loans_until_refused(client), 4u);
  daemon_.Stop(SIGKILL);
  daemon_.Start({"--max-chunks-per-session", "6"});  // the pools are adopted
  EXPECT_EQ(loans_until_refused(client), 4u);
  client = Client();
  client = Connect();
  EXPECT_EQ(loans_until_refused(client), 6u);
}

}  // namespace
}  // namespace zerocp
