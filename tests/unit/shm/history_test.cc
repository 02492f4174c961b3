// What a channel keeps for late joiners.
#include <atomic>
#include <thread>

#include "shm/census.h"
#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {
namespace {

using std::chrono::seconds;

constexpr uint32_t kHistory = 4;

class HistoryTest : public InstanceFixture {
 protected:
  void SetUp() override {
    AddPool("pool", 64, 1024);
    AddHistory("feed", 8, kHistory);
    sender_ = Attach();
    taker_ = Attach();
  }
  void TearDown() override {
    sender_->Close();
    taker_->Close();
    InstanceFixture::TearDown();
  }
  void AddHistory(const std::string& name, uint32_t queue, uint32_t history,
                  WhenFull when_full = WhenFull::kWait) {
    ChannelSpec spec;
    spec.name = name;
    spec.pool = "pool";
    spec.queue_capacity = queue;
    spec.history_count = history;
    spec.when_full = when_full;
    const auto index = registry_->Create(spec);
    ASSERT_TRUE(index.ok()) << index.status().message();
  }
  const PoolView& pool() { return *manager_->FindPool("pool"); }
  uint64_t Kept() { return Counts(pool()).shared_count; }
  void SendUpTo(PublisherPort& port, uint64_t first, uint64_t last) {
    for (uint64_t i = first; i <= last; ++i) ASSERT_EQ(Send(*sender_, port, i), Code::kOk);
  }
  void ExpectNothing(SubscriberPort& port) {
    ChunkRef chunk;
    EXPECT_EQ(port.TryTake(&chunk), Code::kTimeout);
  }

