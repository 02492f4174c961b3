// The daemon killed after every machine instruction of what it does to segments that are there:
// another one adopts what it left, and nothing is lost, doubled or stuck.
#include "shm/pool_drain.h"
#include "tests/kill/step_fixture.h"

namespace zerocp::shm {
namespace {

class DaemonStepTest : public StepTest {
 protected:
  // The victim's session, in this process, of which nothing is given back.
  std::shared_ptr<Session> Victim() {
    killed_.push_back(std::make_shared<Session>(manager_, victim_id_));
    return killed_.back();
  }
  // What happened to the victim while the first daemon was there is done on the copies only.
  void TearDown() override {
    RecoverVictim();
    attached_.reset(victim_id_);
    StepTest::TearDown();
  }
};

TEST_P(DaemonStepTest, TheDeathOfAPublisher) {
  auto victim = Victim();
  std::vector<std::unique_ptr<SubscriberPort>> subscribers;
  std::vector<std::unique_ptr<PublisherPort>> publishers;
  subscribers.push_back(Subscribe(peer_, "feed"));  // what it gets is moved
  for (int i = 0; i < 2; ++i) subscribers.push_back(Subscribe(peer_, "drop"));
  subscribers.push_back(Subscribe(peer_, "kept"));
  for (const char* channel : {"feed", "drop", "kept"}) {
    publishers.push_back(Publish(victim, channel));
    for (uint64_t i = 0; i < 3; ++i) ASSERT_EQ(Send(*victim, *publishers.back(), i), Code::kOk);
  }
  ChunkRef loaned;
  ASSERT_EQ(victim->Loan(pool(), Deadline::Now(), &loaned), Code::kOk);
  const uint16_t peer = peer_->id();
  const int steps = StepThroughDaemon(
      [this](MemPoolManager&, ChannelRegistry&, Recovery& recovery) {
        recovery.Recover(SessionSet().set(victim_id_), false);
      },
      [&](MemPoolManager& manager, ChannelRegistry&) {
        ExpectInUse(manager, 9);
        auto session = std::make_shared<Session>(
            std::shared_ptr<MemPoolManager>(&manager, [](auto*) {}), peer);
        for (const auto& subscriber : subscribers) {
          auto port = std::move(*SubscriberPort::Create(session, subscriber->info()));
          for (uint64_t i = 0; i < 3; ++i) ExpectTakes(*session, *port, i);
          ChunkRef chunk;
          EXPECT_EQ(port->TryTake(&chunk), Code::kPublisherDied);
        }
        session->FlushThisThread();
        ExpectInUse(manager, 0);
      });
  EXPECT_GT(steps, 1000);
}

TEST_P(DaemonStepTest, TheDeathOfASubscriber) {
  auto victim = Victim();
  std::vector<std::unique_ptr<SubscriberPort>> dying;
  std::vector<std::unique_ptr<SubscriberPort>> living;
  std::vector<std::unique_ptr<PublisherPort>> publishers;
  for (const char* channel : {"feed", "drop", "kept"}) {
    dying.push_back(Subscribe(victim, channel));
    if (channel[0] != 'f') living.push_back(Subscribe(peer_, channel));
    publishers.push_back(Publish(peer_, channel));
    for (uint64_t i = 0; i < 3; ++i) ASSERT_EQ(Send(*peer_, *publishers.back(), i), Code::kOk);
  }
  ChunkRef held;
  for (const auto& port : dying) ASSERT_EQ(port->TryTake(&held), Code::kOk);  // and keeps it
  const int steps = StepThroughDaemon(
      [this](MemPoolManager&, ChannelRegistry&, Recovery& recovery) {
        recovery.Recover(SessionSet().set(victim_id_), false);
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 6); });
  EXPECT_GT(steps, 1000);
  for (const auto& publisher : publishers) publisher->LetGoOfHistory();
}

// A publisher and a subscriber, one of each other's, in one session; and one that had left.
TEST_P(DaemonStepTest, TheDeathOfBothEnds) {
  auto victim = Victim();
  auto in = Subscribe(victim, "drop");
  auto out = Publish(victim, "drop");
  for (uint64_t i = 0; i < 6; ++i) ASSERT_EQ(Send(*victim, *out, i), Code::kOk);
  ChunkRef held, shared;
  ASSERT_EQ(in->TryTake(&held), Code::kOk);
  ASSERT_EQ(victim->Loan(pool(), Deadline::Now(), &shared), Code::kOk);
  ChunkRef opened;
  ASSERT_EQ(peer_->Open(victim->Share(shared), &opened), Code::kOk);
  StepThroughDaemon(
      [this](MemPoolManager&, ChannelRegistry&, Recovery& recovery) {
        recovery.Recover(SessionSet().set(victim_id_), false);
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 1); });
  EXPECT_TRUE(peer_->Release(opened));
}

