// Lossy subscribers: dropping channels, taps on waiting channels, shorter queues, exact counts of
// what was missed.
#include <thread>

#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {
namespace {

using std::chrono::milliseconds;

constexpr SubscriberSpec kTap{.queue_capacity = 0, .lossy = true};

class DropTest : public InstanceFixture {
 protected:
  void SetUp() override {
    AddPool("pool", 64, 1024);
    AddChannel("wait", "pool", 4);
    AddChannel("drop", "pool", 4, WhenFull::kDropOldest);
    first_ = Attach();
    second_ = Attach();
    third_ = Attach();
  }
  void TearDown() override {
    first_->Close();
    second_->Close();
    third_->Close();
    InstanceFixture::TearDown();
  }
  const PoolView& pool() { return *manager_->FindPool("pool"); }
  Cursor& CursorOf(const PublisherPort& publisher, const SubscriberPort& subscriber) {
    const ChannelRegistry::Channel& channel = *registry_->channel(publisher.info().channel);
    return channel.Lane(channel.lanes[publisher.info().index], *manager_)
        .cursors[subscriber.info().index];
  }
  void SendAll(Session& session, PublisherPort& publisher, uint64_t from, uint64_t to) {
    for (uint64_t i = from; i < to; ++i)
      ASSERT_EQ(Send(session, publisher, i, Deadline::Never()), Code::kOk);
  }
  static void ExpectTakesAfter(Session& session, SubscriberPort& port, uint64_t value,
                               uint64_t missed) {
    ExpectTakes(session, port, value);
    EXPECT_EQ(port.missed_before(), missed) << "before message " << value;
  }