  std::shared_ptr<Session> sender_, taker_;
};

TEST_F(HistoryTest, ALateJoinerGetsTheLastMessagesAndThenTheStream) {
  auto publisher = Publish(sender_, "feed");
  SendUpTo(*publisher, 1, 10);
  EXPECT_EQ(Kept(), kHistory);
  auto late = Subscribe(taker_, "feed");
  for (uint64_t i = 7; i <= 10; ++i) ExpectTakes(*taker_, *late, i);
  ExpectNothing(*late);
  SendUpTo(*publisher, 11, 13);
  for (uint64_t i = 11; i <= 13; ++i) ExpectTakes(*taker_, *late, i);
  ExpectNothing(*late);
  EXPECT_EQ(late->missed_count(), 0u);
  EXPECT_EQ(Kept(), kHistory);
}

TEST_F(HistoryTest, WhatIsPublishedBeforeTheFirstLookIsGrantedAndWhatWasBeforeTheJoinIsNot) {
  auto publisher = Publish(sender_, "feed");
  SendUpTo(*publisher, 1, 3);
  auto late = Subscribe(taker_, "feed");
  SendUpTo(*publisher, 4, 11);  // the whole queue; the history has moved on
  for (uint64_t i = 4; i <= 11; ++i) ExpectTakes(*taker_, *late, i);
  ExpectNothing(*late);
}

TEST_F(HistoryTest, FewerMessagesThanTheHistoryAllComeAndTwoPublishersEachInOrder) {
  auto one = Publish(sender_, "feed");
  auto two = Publish(sender_, "feed");
  SendUpTo(*one, 1, 2);
  SendUpTo(*two, 101, 103);
  auto late = Subscribe(taker_, "feed");
  std::vector<uint64_t> low, high;
  for (int i = 0; i < 5; ++i) {
    ChunkRef chunk;
    ASSERT_EQ(late->TryTake(&chunk), Code::kOk);
    (Value(chunk) < 100 ? low : high).push_back(Value(chunk));
    EXPECT_TRUE(taker_->Release(chunk));
  }
  EXPECT_EQ(low, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(high, (std::vector<uint64_t>{101, 102, 103}));
  ExpectNothing(*late);
}

TEST_F(HistoryTest, AHistoryAsLongAsTheQueueIsKeptWhole) {
  AddHistory("full", 4, 4);
  auto publisher = Publish(sender_, "full");
  SendUpTo(*publisher, 1, 9);
  EXPECT_EQ(Kept(), 4u);
  auto late = Subscribe(taker_, "full");
  for (uint64_t i = 6; i <= 9; ++i) ExpectTakes(*taker_, *late, i);
  ExpectNothing(*late);
}

TEST_F(HistoryTest, ASampleOfTheHistoryStaysValidWhileTheStreamGoesOn) {
  auto publisher = Publish(sender_, "feed");
  SendUpTo(*publisher, 1, 4);
  auto late = Subscribe(taker_, "feed");
  ChunkRef held;
  ASSERT_EQ(late->TryTake(&held), Code::kOk);
  SendUpTo(*publisher, 5, 12);
  EXPECT_EQ(Value(held), 1u);
  EXPECT_TRUE(taker_->Release(held));
}

TEST_F(HistoryTest, APublisherThatClosesLetsGoOfItsHistoryButNotOfWhatIsQueued) {
  auto publisher = Publish(sender_, "feed");
  auto subscriber = Subscribe(taker_, "feed");
  SendUpTo(*publisher, 1, 3);
  publisher->LetGoOfHistory();
  Leave(std::move(publisher), *sender_);
  EXPECT_EQ(Kept(), 3u);
  for (uint64_t i = 1; i <= 3; ++i) ExpectTakes(*taker_, *subscriber, i);
  EXPECT_EQ(Kept(), 0u);
  auto late = Subscribe(taker_, "feed");
  ExpectNothing(*late);
}

TEST_F(HistoryTest, APublisherOfADeletedChannelLetsGoAtItsNextPublish) {
  auto publisher = Publish(sender_, "feed");
  SendUpTo(*publisher, 1, 9);
  ASSERT_TRUE(registry_->Close("feed").ok());
  EXPECT_EQ(Kept(), kHistory);
  EXPECT_EQ(Send(*sender_, *publisher, 10), Code::kChannelDeleted);
  EXPECT_EQ(Kept(), 0u);
}

TEST_F(HistoryTest, TheHistoryOfAKilledPublisherIsSwept) {
  auto publisher = Publish(sender_, "feed");
  auto subscriber = Subscribe(taker_, "feed");
  SendUpTo(*publisher, 1, 3);
  Kill(sender_);
  EXPECT_EQ(Kept(), 3u);  // queued
  for (uint64_t i = 1; i <= 3; ++i) ExpectTakes(*taker_, *subscriber, i);
  EXPECT_EQ(Kept(), 0u);
}

TEST_F(HistoryTest, LossySubscribersGetItTooAndCountOnlyWhatTheyMissedSince) {
  AddHistory("drop", 4, 2, WhenFull::kDropOldest);
  auto publisher = Publish(sender_, "drop");
  SendUpTo(*publisher, 1, 5);
  auto late = Subscribe(taker_, "drop");
  for (uint64_t i = 4; i <= 5; ++i) ExpectTakes(*taker_, *late, i);
  SendUpTo(*publisher, 6, 15);  // the queue has four
  for (uint64_t i = 12; i <= 15; ++i) ExpectTakes(*taker_, *late, i);
  EXPECT_EQ(late->missed_count(), 6u);
}

TEST_F(HistoryTest, WhatLeavesTheHistoryAfterTheFirstTakeIsMissed) {
  auto publisher = Publish(sender_, "feed");
  SendUpTo(*publisher, 1, 10);
  auto late = Subscribe(taker_, "feed");
  ExpectTakes(*taker_, *late, 7);
  EXPECT_EQ(late->missed_before(), 0u);
  SendUpTo(*publisher, 11, 14);
  ExpectTakes(*taker_, *late, 11);
  EXPECT_EQ(late->missed_before(), 3u);
  ExpectTakes(*taker_, *late, 12);
  EXPECT_EQ(late->missed_before(), 0u);
  EXPECT_EQ(late->missed_count(), 3u);
  for (uint64_t i = 13; i <= 14; ++i) ExpectTakes(*taker_, *late, i);
}

// A record has 8 slots for openers.
TEST_F(HistoryTest, AMessageThatEightOthersHoldIsWaitedForAndThenLeftOut) {
  auto publisher = Publish(sender_, "feed");
  SendUpTo(*publisher, 1, 1);
  std::vector<std::unique_ptr<SubscriberPort>> ports;
  std::vector<ChunkRef> held(kOpenSlots);
  for (ChunkRef& chunk : held) {
    ports.push_back(Subscribe(taker_, "feed"));
    ASSERT_EQ(ports.back()->TryTake(&chunk), Code::kOk);
  }
  auto patient = Subscribe(taker_, "feed");
  auto ninth = Subscribe(taker_, "feed");
  ExpectNothing(*patient);
  EXPECT_TRUE(taker_->Release(held.back()));
  ExpectTakes(*taker_, *patient, 1);
  ChunkRef again;
  ASSERT_EQ(Subscribe(taker_, "feed")->TryTake(&again), Code::kOk);  // and now it is full again
  SendUpTo(*publisher, 2, 2);
  ChunkRef chunk;
  ASSERT_EQ(ninth->Take(Deadline::After(seconds(30)), &chunk), Code::kOk);
  EXPECT_EQ(Value(chunk), 2u);  // granted: it had joined before
  EXPECT_EQ(ninth->missed_before(), 1u);
  EXPECT_TRUE(taker_->Release(chunk));
  held.back() = again;
  for (ChunkRef& sample : held) EXPECT_TRUE(taker_->Release(sample));
}

TEST_F(HistoryTest, TheHolderOfAHistoryIsTheChannel) {
  auto publisher = Publish(sender_, "feed");
  SendUpTo(*publisher, 1, 9);
  Census census;
  for (uint32_t index : registry_->List())
    census.Add(index, *registry_->channel(index), *manager_, pool().live_chunk_count());
  census.Finish();
  for (const Census& look : {census, Census::WithoutQueues(*manager_)}) {
    const std::string text = DescribeExhausted(look, *manager_, pool());
    EXPECT_NE(text.find("channel 'feed': 4 kept for late joiners"), std::string::npos) << text;
  }
}

TEST_F(HistoryTest, ItTakesOneSlotOfEachChunkAndIsNoLongerThanTheQueue) {
  AddPool("wide", 64, 128, kMaxHolders);
  EXPECT_EQ(ChannelRegistry::MaxSubscribers(pool(), 0), 16u);
  EXPECT_EQ(ChannelRegistry::MaxSubscribers(pool(), 1), 15u);
  EXPECT_EQ(ChannelRegistry::MaxSubscribers(*manager_->FindPool("wide"), 1), 63u);
  ChannelSpec spec;
  spec.name = "long";
  spec.pool = "pool";
  spec.queue_capacity = 5;
  spec.history_count = 8;  // the queue is rounded up to 8
  EXPECT_TRUE(Validate(spec).empty());
  spec.history_count = 9;
  ASSERT_EQ(Validate(spec).size(), 1u);
  EXPECT_EQ(Validate(spec)[0].field, "history_count");
  spec.queue_capacity = 0;
  spec.history_count = kDefaultQueueCapacity + 1;
  EXPECT_EQ(Validate(spec).size(), 1u);
  spec.queue_capacity = ~uint32_t{0};  // as a damaged entry may say
  ASSERT_EQ(Validate(spec).size(), 1u);
  EXPECT_EQ(Validate(spec)[0].field, "queue_capacity");
}

// Joiners come while a publisher sends as fast as it can: each message once and in order, and from
// the first that began after the join on, none is left out.
TEST_F(HistoryTest, JoinersUnderAStreamMissNothingSinceTheirJoin) {
  for (const WhenFull when_full : {WhenFull::kWait, WhenFull::kDropOldest}) {
    const bool waits = when_full == WhenFull::kWait;
    const std::string name = waits ? "waits" : "drops";
    AddHistory(name, 64, 16, when_full);
    auto publisher = Publish(sender_, name);
    std::atomic<uint64_t> begun{0};
    std::atomic<bool> stop{false};
    std::thread stream([&] {
      for (uint64_t i = 1; !stop.load(); ++i) {
        begun.store(i);
        while (!stop.load() && Send(*sender_, *publisher, i) != Code::kOk)
          std::this_thread::yield();
      }
      sender_->FlushThisThread();
    });
    for (int join = 0; join < 200; ++join) {
      auto port = Subscribe(taker_, name);
      const uint64_t granted = begun.load() + 1;
      uint64_t last = 0;
      for (int taken = 0; taken < 100; ++taken) {
        ChunkRef chunk;
        ASSERT_EQ(port->Take(Deadline::After(seconds(30)), &chunk), Code::kOk);
        const uint64_t value = Value(chunk);
        ASSERT_GT(value, last);
        EXPECT_EQ(chunk.header().sequence.load(), value);
        if (last >= granted) {
          ASSERT_EQ(value, last + 1 + port->missed_before());
        }
        if (waits && last < granted && value > granted) {
          ASSERT_EQ(last + 1, value);
        }
        last = value;
        ASSERT_TRUE(taker_->Release(chunk));
      }
      Leave(std::move(port), *taker_);
    }
    stop.store(true);
    stream.join();
    publisher->LetGoOfHistory();
  }
}

}  // namespace
}  // namespace zerocp::shm