// Without a daemon: both leave in shared memory, and messages wait that nobody will take.
TEST_P(DaemonStepTest, ATickThatLetsOutWhoLeft) {
  auto subscriber = Subscribe(peer_, "feed");
  auto publisher = Publish(peer_, "feed");
  auto other = Publish(peer_, "drop");
  auto lossy = Subscribe(peer_, "drop");
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_EQ(Send(*peer_, *publisher, i), Code::kOk);
    ASSERT_EQ(Send(*peer_, *other, i), Code::kOk);
  }
  subscriber->Leave();
  publisher->Leave();
  lossy->Leave();
  StepThroughDaemon(
      [this](MemPoolManager&, ChannelRegistry&, Recovery& recovery) { recovery.Tick(attached_); },
      [this](MemPoolManager& manager, ChannelRegistry& registry) {
        Recovery(manager, registry).Tick(attached_);
        ExpectInUse(manager, 0);
        EXPECT_EQ(ChannelRegistry::PublisherCount(*registry.Find("feed")), 0u);
        EXPECT_EQ(ChannelRegistry::SubscriberCount(*registry.Find("feed")), 0u);
      });
  recovery_->Tick(attached_);
}

TEST_P(DaemonStepTest, ASubscriberIsTakenOff) {
  auto slow = Subscribe(peer_, "feed");
  auto publisher = Publish(peer_, "feed");
  for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(Send(*peer_, *publisher, i), Code::kOk);
  const JoinInfo info = slow->info();
  StepThroughDaemon(
      [&](MemPoolManager&, ChannelRegistry& registry, Recovery& recovery) {
        if (!registry.StopSubscriber(info.channel, info.index, info.epoch).ok()) _exit(4);
        recovery.Tick(attached_);
      },
      [&](MemPoolManager& manager, ChannelRegistry& registry) {
        // Done now, if it was not done then; the publisher waits for it no more.
        EXPECT_TRUE(registry.StopSubscriber(info.channel, info.index, info.epoch).ok());
        Recovery(manager, registry).Tick(attached_);
        auto session =
            std::make_shared<Session>(std::shared_ptr<MemPoolManager>(&manager, [](auto*) {}), 203);
        auto port =
            std::move(*PublisherPort::Create(session, *registry.JoinAsPublisher("feed", "", 203)));
        for (uint64_t i = 0; i < 6; ++i) EXPECT_EQ(Send(*session, *port, i), Code::kOk);
        Recovery(manager, registry).Recover(SessionSet().set(203), true);
      });
}

TEST_P(DaemonStepTest, JoinsAndLeaves) {
  auto subscriber = Subscribe(peer_, "feed");
  auto publisher = Publish(peer_, "feed");
  ASSERT_EQ(Send(*peer_, *publisher, 0), Code::kOk);
  StepThroughDaemon(
      [this](MemPoolManager&, ChannelRegistry& registry, Recovery& recovery) {
        const auto in = registry.JoinAsSubscriber("feed", "", victim_id_);
        const auto out = registry.JoinAsPublisher("feed", "", victim_id_);
        if (!in.ok() || !out.ok()) _exit(4);
        if (!registry.LeavePublisher(out->channel, out->index, victim_id_).ok()) _exit(5);
        if (!registry.LeaveSubscriber(in->channel, in->index, victim_id_).ok()) _exit(6);
        recovery.DrainSubscriber(in->channel, in->index);
        registry.RetireLanes();
      },
      [&](MemPoolManager& manager, ChannelRegistry& registry) {
        ExpectInUse(manager, 1);
        EXPECT_EQ(registry.QueuedCount(*registry.Find("feed"), subscriber->info().index), 1u);
        EXPECT_EQ(ChannelRegistry::PublisherCount(*registry.Find("feed")), 1u);
        EXPECT_EQ(ChannelRegistry::SubscriberCount(*registry.Find("feed")), 1u);
      });
}