  std::shared_ptr<Session> first_, second_, third_;
};

TEST_F(DropTest, ADroppingChannelKeepsTheNewestMessagesAndSaysHowManyAreGone) {
  auto publisher = Publish(first_, "drop");
  auto subscriber = Subscribe(second_, "drop");
  SendAll(*first_, *publisher, 0, 2);
  ExpectTakesAfter(*second_, *subscriber, 0, 0);
  SendAll(*first_, *publisher, 2, 100);
  ExpectTakesAfter(*second_, *subscriber, 96, 95);
  for (uint64_t i = 97; i < 100; ++i) ExpectTakesAfter(*second_, *subscriber, i, 0);
  ChunkRef none;
  EXPECT_EQ(subscriber->TryTake(&none), Code::kTimeout);
  EXPECT_EQ(subscriber->missed_count(), 95u);
}

TEST_F(DropTest, TheDaemonCountsWhatASubscriberTookAndMissedAndNothingOfTheOneBefore) {
  auto publisher = Publish(first_, "drop");
  auto subscriber = Subscribe(second_, "drop");
  SendAll(*first_, *publisher, 0, 10);
  ExpectTakes(*second_, *subscriber, 6);
  ExpectTakes(*second_, *subscriber, 7);
  const ChannelRegistry::Channel& channel = *registry_->Find("drop");
  const uint32_t index = subscriber->info().index;
  auto counts = registry_->CountsOf(channel, index);
  EXPECT_EQ(counts.queued_count, 2u);
  EXPECT_EQ(counts.taken_count, 2u);
  EXPECT_EQ(counts.missed_count, 6u);
  EXPECT_EQ(counts.fullest_count, 2u);
  SendAll(*first_, *publisher, 10, 12);
  auto other = Publish(first_, "drop");
  SendAll(*first_, *other, 100, 101);
  counts = registry_->CountsOf(channel, index);
  EXPECT_EQ(counts.queued_count, 5u);
  EXPECT_EQ(counts.fullest_count, 4u);

  Leave(std::move(subscriber), *second_);
  subscriber = Subscribe(third_, "drop");
  ASSERT_EQ(subscriber->info().index, index);
  counts = registry_->CountsOf(channel, index);  // not served yet
  EXPECT_EQ(counts.queued_count, 0u);
  EXPECT_EQ(counts.taken_count, 0u);
  EXPECT_EQ(counts.missed_count, 0u);
  SendAll(*first_, *publisher, 12, 13);
  ExpectTakes(*third_, *subscriber, 12);
  EXPECT_EQ(registry_->CountsOf(channel, index).taken_count, 1u);
}

TEST_F(DropTest, WhatWasTakenOfALaneThatIsGoneStillCounts) {
  auto publisher = Publish(first_, "drop");
  auto subscriber = Subscribe(second_, "drop");
  SendAll(*first_, *publisher, 0, 10);
  for (uint64_t i = 6; i < 10; ++i) ExpectTakes(*second_, *subscriber, i);
  const uint32_t lane = publisher->info().index;
  Leave(std::move(publisher), *first_);
  const ChannelRegistry::Channel& channel = *registry_->Find("drop");
  const uint32_t index = subscriber->info().index;
  ChunkRef none;
  EXPECT_EQ(subscriber->TryTake(&none), Code::kEndOfStream);
  for (int i = 0; i < 4; ++i) {
    const auto counts = registry_->CountsOf(channel, index);
    EXPECT_EQ(counts.taken_count, 4u);
    EXPECT_EQ(counts.missed_count, 6u);
    registry_->RetireLanes();
    (void)subscriber->TryTake(&none);  // looks at the table
  }
  EXPECT_EQ(channel.lanes[lane].state, LaneState::kFree);
  publisher = Publish(third_, "drop");
  SendAll(*third_, *publisher, 10, 11);
  ExpectTakes(*second_, *subscriber, 10);
  EXPECT_EQ(registry_->CountsOf(channel, index).taken_count, 5u);
}

TEST_F(DropTest, CountsAddUpAfterAnyRace) {
  constexpr uint64_t kMessages = 20'000;
  auto publisher = Publish(first_, "drop");
  auto subscriber = Subscribe(second_, "drop");
  const ChannelRegistry::Channel& channel = *registry_->Find("drop");
  const uint32_t index = subscriber->info().index;
  std::atomic<bool> done{false};
  uint64_t taken = 0;
  std::thread taker([&] {
    ChunkRef chunk;
    for (;;) {
      const bool last = done.load();
      if (subscriber->TryTake(&chunk) == Code::kOk) {
        ++taken;
        EXPECT_TRUE(second_->Release(chunk));
      } else if (last) {
        break;
      }
    }
    second_->FlushThisThread();
  });
  std::thread sender([&] {
    SendAll(*first_, *publisher, 0, kMessages);
    first_->FlushThisThread();
    done.store(true);
  });
  while (!done.load()) EXPECT_LE(registry_->CountsOf(channel, index).queued_count, 4u);
  sender.join();
  taker.join();
  const auto counts = registry_->CountsOf(channel, index);
  EXPECT_EQ(counts.taken_count, taken);
  EXPECT_EQ(counts.missed_count, kMessages - taken);
  EXPECT_EQ(counts.queued_count, 0u);
}

TEST_F(DropTest, APublishSaysWhatItDropped) {
  auto publisher = Publish(first_, "drop");
  auto one = Subscribe(second_, "drop");
  auto two = Subscribe(third_, "drop");
  SendAll(*first_, *publisher, 0, 4);
  ExpectTakes(*second_, *one, 0);
  for (int expected : {1, 2}) {
    ChunkRef chunk;
    ASSERT_EQ(first_->Loan(pool(), Deadline::Now(), &chunk), Code::kOk);
    Published published{};
    ASSERT_EQ(publisher->Publish(chunk, Deadline::Now(), &published), Code::kOk);
    EXPECT_EQ(published.delivered, 2);
    EXPECT_EQ(published.dropped, expected);
  }
}

TEST_F(DropTest, WhatIsDroppedIsFreeAtOnceAndOnlyOnce) {
  auto publisher = Publish(first_, "drop");
  auto one = Subscribe(second_, "drop");
  SendAll(*first_, *publisher, 0, 5000);  // moved: one subscriber
  first_->FlushThisThread();
  EXPECT_EQ(Counts(pool()).free_count, 1020u);
  auto two = Subscribe(third_, "drop");
  SendAll(*first_, *publisher, 0, 5000);  // shared
  first_->FlushThisThread();
  EXPECT_EQ(Counts(pool()).shared_count, 4u);
  EXPECT_EQ(Counts(pool()).free_count, 1020u);
}

TEST_F(DropTest, AMessageThatOneStillReadsIsDroppedAtTheOtherOnly) {
  auto publisher = Publish(first_, "drop");
  auto reader = Subscribe(second_, "drop");
  auto stopped = Subscribe(third_, "drop");
  SendAll(*first_, *publisher, 7, 8);
  ChunkRef held;
  ASSERT_EQ(reader->TryTake(&held), Code::kOk);
  SendAll(*first_, *publisher, 8, 50);
  EXPECT_EQ(Value(held), 7u);
  EXPECT_TRUE(second_->Release(held));
  ExpectTakesAfter(*third_, *stopped, 46, 39);
}

TEST_F(DropTest, ATapOnAWaitingChannelHoldsNobodyUp) {
  auto publisher = Publish(first_, "wait");
  auto tap = Subscribe(third_, "wait", kTap);
  auto subscriber = Subscribe(second_, "wait");
  for (uint64_t i = 0; i < 100; ++i) {
    ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
    ExpectTakes(*second_, *subscriber, i);
  }
  ExpectTakesAfter(*third_, *tap, 96, 96);
  // The other one is waited for as before; and a publish that fails drops nothing at the tap.
  for (uint64_t i = 100; i < 104; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Send(*first_, *publisher, 0), Code::kTimeout);
  for (uint64_t i = 100; i < 104; ++i) {
    ExpectTakesAfter(*third_, *tap, i, i == 100 ? 3 : 0);
    ExpectTakes(*second_, *subscriber, i);
  }
}

TEST_F(DropTest, AFailedPublishDropsNothing) {
  auto publisher = Publish(first_, "wait");
  auto tap = Subscribe(third_, "wait", kTap);
  auto subscriber = Subscribe(second_, "wait");
  SendAll(*first_, *publisher, 0, 4);  // both are full now
  EXPECT_EQ(Send(*first_, *publisher, 4), Code::kTimeout);
  EXPECT_EQ(Send(*first_, *publisher, 4, Deadline::After(milliseconds(3))), Code::kTimeout);
  EXPECT_EQ(CursorOf(*publisher, *tap).dropped.load(), 0u);
  for (uint64_t i = 0; i < 4; ++i) ExpectTakesAfter(*third_, *tap, i, 0);
}

TEST_F(DropTest, AQueueOfOneHasTheLatestMessageOnly) {
  auto publisher = Publish(first_, "drop");
  auto latest = Subscribe(second_, "drop", {.queue_capacity = 1, .lossy = false});
  auto all = Subscribe(third_, "drop");
  for (uint64_t i = 0; i < 40; ++i) {
    ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
    ExpectTakesAfter(*third_, *all, i, 0);
    if (i % 10 == 9) ExpectTakesAfter(*second_, *latest, i, 9);
  }
}

TEST_F(DropTest, AShorterQueueMakesThePublisherOfAWaitingChannelWaitEarlier) {
  auto publisher = Publish(first_, "wait");
  auto subscriber = Subscribe(second_, "wait", {.queue_capacity = 3, .lossy = false});
  SendAll(*first_, *publisher, 0, 3);
  EXPECT_EQ(Send(*first_, *publisher, 3), Code::kTimeout);
  std::thread taker([&] {
    for (uint64_t i = 0; i < 1000; ++i) {
      ChunkRef chunk;
      ASSERT_EQ(subscriber->Take(Deadline::Never(), &chunk), Code::kOk);
      EXPECT_EQ(Value(chunk), i);
      EXPECT_TRUE(second_->Release(chunk));
    }
  });
  for (uint64_t i = 3; i < 1000; ++i) {
    ASSERT_EQ(Send(*first_, *publisher, i, Deadline::Never()), Code::kOk);
    EXPECT_LE(registry_->QueuedCount(*registry_->Find("wait"), subscriber->info().index), 3u);
  }
  taker.join();
}

TEST_F(DropTest, ALongerQueueThanTheChannelsIsRefused) {
  const auto refused = registry_->JoinAsSubscriber("wait", "", second_->id(), {5, false});
  EXPECT_EQ(refused.code(), Code::kInvalid);
  EXPECT_NE(refused.status().message().find("5"), std::string::npos);
  EXPECT_EQ(ChannelRegistry::SubscriberCount(*registry_->Find("wait")), 0u);
}

TEST_F(DropTest, WhatASubscriberMissedCountsFromItsJoin) {
  auto publisher = Publish(first_, "drop");
  auto early = Subscribe(third_, "drop");
  SendAll(*first_, *publisher, 0, 1000);
  auto late = Subscribe(second_, "drop");
  SendAll(*first_, *publisher, 1000, 1002);
  ExpectTakesAfter(*second_, *late, 1000, 0);
  ExpectTakesAfter(*second_, *late, 1001, 0);
  EXPECT_EQ(CursorOf(*publisher, *late).start.load(), 1000u);
  SendAll(*first_, *publisher, 1002, 1010);
  EXPECT_EQ(CursorOf(*publisher, *late).dropped.load(), 4u);
  ExpectTakesAfter(*third_, *early, 1006, 1006);
}

TEST_F(DropTest, WhatWasMissedOfSeveralPublishersIsSummedUp) {
  auto one = Publish(first_, "drop");
  auto two = Publish(third_, "drop");
  auto subscriber = Subscribe(second_, "drop");
  SendAll(*first_, *one, 0, 10);     // 6 too many
  SendAll(*third_, *two, 100, 107);  // 3 too many
  uint64_t taken = 0;
  uint64_t told = 0;
  ChunkRef chunk;
  while (subscriber->TryTake(&chunk) == Code::kOk) {
    ++taken;
    told += subscriber->missed_before();
    EXPECT_TRUE(second_->Release(chunk));
  }
  EXPECT_EQ(taken, 8u);
  EXPECT_EQ(told, 9u);
  EXPECT_EQ(subscriber->missed_count(), 9u);
}

// The known tail of a lane is old when its publisher has dropped beyond it.
TEST_F(DropTest, ASubscriberThatWasOverrunSeveralTimesGoesOn) {
  auto publisher = Publish(first_, "drop");
  auto subscriber = Subscribe(second_, "drop");
  uint64_t sent = 0;
  for (uint64_t round = 0; round < 50; ++round) {
    SendAll(*first_, *publisher, sent, sent + 13);
    sent += 13;
    ExpectTakesAfter(*second_, *subscriber, sent - 4, round == 0 ? 9 : 12);
  }
}

TEST_F(DropTest, AStreamsEndCountsWhatWasDroppedLast) {
  auto publisher = Publish(first_, "drop");
  auto subscriber = Subscribe(second_, "drop", {.queue_capacity = 1, .lossy = false});
  SendAll(*first_, *publisher, 0, 1);
  ExpectTakesAfter(*second_, *subscriber, 0, 0);
  SendAll(*first_, *publisher, 1, 2);
  // As a publisher leaves it that is killed between a drop and the message it made room for.
  Cursor& cursor = CursorOf(*publisher, *subscriber);
  const Cell cell = DecodeCell(
      registry_->Find("drop")->Lane(registry_->Find("drop")->lanes[0], *manager_).cell(1).load());
  cursor.word.store(CursorWith(cursor.word.load(), CursorEpoch(cursor.word.load()), 2));
  first_->FlushThisThread();
  Kill(first_);
  EXPECT_EQ(KindOf(pool().record(cell.chunk).word.load()), Kind::kFree);
  ChunkRef none;
  EXPECT_EQ(subscriber->TryTake(&none), Code::kPublisherDied);
  EXPECT_EQ(subscriber->missed_count(), 1u);
  first_ = Attach();
  publisher = Publish(first_, "drop");
  SendAll(*first_, *publisher, 2, 3);
  ExpectTakesAfter(*second_, *subscriber, 2, 1);
}

TEST_F(DropTest, BothEndsInOneSessionAreToldApart) {
  auto publisher = Publish(first_, "drop");
  auto subscriber = Subscribe(first_, "drop");
  for (uint64_t i = 0; i < 200; ++i) {
    ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
    if (i % 20 != 19) continue;
    ChunkRef held;
    ASSERT_EQ(subscriber->TryTake(&held), Code::kOk);
    EXPECT_EQ(Value(held), i - 3);
    SendAll(*first_, *publisher, i + 1, i + 10);  // drops what waits, not what is held
    EXPECT_EQ(Value(held), i - 3);
    EXPECT_TRUE(first_->Release(held));
    ChunkRef chunk;
    while (subscriber->TryTake(&chunk) == Code::kOk) EXPECT_TRUE(first_->Release(chunk));
  }
  Leave(std::move(subscriber), *first_);
  first_->FlushThisThread();
  EXPECT_EQ(Counts(pool()).free_count, 1024u);
}

// Twelve subscribers, one of which has stopped.
TEST_F(DropTest, AStoppedSubscriberOfADroppingChannelDelaysNobodyAndLearnsWhatItMissed) {
  auto publisher = Publish(first_, "drop");
  auto stopped = Subscribe(third_, "drop");
  std::vector<std::unique_ptr<SubscriberPort>> others;
  for (int i = 0; i < 11; ++i) others.push_back(Subscribe(second_, "drop"));
  for (uint64_t i = 0; i < 1000; ++i) {
    int delivered = 0;
    ASSERT_EQ(Send(*first_, *publisher, i, Deadline::Now(), &delivered), Code::kOk);
    EXPECT_EQ(delivered, 12);
    for (auto& other : others) ExpectTakesAfter(*second_, *other, i, 0);
  }
  ExpectTakesAfter(*third_, *stopped, 996, 996);
  for (uint64_t i = 997; i < 1000; ++i) ExpectTakesAfter(*third_, *stopped, i, 0);
}

TEST_F(DropTest, AStoppedSubscriberOfAWaitingChannelFailsEachPublishWithNobodyServed) {
  auto publisher = Publish(first_, "wait");
  auto stopped = Subscribe(third_, "wait");
  std::vector<std::unique_ptr<SubscriberPort>> others;
  for (int i = 0; i < 11; ++i) others.push_back(Subscribe(second_, "wait"));
  for (uint64_t i = 0; i < 4; ++i) {
    ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
    for (auto& other : others) ExpectTakes(*second_, *other, i);
  }
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(Send(*first_, *publisher, 99, Deadline::After(std::chrono::microseconds(50))),
              Code::kTimeout);
    ChunkRef none;
    for (auto& other : others) EXPECT_EQ(other->TryTake(&none), Code::kTimeout);
  }
  for (uint64_t i = 0; i < 4; ++i) ExpectTakes(*third_, *stopped, i);
}

