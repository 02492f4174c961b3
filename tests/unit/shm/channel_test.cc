// Publishing and taking on waiting channels, with living members.
#include <atomic>
#include <thread>

#include "shm/futex.h"
#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {
namespace {

using std::chrono::milliseconds;

class ChannelTest : public InstanceFixture {
 protected:
  void SetUp() override {
    AddPool("pool", 64, 1024);
    AddChannel("feed", "pool", 4);
    first_ = Attach();
    second_ = Attach();
    third_ = Attach();
  }
  const PoolView& pool() { return *manager_->FindPool("pool"); }
  void TearDown() override {
    first_->Close();
    second_->Close();
    third_->Close();
    InstanceFixture::TearDown();
  }

  std::shared_ptr<Session> first_, second_, third_;
};

TEST_F(ChannelTest, OneSubscriberTakesEveryMessageOnceAndInOrder) {
  auto publisher = Publish(first_, "feed");
  auto subscriber = Subscribe(second_, "feed");
  for (uint64_t i = 0; i < 1000; ++i) {
    int delivered = 0;
    ASSERT_EQ(Send(*first_, *publisher, i, Deadline::Now(), &delivered), Code::kOk);
    EXPECT_EQ(delivered, 1);
    if (i % 3 == 2) {
      for (uint64_t j = i - 2; j <= i; ++j) ExpectTakes(*second_, *subscriber, j);
    }
  }
}

TEST_F(ChannelTest, NobodyRingsForWhoOnlyPolls) {
  auto publisher = Publish(first_, "feed");
  auto subscriber = Subscribe(second_, "feed");
  const ChannelRegistry::Channel& channel = *registry_->Find("feed");
  const uint32_t bell = channel.view.subscribers[0].bell.load();
  for (uint64_t i = 0; i < 1000; ++i) {
    ChunkRef none;
    ASSERT_EQ(subscriber->TryTake(&none), Code::kTimeout);
    EXPECT_EQ(channel.view.header->waiters.load(), 0u);
    ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
    ExpectTakes(*second_, *subscriber, i);
  }
  EXPECT_EQ(channel.view.subscribers[0].bell.load(), bell);
}

// The parts of Take, as a thread that sleeps in the subscriber's place uses them.
TEST_F(ChannelTest, WhoSleepsInASubscribersPlaceIsWokenForEveryMessage) {
  constexpr uint64_t kMessages = 3000;
  auto publisher = Publish(first_, "feed");
  auto subscriber = Subscribe(second_, "feed");
  std::atomic<uint64_t> taken{0};
  std::thread sender([&] {
    for (uint64_t i = 0; i < kMessages; ++i) {
      while (taken.load() < i)
        std::this_thread::yield();  // each message finds a sleeper, or nearly
      ASSERT_EQ(Send(*first_, *publisher, i, Deadline::Never()), Code::kOk);
    }
  });
  LaneLook look;
  for (uint64_t i = 0; i < kMessages;) {
    const uint32_t prepared = subscriber->PrepareToSleep();
    ChunkRef chunk;
    if (subscriber->TryTake(&chunk) == Code::kOk) {
      second_->Release(chunk);
      taken = ++i;
      continue;
    }
    subscriber->LookAt(&look);
    const auto sleep = [&] {
      subscriber->SleepOnBell(prepared, kFirstSlice);
      while (!look.FindsNews() && subscriber->BellIs(prepared))
        subscriber->SleepOnBell(prepared, kLongestSleep);
    };
    if (i % 16 == 0) {
      std::thread(sleep).join();
    } else {
      sleep();
    }
    subscriber->StandDown();
  }
  sender.join();
}

TEST_F(ChannelTest, ALookFromAnotherThreadFindsAMessageAndANewPublisher) {
  auto publisher = Publish(first_, "feed");
  auto subscriber = Subscribe(second_, "feed");
  ChunkRef chunk;
  LaneLook look;
  ASSERT_EQ(subscriber->TryTake(&chunk), Code::kTimeout);
  subscriber->LookAt(&look);
  EXPECT_FALSE(look.FindsNews());
  ASSERT_EQ(Send(*first_, *publisher, 1), Code::kOk);
  EXPECT_TRUE(look.FindsNews());
  ASSERT_EQ(subscriber->TryTake(&chunk), Code::kOk);
  second_->Release(chunk);
  ASSERT_EQ(subscriber->TryTake(&chunk), Code::kTimeout);
  subscriber->LookAt(&look);
  EXPECT_FALSE(look.FindsNews());
  auto other = Publish(first_, "feed");
  EXPECT_TRUE(look.FindsNews());
}

TEST_F(ChannelTest, ASampleTellsSizeAndSequence) {
  auto publisher = Publish(first_, "feed");
  auto subscriber = Subscribe(second_, "feed");
  for (uint64_t i = 1; i <= 3; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
  for (uint64_t i = 1; i <= 3; ++i) {
    ChunkRef chunk;
    ASSERT_EQ(subscriber->TryTake(&chunk), Code::kOk);
    EXPECT_EQ(subscriber->sequence(), i);
    EXPECT_EQ(chunk.header().size_bytes.load(), sizeof(uint64_t));
    EXPECT_EQ(chunk.slot, ChunkRef::kExclusive);  // moved, not shared
    second_->Release(chunk);
  }
}

TEST_F(ChannelTest, EverySubscriberSeesEveryMessageInPlace) {
  auto publisher = Publish(first_, "feed");
  std::vector<std::unique_ptr<SubscriberPort>> subscribers;
  for (int i = 0; i < 16; ++i)
    subscribers.push_back(Subscribe(i % 2 == 0 ? second_ : first_, "feed"));
  for (uint64_t i = 0; i < 100; ++i) {
    int delivered = 0;
    ASSERT_EQ(Send(*first_, *publisher, i, Deadline::Now(), &delivered), Code::kOk);
    EXPECT_EQ(delivered, 16);
    std::byte* address = nullptr;
    std::vector<ChunkRef> chunks(16);
    for (int k = 0; k < 16; ++k) {
      ASSERT_EQ(subscribers[k]->TryTake(&chunks[k]), Code::kOk);
      if (address != nullptr) {
        EXPECT_EQ(chunks[k].data(), address);
      }
      address = chunks[k].data();
    }
    EXPECT_EQ(Counts(pool()).shared_count, 1u);
    for (int k = 0; k < 16; ++k) EXPECT_TRUE((k % 2 == 0 ? second_ : first_)->Release(chunks[k]));
    EXPECT_EQ(Counts(pool()).shared_count, 0u);
  }
}

TEST_F(ChannelTest, PublishingToNobodySucceedsAndKeepsNothing) {
  auto publisher = Publish(first_, "feed");
  for (uint64_t i = 0; i < 5000; ++i) {
    int delivered = -1;
    ASSERT_EQ(Send(*first_, *publisher, i, Deadline::Now(), &delivered), Code::kOk);
    EXPECT_EQ(delivered, 0);
  }
  EXPECT_EQ(Counts(pool()).writing_count, 0u);
}

TEST_F(ChannelTest, AFullQueueMakesThePublishFailForAllAndARetryDuplicatesNothing) {
  auto publisher = Publish(first_, "feed");
  auto slow = Subscribe(second_, "feed");
  auto quick = Subscribe(third_, "feed");
  for (uint64_t i = 0; i < 4; ++i) {
    ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
    ExpectTakes(*third_, *quick, i);
  }
  ChunkRef chunk;
  ASSERT_EQ(first_->Loan(pool(), Deadline::Now(), &chunk), Code::kOk);
  const uint64_t value = 4;
  std::memcpy(chunk.data(), &value, sizeof(value));
  Published published{};
  EXPECT_EQ(publisher->Publish(chunk, Deadline::Now(), &published), Code::kTimeout);
  EXPECT_EQ(publisher->Publish(chunk, Deadline::After(milliseconds(5)), &published),
            Code::kTimeout);
  ChunkRef none;
  EXPECT_EQ(quick->TryTake(&none), Code::kTimeout);  // nobody got it
  ExpectTakes(*second_, *slow, 0);
  EXPECT_EQ(publisher->Publish(chunk, Deadline::Now(), &published), Code::kOk);
  EXPECT_EQ(published.delivered, 2);
  for (uint64_t i = 1; i <= 4; ++i) ExpectTakes(*second_, *slow, i);
  ExpectTakes(*third_, *quick, 4);
}

TEST_F(ChannelTest, ASubscriberThatJoinsLaterIsWaitedForToo) {
  auto publisher = Publish(first_, "feed");
  for (uint64_t i = 0; i < 6; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
  for (int joined = 0; joined < 2; ++joined) {  // the second time at the index of the first
    auto late = Subscribe(second_, "feed");
    for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
    EXPECT_EQ(Send(*first_, *publisher, 4), Code::kTimeout);
    ExpectTakes(*second_, *late, 0);
    ASSERT_EQ(Send(*first_, *publisher, 4), Code::kOk);
    EXPECT_EQ(Send(*first_, *publisher, 5), Code::kTimeout);
    Leave(std::move(late), *second_);
  }
  auto wide = Subscribe(second_, "feed");
  ASSERT_EQ(Send(*first_, *publisher, 6), Code::kOk);
  ExpectTakes(*second_, *wide, 6);
  Leave(std::move(wide), *second_);
  auto narrow = Subscribe(second_, "feed", {.queue_capacity = 1});
  ASSERT_EQ(Send(*first_, *publisher, 7), Code::kOk);
  EXPECT_EQ(Send(*first_, *publisher, 8), Code::kTimeout);
  ExpectTakes(*second_, *narrow, 7);
}

// A publisher that publishes nothing does not see who comes and goes.
TEST_F(ChannelTest, NobodyIsTakenForWhoHadItsIndexAndEpochBefore) {
  auto publisher = Publish(first_, "feed");
  auto tap = Subscribe(second_, "feed", {.lossy = true});
  const uint32_t epoch = tap->info().epoch;
  ASSERT_EQ(Send(*first_, *publisher, 0), Code::kOk);
  ExpectTakes(*second_, *tap, 0);
  Leave(std::move(tap), *second_);
  auto next = Subscribe(second_, "feed");
  while (NextEpoch(next->info().epoch) != epoch) {
    Leave(std::move(next), *second_);
    next = Subscribe(second_, "feed");
  }
  Leave(std::move(next), *second_);
  auto late = Subscribe(second_, "feed");
  for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
  EXPECT_EQ(Send(*first_, *publisher, 4), Code::kTimeout);
  for (uint64_t i = 0; i < 4; ++i) ExpectTakes(*second_, *late, i);
}

TEST_F(ChannelTest, EveryMessagePublishedAfterAJoinReachesTheNewSubscriber) {
  auto publisher = Publish(first_, "feed");
  ASSERT_EQ(Send(*first_, *publisher, 1), Code::kOk);
  auto subscriber = Subscribe(second_, "feed");
  ASSERT_EQ(Send(*first_, *publisher, 2), Code::kOk);
  ExpectTakes(*second_, *subscriber, 2);
}

TEST_F(ChannelTest, MessagesOfAPublisherThatJoinedLaterAreTaken) {
  auto subscriber = Subscribe(second_, "feed");
  ChunkRef none;
  EXPECT_EQ(subscriber->TryTake(&none), Code::kTimeout);
  auto publisher = Publish(first_, "feed");
  ASSERT_EQ(Send(*first_, *publisher, 7), Code::kOk);
  ExpectTakes(*second_, *subscriber, 7);
}

TEST_F(ChannelTest, EachPublishersMessagesComeInOrderAndNoneIsStarved) {
  std::vector<std::unique_ptr<PublisherPort>> publishers;
  for (int i = 0; i < 8; ++i) publishers.push_back(Publish(i % 2 == 0 ? first_ : third_, "feed"));
  auto subscriber = Subscribe(second_, "feed");
  std::vector<uint64_t> next(8, 0);
  for (uint64_t round = 0; round < 50; ++round) {
    for (uint64_t p = 0; p < 8; ++p) {
      for (uint64_t i = 0; i < 4; ++i) {
        ASSERT_EQ(Send(p % 2 == 0 ? *first_ : *third_, *publishers[p], p << 32 | (round * 4 + i)),
                  Code::kOk);
      }
    }
    for (int i = 0; i < 32; ++i) {
      ChunkRef chunk;
      ASSERT_EQ(subscriber->TryTake(&chunk), Code::kOk);
      const uint64_t p = Value(chunk) >> 32;
      EXPECT_EQ(Value(chunk) & 0xffffffff, next[p]++);
      second_->Release(chunk);
    }
  }
}

TEST_F(ChannelTest, APublisherThatKeepsItsQueueFullDoesNotHideANewOne) {
  auto subscriber = Subscribe(second_, "feed");
  auto busy = Publish(first_, "feed");
  ASSERT_EQ(Send(*first_, *busy, 0), Code::kOk);
  ExpectTakes(*second_, *subscriber, 0);
  auto newcomer = Publish(third_, "feed");
  ASSERT_EQ(Send(*third_, *newcomer, 7), Code::kOk);
  bool seen = false;
  for (uint64_t i = 0; i < 100 && !seen; ++i) {
    while (Send(*first_, *busy, 1) == Code::kOk) {
    }
    ChunkRef chunk;
    ASSERT_EQ(subscriber->TryTake(&chunk), Code::kOk);
    seen = Value(chunk) == 7;
    second_->Release(chunk);
  }
  EXPECT_TRUE(seen);
}

TEST_F(ChannelTest, MembersThatLeaveWithoutTheDaemonAreLetOutByItsTick) {
  auto publisher = Publish(first_, "feed");
  auto leaver = Subscribe(second_, "feed");
  auto stayer = Subscribe(third_, "feed");
  for (uint64_t i = 0; i < 4; ++i) {
    ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
    ExpectTakes(*third_, *stayer, i);
  }
  leaver->Leave();
  EXPECT_EQ(Send(*first_, *publisher, 4), Code::kTimeout);
  EXPECT_EQ(recovery_->Tick(attached_).drained_count, 4u);
  ASSERT_EQ(Send(*first_, *publisher, 4), Code::kOk);
  ExpectTakes(*third_, *stayer, 4);
  publisher->Leave();
  recovery_->Tick(attached_);
  ChunkRef chunk;
  EXPECT_EQ(stayer->TryTake(&chunk), Code::kEndOfStream);
}

TEST_F(ChannelTest, TheEndOfTheStreamComesAfterTheLastMessageAndOnce) {
  auto subscriber = Subscribe(second_, "feed");
  auto publisher = Publish(first_, "feed");
  ASSERT_EQ(Send(*first_, *publisher, 1), Code::kOk);
  Leave(std::move(publisher), *first_);
  ChunkRef chunk;
  ExpectTakes(*second_, *subscriber, 1);
  EXPECT_EQ(subscriber->TryTake(&chunk), Code::kEndOfStream);
  EXPECT_EQ(subscriber->TryTake(&chunk), Code::kTimeout);
  publisher = Publish(first_, "feed");
  ASSERT_EQ(Send(*first_, *publisher, 2), Code::kOk);
  ExpectTakes(*second_, *subscriber, 2);
  Leave(std::move(publisher), *first_);
  EXPECT_EQ(subscriber->TryTake(&chunk), Code::kEndOfStream);
}

TEST_F(ChannelTest, TheEndComesOnlyWhenTheLastOfSeveralPublishersHasGone) {
  auto subscriber = Subscribe(second_, "feed");
  auto one = Publish(first_, "feed");
  auto two = Publish(third_, "feed");
  ChunkRef chunk;
  EXPECT_EQ(subscriber->TryTake(&chunk), Code::kTimeout);
  Leave(std::move(one), *first_);
  EXPECT_EQ(subscriber->TryTake(&chunk), Code::kTimeout);
  Leave(std::move(two), *third_);
  EXPECT_EQ(subscriber->TryTake(&chunk), Code::kEndOfStream);
}

TEST_F(ChannelTest, APublisherThatHadGoneBeforeTheJoinIsNotThisSubscribersEnd) {
  auto witness = Subscribe(third_, "feed");  // keeps the closed lane in the table
  auto publisher = Publish(first_, "feed");
  ASSERT_EQ(Send(*first_, *publisher, 1), Code::kOk);
  Leave(std::move(publisher), *first_);
  auto subscriber = Subscribe(second_, "feed");
  ChunkRef chunk;
  EXPECT_EQ(subscriber->TryTake(&chunk), Code::kTimeout);
  ExpectTakes(*third_, *witness, 1);
}

// The subscriber's port is made after the publisher has come, published and gone.
TEST_F(ChannelTest, AStreamThatEndsBeforeTheFirstLookIsSeenWhole) {
  auto info = registry_->JoinAsSubscriber("feed", "", second_->id());
  ASSERT_TRUE(info.ok());
  auto publisher = Publish(first_, "feed");
  ASSERT_EQ(Send(*first_, *publisher, 1), Code::kOk);
  Leave(std::move(publisher), *first_);
  registry_->RetireLanes();
  registry_->RetireLanes();
  auto subscriber = std::move(*SubscriberPort::Create(second_, *info));
  ExpectTakes(*second_, *subscriber, 1);
  ChunkRef chunk;
  EXPECT_EQ(subscriber->TryTake(&chunk), Code::kEndOfStream);
}

TEST_F(ChannelTest, LaneMemoryIsReusedOnlyWhenEverySubscriberHasLooked) {
  auto subscriber = Subscribe(second_, "feed");
  auto publisher = Publish(first_, "feed");
  ASSERT_EQ(Send(*first_, *publisher, 1), Code::kOk);
  const uint32_t lane = publisher->info().index;
  const auto state = [&] { return registry_->Find("feed")->lanes[lane].state; };
  Leave(std::move(publisher), *first_);
  registry_->RetireLanes();
  EXPECT_EQ(state(), LaneState::kClosed);  // a message waits
  ExpectTakes(*second_, *subscriber, 1);
  registry_->RetireLanes();
  EXPECT_EQ(state(), LaneState::kClosed);  // the subscriber has not seen that it is closed
  ChunkRef chunk;
  EXPECT_EQ(subscriber->TryTake(&chunk), Code::kEndOfStream);
  registry_->RetireLanes();
  EXPECT_EQ(state(), LaneState::kRetired);
  registry_->RetireLanes();
  EXPECT_EQ(state(), LaneState::kRetired);  // nor that it is listed no more
  EXPECT_EQ(subscriber->TryTake(&chunk), Code::kTimeout);
  registry_->RetireLanes();
  EXPECT_EQ(state(), LaneState::kFree);
}

TEST_F(ChannelTest, LanesDoNotRunOutWhenPublishersComeAndGo) {
  auto subscriber = Subscribe(second_, "feed");
  const uint64_t free = manager_->allocator().management_extents().free_bytes();
  for (uint64_t i = 0; i < 300; ++i) {
    auto publisher = Publish(first_, "feed");
    ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
    Leave(std::move(publisher), *first_);
    ExpectTakes(*second_, *subscriber, i);
    ChunkRef chunk;
    EXPECT_EQ(subscriber->TryTake(&chunk), Code::kEndOfStream);
    recovery_->Tick(attached_);
  }
  for (int i = 0; i < 3; ++i) {
    ChunkRef chunk;
    EXPECT_EQ(subscriber->TryTake(&chunk), Code::kTimeout);
    recovery_->Tick(attached_);
  }
  EXPECT_EQ(manager_->allocator().management_extents().free_bytes(), free);
  EXPECT_EQ(registry_->PublishedCount(*registry_->Find("feed")), 300u);
}

// As programs in a loop, which is faster than the daemon's tick.
TEST_F(ChannelTest, SubscribersAndPublishersComeAndGoWithoutATick) {
  for (uint32_t i = 0; i < 3 * kLaneEntries; ++i) {
    const auto reader = registry_->JoinAsSubscriber("feed", "", second_->id());
    ASSERT_TRUE(reader.ok());
    const auto writer = registry_->JoinAsPublisher("feed", "", first_->id());
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    ASSERT_TRUE(registry_->LeavePublisher(0, writer->index, first_->id()).ok());
    ASSERT_TRUE(registry_->LeaveSubscriber(0, reader->index, second_->id()).ok());
    recovery_->DrainSubscriber(0, reader->index);
  }
}

TEST_F(ChannelTest, PublishersComeAndGoWithoutATick) {
  for (uint32_t i = 0; i < 3 * kLaneEntries; ++i) {
    const auto joined = registry_->JoinAsPublisher("feed", "", first_->id());
    ASSERT_TRUE(joined.ok()) << joined.status().message();
    ASSERT_TRUE(registry_->LeavePublisher(0, joined->index, first_->id()).ok());
  }
}

TEST_F(ChannelTest, MembersBeyondTheLimitsAreRefused) {
  std::vector<std::unique_ptr<SubscriberPort>> subscribers;
  for (int i = 0; i < 16; ++i) subscribers.push_back(Subscribe(second_, "feed"));
  EXPECT_EQ(registry_->JoinAsSubscriber("feed", "", second_->id()).code(), Code::kLimit);
  std::vector<std::unique_ptr<PublisherPort>> publishers;
  for (uint32_t i = 0; i < kMaxPublishers; ++i) publishers.push_back(Publish(first_, "feed"));
  EXPECT_EQ(registry_->JoinAsPublisher("feed", "", first_->id()).code(), Code::kLimit);
  EXPECT_EQ(registry_->JoinAsPublisher("absent", "", first_->id()).code(), Code::kNotFound);
}

TEST_F(ChannelTest, AnotherMessageTypeIsRefused) {
  ChannelSpec spec;
  spec.name = "typed";
  spec.pool = "pool";
  spec.message_type = "acme.Tick/3";
  ASSERT_TRUE(registry_->Create(spec).ok());
  EXPECT_EQ(registry_->JoinAsPublisher("typed", "acme.Tick/2", first_->id()).code(),
            Code::kTypeMismatch);
  EXPECT_TRUE(registry_->JoinAsPublisher("typed", "acme.Tick/3", first_->id()).ok());
  EXPECT_TRUE(registry_->JoinAsPublisher("typed", "", first_->id()).ok());
}

TEST_F(ChannelTest, OnlyTheMemberItselfCanLeave) {
  auto publisher = Publish(first_, "feed");
  auto subscriber = Subscribe(second_, "feed");
  EXPECT_EQ(registry_->LeavePublisher(0, publisher->info().index, second_->id()).code(),
            Code::kNotFound);
  EXPECT_EQ(registry_->LeaveSubscriber(0, subscriber->info().index, first_->id()).code(),
            Code::kNotFound);
  EXPECT_EQ(registry_->LeavePublisher(0, 1u << 30, first_->id()).code(), Code::kNotFound);
  EXPECT_EQ(registry_->LeaveSubscriber(1u << 30, 0, first_->id()).code(), Code::kNotFound);
}

TEST_F(ChannelTest, ASubscriberThatLeavesLetsGoOfWhatWaited) {
  auto publisher = Publish(first_, "feed");
  auto leaver = Subscribe(second_, "feed");
  auto stayer = Subscribe(third_, "feed");
  for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
  Leave(std::move(leaver), *second_);
  for (uint64_t i = 0; i < 4; ++i) ExpectTakes(*third_, *stayer, i);
  EXPECT_EQ(Counts(pool()).shared_count, 0u);
  for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
  // The index has a new owner, who sees nothing of the old one's.
  auto newcomer = Subscribe(second_, "feed");
  for (uint64_t i = 0; i < 4; ++i) ExpectTakes(*third_, *stayer, i);
  ASSERT_EQ(Send(*first_, *publisher, 9), Code::kOk);
  ExpectTakes(*second_, *newcomer, 9);
  ExpectTakes(*third_, *stayer, 9);
}

TEST_F(ChannelTest, ADetachedSubscriberStallsNobodyAndKeepsItsIndexUntilItCallsAgain) {
  auto publisher = Publish(first_, "feed");
  auto slow = Subscribe(second_, "feed");
  ChunkRef held;
  ASSERT_EQ(Send(*first_, *publisher, 0), Code::kOk);
  ASSERT_EQ(slow->TryTake(&held), Code::kOk);
  for (uint64_t i = 1; i <= 4; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
  ASSERT_EQ(Send(*first_, *publisher, 5), Code::kTimeout);
  std::thread blocked(
      [&] { EXPECT_EQ(Send(*first_, *publisher, 5, Deadline::Never()), Code::kOk); });
  const JoinInfo info = slow->info();
  ASSERT_TRUE(registry_->StopSubscriber(info.channel, info.index, info.epoch).ok());
  blocked.join();
  for (uint64_t i = 0; i < 20; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
  recovery_->Tick(attached_);
  auto next = Subscribe(third_, "feed");
  EXPECT_NE(next->info().index, info.index);
  EXPECT_EQ(Value(held), 0u);
  ChunkRef chunk;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(slow->TryTake(&chunk), Code::kDetached);
  recovery_->Tick(attached_);
  EXPECT_EQ(Subscribe(third_, "feed")->info().index, info.index);
  EXPECT_EQ(slow->TryTake(&chunk), Code::kDetached);
  EXPECT_TRUE(second_->Release(held));
  EXPECT_EQ(registry_->StopSubscriber(info.channel, info.index, info.epoch).code(),
            Code::kNotFound);
}

TEST_F(ChannelTest, ADetachedSubscriberThatSleepsIsWokenAndOneThatDiesIsLetGo) {
  auto publisher = Publish(first_, "feed");
  auto dying_session = Attach();
  auto dying = Subscribe(dying_session, "feed");
  auto sleeper = Subscribe(second_, "feed");
  std::thread waiter([&] {
    ChunkRef chunk;
    EXPECT_EQ(sleeper->Take(Deadline::Never(), &chunk), Code::kDetached);
  });
  while (registry_->Find("feed")->view.header->waiters.load() == 0) std::this_thread::yield();
  const auto stop = [&](const JoinInfo& info) {
    EXPECT_TRUE(registry_->StopSubscriber(info.channel, info.index, info.epoch).ok());
  };
  stop(sleeper->info());
  waiter.join();
  for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
  stop(dying->info());
  ASSERT_EQ(Send(*first_, *publisher, 4), Code::kOk);
  recovery_->Tick(attached_);
  first_->FlushThisThread();
  EXPECT_EQ(Counts(pool()).free_count, 1023u);  // all but the one that it may be taking
  Kill(dying_session);
  first_->FlushThisThread();
  EXPECT_EQ(Counts(pool()).free_count, 1024u);
}

TEST_F(ChannelTest, ADetachOutlivesTheDaemonAndThePublisher) {
  auto publisher = Publish(first_, "feed");
  auto slow = Subscribe(second_, "feed");
  for (uint64_t i = 0; i < 3; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
  const JoinInfo info = slow->info();
  ASSERT_TRUE(registry_->StopSubscriber(info.channel, info.index, info.epoch).ok());
  ASSERT_EQ(Send(*first_, *publisher, 4), Code::kOk);
  EXPECT_EQ(recovery_->FinishClaims().drained_count, 0u);  // as the next daemon does first
  EXPECT_EQ(Kill(first_).delivered_count, 1u);
  first_ = Attach();
  ExpectAuditHolds();
  ChunkRef chunk;
  EXPECT_EQ(slow->TryTake(&chunk), Code::kDetached);
  EXPECT_EQ(recovery_->Tick(attached_).freed_chunk_count, 1u);
  EXPECT_EQ(Counts(pool()).free_count, 1024u);
}

TEST_F(ChannelTest, WhatADeadPublisherSentIsLetGoWhenItsSubscriberLeaves) {
  for (int subscribers = 1; subscribers <= 2; ++subscribers) {
    auto sender = Attach();
    auto publisher = Publish(sender, "feed");
    auto leaver = Subscribe(second_, "feed");
    auto other = subscribers == 2 ? Subscribe(third_, "feed") : nullptr;
    for (uint64_t i = 0; i < 3; ++i) ASSERT_EQ(Send(*sender, *publisher, i), Code::kOk);
    Kill(sender);
    Leave(std::move(leaver), *second_);
    if (other) Leave(std::move(other), *third_);
    EXPECT_EQ(Counts(pool()).free_count, 1024u);
  }
}

TEST_F(ChannelTest, ADeletedChannelIsReadToItsEndAndItsNameIsFreeAtOnce) {
  const uint64_t free = manager_->allocator().management_extents().free_bytes();
  AddChannel("temp", "pool", 4);
  auto publisher = Publish(first_, "temp");
  auto subscriber = Subscribe(second_, "temp");
  for (uint64_t i = 0; i < 2; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
  const uint32_t index = registry_->Find("temp")->index;
  ASSERT_TRUE(registry_->Close("temp").ok());
  EXPECT_EQ(registry_->Close("temp").code(), Code::kNotFound);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(Send(*first_, *publisher, 9), Code::kChannelDeleted);
  int present;
  EXPECT_EQ(publisher->WaitForSubscribers(1, Deadline::Never(), &present), Code::kChannelDeleted);
  EXPECT_EQ(registry_->JoinAsPublisher("temp", "", first_->id()).code(), Code::kNotFound);
  AddChannel("temp", "pool", 4);
  EXPECT_NE(registry_->Find("temp")->index, index);
  for (uint64_t i = 0; i < 2; ++i) ExpectTakes(*second_, *subscriber, i);
  ChunkRef chunk;
  EXPECT_EQ(subscriber->TryTake(&chunk), Code::kChannelDeleted);
  recovery_->Tick(attached_);
  ASSERT_NE(registry_->channel(index), nullptr);  // the publisher has not closed
  ASSERT_TRUE(registry_->LeavePublisher(index, publisher->info().index, first_->id()).ok());
  for (int i = 0; i < 3; ++i) recovery_->Tick(attached_);
  EXPECT_EQ(registry_->channel(index), nullptr);
  ASSERT_TRUE(registry_->Close("temp").ok());
  recovery_->Tick(attached_);
  EXPECT_EQ(manager_->allocator().management_extents().free_bytes(), free);
}

TEST_F(ChannelTest, ADeletedChannelIsAdoptedAsDeletedAndGoesWithItsLastMember) {
  auto subscriber = Subscribe(second_, "feed");
  ASSERT_TRUE(registry_->Close("feed").ok());
  AddChannel("feed", "pool", 4);
  MemPoolManager::CreateOptions options;
  options.segment_dir = dir_;
  options.instance = "test";
  auto manager = MemPoolManager::Adopt(options);
  ASSERT_TRUE(manager.ok());
  ChannelRegistry registry(**manager);
  ASSERT_TRUE(registry.Adopt().ok());
  EXPECT_EQ(registry.List().size(), 2u);
  EXPECT_FALSE(registry.Find("feed")->closed);
  Kill(second_);
  second_ = Attach();
  recovery_->Tick(attached_);
  EXPECT_EQ(registry_->List().size(), 1u);
}

TEST_F(ChannelTest, WaitForSubscribersSeesAJoin) {
  auto publisher = Publish(first_, "feed");
  int present = -1;
  EXPECT_EQ(publisher->WaitForSubscribers(1, Deadline::After(milliseconds(2)), &present),
            Code::kTimeout);
  EXPECT_EQ(present, 0);
  std::thread waiter([&] {
    int count = 0;
    EXPECT_EQ(publisher->WaitForSubscribers(1, Deadline::Never(), &count), Code::kOk);
  });
  auto subscriber = Subscribe(second_, "feed");
  waiter.join();
}

TEST_F(ChannelTest, ASleepingSubscriberIsWoken) {
  auto publisher = Publish(first_, "feed");
  auto subscriber = Subscribe(second_, "feed");
  ChunkRef chunk;
  EXPECT_EQ(subscriber->Take(Deadline::After(milliseconds(3)), &chunk), Code::kTimeout);
  for (uint64_t i = 0; i < 20; ++i) {
    std::thread waiter([&] {
      ChunkRef taken;
      ASSERT_EQ(subscriber->Take(Deadline::After(std::chrono::seconds(20)), &taken), Code::kOk);
      EXPECT_EQ(Value(taken), i);
      second_->Release(taken);
    });
    const ChannelHeader& header = *registry_->Find("feed")->view.header;
    while (header.waiters.load() == 0) std::this_thread::yield();
    // Past the first short sleep, only the ring can wake it.
    std::this_thread::sleep_for(milliseconds(3));
    ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
    waiter.join();
  }
  EXPECT_EQ(registry_->Find("feed")->view.header->waiters.load(), 0u);
}

TEST_F(ChannelTest, ASleepingPublisherIsWokenByRoom) {
  auto publisher = Publish(first_, "feed");
  auto subscriber = Subscribe(second_, "feed");
  for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(Send(*first_, *publisher, i), Code::kOk);
  std::thread waiter(
      [&] { EXPECT_EQ(Send(*first_, *publisher, 4, Deadline::Never()), Code::kOk); });
  const LaneView lane =
      LaneView::At(manager_->ManagementAt(publisher->info().lane_offset,
                                          publisher->info().geometry.lane_bytes()),
                   publisher->info().geometry);
  while (lane.lane->publisher_waits.load() == 0) std::this_thread::yield();
  std::this_thread::sleep_for(milliseconds(3));
  ExpectTakes(*second_, *subscriber, 0);
  waiter.join();
  for (uint64_t i = 1; i <= 4; ++i) ExpectTakes(*second_, *subscriber, i);
}

TEST_F(ChannelTest, PublishersAndSubscribersInManyThreadsLoseAndDoubleNothing) {
  constexpr uint64_t kMessages = 5000;
  constexpr int kPublishers = 3, kSubscribers = 3;
  std::vector<std::shared_ptr<Session>> sessions;
  std::vector<std::unique_ptr<SubscriberPort>> subscribers;
  std::vector<std::unique_ptr<PublisherPort>> publishers;
  for (int i = 0; i < kPublishers + kSubscribers; ++i) sessions.push_back(Attach());
  for (int i = 0; i < kSubscribers; ++i) subscribers.push_back(Subscribe(sessions[i], "feed"));
  for (int i = 0; i < kPublishers; ++i)
    publishers.push_back(Publish(sessions[kSubscribers + i], "feed"));
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
      for (uint64_t i = 0; i < kPublishers * kMessages; ++i) {
        ChunkRef chunk;
        // One polls, the others sleep.
        Code code;
        do {
          code = s == 0 ? subscribers[s]->TryTake(&chunk)
                        : subscribers[s]->Take(Deadline::Never(), &chunk);
        } while (s == 0 && code == Code::kTimeout);
        ASSERT_EQ(code, Code::kOk);
        ASSERT_EQ(Value(chunk) & 0xffffffff, next[Value(chunk) >> 32]++);
        ASSERT_TRUE(sessions[s]->Release(chunk));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (auto& session : sessions) session->Close();
}

}  // namespace
}  // namespace zerocp::shm