TEST_P(DaemonStepTest, AChannelIsCreatedAndDeleted) {
  StepThroughDaemon(
      [](MemPoolManager&, ChannelRegistry& registry, Recovery&) {
        if (!registry.Create({"new", "pool", 4, "", WhenFull::kWait}).ok()) _exit(4);
        if (!registry.Close("new").ok()) _exit(5);
        registry.RetireLanes();
      },
      [this](MemPoolManager& manager, ChannelRegistry& registry) {
        // All of it or nothing; then the name is free.
        if (registry.Find("new") != nullptr) {
          UseAgain(std::shared_ptr<MemPoolManager>(&manager, [](auto*) {}), registry, "new");
          Recovery(manager, registry).Recover(SessionSet().set(200).set(201), true);
          EXPECT_TRUE(registry.Close("new").ok());
        }
        registry.RetireLanes();
        EXPECT_TRUE(registry.Create({"new", "pool", 8, "", WhenFull::kWait}).ok());
      });
}

TEST_P(DaemonStepTest, APoolIsCreatedAndGrown) {
  PoolSpec spec;
  spec.name = "new";
  spec.chunk_size_bytes = 128;
  spec.chunk_count = 8;
  spec.max_chunk_count = 80;
  StepThroughDaemon(
      [&](MemPoolManager& manager, ChannelRegistry&, Recovery&) {
        const auto index = manager.CreatePool(spec);
        if (!index.ok()) _exit(4);
        if (!manager.GrowPool(*index, 72).ok()) _exit(5);
      },
      [&](MemPoolManager& manager, ChannelRegistry& registry) {
        const PoolView* made = manager.FindPool("new");
        if (made == nullptr) {
          ASSERT_TRUE(manager.CreatePool(spec).ok());
          made = manager.FindPool("new");
        }
        EXPECT_TRUE(made->live_chunk_count() == 8 || made->live_chunk_count() == 72);
        EXPECT_TRUE(manager.GrowPool(made->index, 80).ok());
        auto session =
            std::make_shared<Session>(std::shared_ptr<MemPoolManager>(&manager, [](auto*) {}), 203);
        ChunkRef chunk;
        for (int i = 0; i < 80; ++i)
          ASSERT_EQ(session->Loan(*made, Deadline::Now(), &chunk), Code::kOk);
        EXPECT_EQ(session->Loan(*made, Deadline::Now(), &chunk), Code::kExhausted);
        Recovery(manager, registry).Recover(SessionSet().set(203), true);
      });
}

TEST_P(DaemonStepTest, APoolIsDeleted) {
  AddPool("old", 64, 70);
  const PoolView& old = *manager_->FindPool("old");
  auto victim = Victim();
  ChunkRef cached, held;
  ASSERT_EQ(peer_->Loan(old, Deadline::Now(), &cached), Code::kOk);
  EXPECT_TRUE(peer_->Release(cached));
  ASSERT_EQ(victim->Loan(old, Deadline::Now(), &held), Code::kOk);  // comes with its recovery
  const uint32_t index = old.index;
  StepThroughDaemon(
      [&](MemPoolManager& manager, ChannelRegistry&, Recovery& recovery) {
        PoolDrain drain(manager);
        drain.Begin(index);
        manager.SettleDrain(index);
        if (drain.Step(index, attached_)) _exit(4);
        recovery.Recover(SessionSet().set(victim_id_), false);
        if (!drain.Step(index, attached_)) _exit(5);
      },
      [&](MemPoolManager& manager, ChannelRegistry&) {
        PoolDrain drain(manager);
        drain.AdoptGaps(attached_);
        if (manager.pool(index) != nullptr) {
          drain.Begin(index);
          manager.SettleDrain(index);
          EXPECT_TRUE(drain.Step(index, attached_));
        }
        EXPECT_EQ(manager.FindPool("old"), nullptr);
        PoolSpec spec;
        spec.name = "old";
        spec.chunk_size_bytes = 64;
        spec.chunk_count = 70;
        EXPECT_TRUE(manager.CreatePool(spec).ok());
      });
}

// The first daemon dies in the recovery of a subscriber, the second in finishing what the first had
// begun.
TEST_P(DaemonStepTest, TheDeathOfTwoDaemons) {
  auto victim = Victim();
  auto subscriber = Subscribe(victim, "feed");
  auto publisher = Publish(peer_, "feed");
  ASSERT_EQ(Send(*peer_, *publisher, 0), Code::kOk);
  const int pairs = DaemonDiesTwice(
      [this](MemPoolManager&, ChannelRegistry&, Recovery& recovery) {
        recovery.Recover(SessionSet().set(victim_id_), false);
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 0); });
  EXPECT_GT(pairs, 10);
}