TEST_F(DropTest, ManyThreadsTakeOrMissEveryMessageExactlyOnce) {
  constexpr uint64_t kMessages = 20000;
  constexpr int kPublishers = 2, kSubscribers = 3;
  std::vector<std::shared_ptr<Session>> sessions;
  std::vector<std::unique_ptr<SubscriberPort>> subscribers;
  std::vector<std::unique_ptr<PublisherPort>> publishers;
  for (int i = 0; i < kPublishers + kSubscribers; ++i) sessions.push_back(Attach());
  for (uint32_t i = 0; i < kSubscribers; ++i)
    subscribers.push_back(
        Subscribe(sessions[i], "drop", {.queue_capacity = i + 1, .lossy = false}));
  for (int i = 0; i < kPublishers; ++i)
    publishers.push_back(Publish(sessions[kSubscribers + i], "drop"));
  std::vector<std::thread> threads;
  for (uint64_t p = 0; p < kPublishers; ++p) {
    threads.emplace_back([&, p] {
      for (uint64_t i = 0; i < kMessages; ++i) {
        ASSERT_EQ(Send(*sessions[kSubscribers + p], *publishers[p], p << 32 | i, Deadline::Never()),
                  Code::kOk);
      }
    });
  }
  for (int s = 0; s < kSubscribers; ++s) {
    threads.emplace_back([&, s] {
      std::vector<uint64_t> next(kPublishers, 0);
      uint64_t taken = 0;
      uint64_t told = 0;
      ChunkRef chunk;
      Code code;
      while ((code = subscribers[s]->Take(Deadline::Never(), &chunk)) == Code::kOk) {
        ++taken;
        told += subscribers[s]->missed_before();
        const uint64_t number = Value(chunk) & 0xffffffff;
        ASSERT_GE(number, next[Value(chunk) >> 32]);
        next[Value(chunk) >> 32] = number + 1;
        ASSERT_TRUE(sessions[s]->Release(chunk));
      }
      EXPECT_EQ(code, Code::kEndOfStream);
      EXPECT_EQ(taken + told, kPublishers * kMessages);
    });
  }
  for (size_t i = 0; i < threads.size(); ++i) {
    threads[i].join();
    if (i < kPublishers) Leave(std::move(publishers[i]), *sessions[kSubscribers + i]);
  }
  for (auto& session : sessions) session->Close();
}

}  // namespace
}  // namespace zerocp::shm