// What the tests above rest on: no store is taken for an instruction that stores nothing.
TEST_P(DaemonStepTest, NoStateIsOverlooked) {
  auto victim = Victim();
  auto subscriber = Subscribe(peer_, "drop");
  auto publisher = Publish(victim, "drop");
  for (uint64_t i = 0; i < 5; ++i) ASSERT_EQ(Send(*victim, *publisher, i), Code::kOk);
  const auto count_states = [&](bool looks_always) {
    looks_always_ = looks_always;
    int states = 0;
    StepThroughDaemon(
        [this](MemPoolManager&, ChannelRegistry&, Recovery& recovery) {
          recovery.Recover(SessionSet().set(victim_id_), false);
        },
        [&](MemPoolManager&, ChannelRegistry&) { ++states; });
    return states;
  };
  const int states = count_states(true);
  EXPECT_GT(states, 5);
  EXPECT_EQ(count_states(false), states);
}

INSTANTIATE_TEST_SUITE_P(Pools, DaemonStepTest, ::testing::Values(64u));

// Both die: a client at each instruction, and then the daemon at each instruction of its recovery.
class DoubleDeathTest : public StepTest {
 protected:
  static Operation TakesOne(const JoinInfo& info) {
    return [info](const std::shared_ptr<Session>& session) {
      auto port = std::move(*SubscriberPort::Create(session, info));
      ChunkRef chunk;
      if (port->TryTake(&chunk) != Code::kOk || !session->Release(chunk)) _exit(3);
    };
  }
};

TEST_P(DoubleDeathTest, OfAPublisherToOne) {
  const JoinInfo info = VictimPublishes();
  auto subscriber = Subscribe(peer_, "feed");
  const int pairs = DieTwice(
      [info](const auto& session) {
        auto port = std::move(*PublisherPort::Create(session, info));
        if (Send(*session, *port, 0) != Code::kOk) _exit(3);
      },
      [&](MemPoolManager& manager, ChannelRegistry& registry) {
        ExpectInUse(manager,
                    registry.QueuedCount(*registry.Find("feed"), subscriber->info().index));
      });
  EXPECT_GT(pairs, 50);
}

TEST_P(DoubleDeathTest, OfAPublisherThatDrops) {
  const JoinInfo info = VictimPublishes("fresh");
  auto one = Subscribe(peer_, "fresh");
  auto other = Subscribe(peer_, "fresh");
  const int pairs = DieTwice(
      [info](const auto& session) {
        auto port = std::move(*PublisherPort::Create(session, info));
        for (uint64_t i = 0; i < 3; ++i) {
          if (i == 2) raise(SIGSTOP);  // the queues are full
          if (Send(*session, *port, i) != Code::kOk) _exit(3);
        }
      },
      [&](MemPoolManager& manager, ChannelRegistry& registry) {
        const ChannelRegistry::Channel& channel = *registry.Find("fresh");
        // The last messages wait at both, but for what it had dropped at one of them only.
        ExpectInUse(manager, std::max(registry.QueuedCount(channel, one->info().index),
                                      registry.QueuedCount(channel, other->info().index)));
      },
      /*begins_with_a_stop=*/true);
  EXPECT_GT(pairs, 50);
}

TEST_P(DoubleDeathTest, OfASubscriber) {
  auto publisher = Publish(peer_, "feed");
  const JoinInfo info = VictimSubscribes();
  for (uint64_t i = 0; i < 2; ++i) ASSERT_EQ(Send(*peer_, *publisher, i), Code::kOk);
  const int pairs = DieTwice(
      TakesOne(info), [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 0); });
  EXPECT_GT(pairs, 50);
}

TEST_P(DoubleDeathTest, OfALossySubscriberOfSharedMessages) {
  auto publisher = Publish(peer_, "drop");
  const JoinInfo info = VictimSubscribes("drop");
  auto other = Subscribe(peer_, "drop");
  for (uint64_t i = 0; i < 2; ++i) ASSERT_EQ(Send(*peer_, *publisher, i), Code::kOk);
  const int pairs = DieTwice(
      TakesOne(info), [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 2); });
  EXPECT_GT(pairs, 50);
}

TEST_P(DoubleDeathTest, OfAnOpener) {
  ChunkRef chunk;
  ASSERT_EQ(peer_->Loan(pool(), Deadline::Now(), &chunk), Code::kOk);
  const uint64_t handle = peer_->Share(chunk);
  const int pairs = DieTwice(
      [handle](const auto& session) {
        ChunkRef opened;
        if (session->Open(handle, &opened) != Code::kOk || !session->Release(opened)) _exit(3);
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 1); });
  EXPECT_GT(pairs, 5);
}

INSTANTIATE_TEST_SUITE_P(Pools, DoubleDeathTest, ::testing::Values(64u));

}  // namespace
}  // namespace zerocp::shm
