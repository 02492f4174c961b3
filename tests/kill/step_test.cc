// Killed after every machine instruction: a child is single-stepped through one operation of the
// data plane. After each instruction both segments are copied, and what a kill at this point would
// leave is recovered, audited and used again on the copy.
#include <set>
#include <string>

#include "tests/kill/step_fixture.h"

namespace zerocp::shm {
namespace {

// From the mapping to the detach. What its entry says of it comes one after the other.
TEST_P(StepTest, AttachAndDetach) {
  std::set<std::string> reached;
  const int steps = StepThroughAttach(
      [](const auto& session) {
        const PoolView& pool = *session->manager().FindPool("pool");
        ChunkRef chunk;
        if (session->Loan(pool, Deadline::Now(), &chunk) != Code::kOk || !session->Release(chunk))
          _exit(3);
        session->Close();
      },
      [&](MemPoolManager& manager, ChannelRegistry&) {
        const SessionEntry& entry = manager.session_entry(victim_id_);
        std::string step = "mapping";
        if (entry.joined_barrier != 0) step = "joined";
        if (entry.known_serials[pool().index] != 0) step = "knows the pool";
        if (entry.cache_thread_count != 0) step = "has a cache";
        reached.insert(step);
        ExpectInUse(manager, 0);
      });
  EXPECT_GT(steps, 100);
  EXPECT_EQ(reached, (std::set<std::string>{"mapping", "joined", "knows the pool", "has a cache"}));
}

TEST_P(StepTest, LoanAndRelease) {
  const int steps = StepThrough(
      [](const auto& session) {
        const PoolView& pool = *session->manager().FindPool("pool");
        ChunkRef chunk;
        if (session->Loan(pool, Deadline::Now(), &chunk) != Code::kOk || !session->Release(chunk))
          _exit(3);
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 0); });
  EXPECT_GT(steps, 100);
}

TEST_P(StepTest, ShareOpenAndRelease) {
  const int steps = StepThrough(
      [](const auto& session) {
        const PoolView& pool = *session->manager().FindPool("pool");
        ChunkRef chunk, opened;
        if (session->Loan(pool, Deadline::Now(), &chunk) != Code::kOk) _exit(3);
        const uint64_t handle = session->Share(chunk);
        if (session->Open(handle, &opened) != Code::kOk) _exit(4);
        if (!session->Release(chunk) || !session->Release(opened)) _exit(5);
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 0); });
  EXPECT_GT(steps, 200);
}

TEST_P(StepTest, OpenAndReleaseOfAPeersChunk) {
  ChunkRef chunk;
  ASSERT_EQ(peer_->Loan(pool(), Deadline::Now(), &chunk), Code::kOk);
  const uint64_t handle = peer_->Share(chunk);
  StepThrough(
      [handle](const auto& session) {
        ChunkRef opened;
        if (session->Open(handle, &opened) != Code::kOk || !session->Release(opened)) _exit(3);
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 1); });
}

TEST_P(StepTest, PublishToOne) {
  const JoinInfo info = VictimPublishes();
  auto subscriber = Subscribe(peer_, "feed");
  const uint16_t peer = peer_->id();
  StepThrough(
      [info](const auto& session) {
        auto port = std::move(*PublisherPort::Create(session, info));
        for (uint64_t i = 0; i < 2; ++i) {
          if (Send(*session, *port, i) != Code::kOk) _exit(3);
        }
      },
      [&](MemPoolManager& manager, ChannelRegistry& registry) {
        // Each message that was sent is there, whole and in order; then the end.
        auto session = std::make_shared<Session>(
            std::shared_ptr<MemPoolManager>(&manager, [](auto*) {}), peer);
        auto port = std::move(*SubscriberPort::Create(session, subscriber->info()));
        const uint64_t sent =
            registry.QueuedCount(*registry.Find("feed"), subscriber->info().index);
        ExpectInUse(manager, sent);
        for (uint64_t i = 0; i < sent; ++i) ExpectTakes(*session, *port, i);
        ChunkRef chunk;
        EXPECT_EQ(port->TryTake(&chunk), Code::kPublisherDied);
      });
}

TEST_P(StepTest, PublishToSeveral) {
  const JoinInfo info = VictimPublishes();
  auto first = Subscribe(peer_, "feed");
  auto second = Subscribe(peer_, "feed");
  StepThrough(
      [info](const auto& session) {
        auto port = std::move(*PublisherPort::Create(session, info));
        if (Send(*session, *port, 7) != Code::kOk) _exit(3);
      },
      [&](MemPoolManager& manager, ChannelRegistry& registry) {
        const uint64_t one = registry.QueuedCount(*registry.Find("feed"), first->info().index);
        const uint64_t two = registry.QueuedCount(*registry.Find("feed"), second->info().index);
        EXPECT_EQ(one, two);  // all or nobody
        ExpectInUse(manager, one);
      });
}

// Who waits, and is killed while it sleeps, or gives up. Long enough to step to where it sleeps.
constexpr std::chrono::milliseconds kBriefly{1000};

TEST_P(StepTest, APublishThatWaits) {
  const JoinInfo info = VictimPublishes();
  auto slow = Subscribe(peer_, "feed");
  const ChannelRegistry::Channel& channel = *registry_->Find("feed");
  bool waited = false;
  StepThrough(
      [info](const auto& session) {
        auto port = std::move(*PublisherPort::Create(session, info));
        for (uint64_t i = 0; i < 4; ++i) {
          if (Send(*session, *port, i) != Code::kOk) _exit(3);
        }
        raise(SIGSTOP);  // the queue is full
        if (Send(*session, *port, 4, Deadline::After(kBriefly)) != Code::kTimeout) _exit(4);
      },
      [&](MemPoolManager& manager, ChannelRegistry&) {
        waited |= channel.Lane(channel.lanes[info.index], *manager_).lane->publisher_waits != 0;
        ExpectInUse(manager, 4);
      },
      /*begins_with_a_stop=*/true);
  EXPECT_TRUE(waited);
}

TEST_P(StepTest, ATakeThatWaits) {
  const JoinInfo info = VictimSubscribes();
  auto publisher = Publish(peer_, "feed");
  bool waited = false;
  StepThrough(
      [info](const auto& session) {
        auto port = std::move(*SubscriberPort::Create(session, info));
        ChunkRef chunk;
        if (port->Take(Deadline::After(kBriefly), &chunk) != Code::kTimeout) _exit(3);
      },
      [&](MemPoolManager& manager, ChannelRegistry&) {
        waited |= registry_->Find("feed")->view.header->waiters != 0;
        ExpectInUse(manager, 0);
      });
  EXPECT_TRUE(waited);
}

TEST_P(StepTest, ALoanThatWaits) {
  std::vector<ChunkRef> held(GetParam());
  for (ChunkRef& chunk : held) ASSERT_EQ(peer_->Loan(pool(), Deadline::Now(), &chunk), Code::kOk);
  bool waited = false;
  StepThrough(
      [](const auto& session) {
        ChunkRef chunk;
        const PoolView& pool = *session->manager().FindPool("pool");
        if (session->Loan(pool, Deadline::After(kBriefly), &chunk) != Code::kExhausted) _exit(3);
      },
      [&](MemPoolManager& manager, ChannelRegistry&) {
        waited |= pool().shared->pressure != 0;
        ExpectInUse(manager, held.size());
        // So that the channels can be used again.
        for (uint32_t chunk = 0; chunk < 8; ++chunk)
          StoreWord(manager.FindPool("pool")->record(chunk), Kind::kFree, 0);
      });
  EXPECT_TRUE(waited);
  for (const ChunkRef& chunk : held) EXPECT_TRUE(peer_->Release(chunk));
}

// The publisher takes back what a subscriber that died left, while the daemon recovers that death.
TEST_P(StepTest, TakeBackFromASubscriberThatDied) {
  const JoinInfo info = VictimPublishes();
  auto departed = Attach();
  departed_id_ = departed->id();
  auto dying = Subscribe(departed, "feed");
  auto survivor = Subscribe(peer_, "feed");
  StepThrough(
      [info, k = dying->info().index](const auto& session) {
        auto port = std::move(*PublisherPort::Create(session, info));
        for (uint64_t i = 0; i < 2; ++i) {
          if (Send(*session, *port, i) != Code::kOk) _exit(3);
        }
        // As the daemon does first.
        std::byte* region = session->manager().ManagementAt(info.geometry.region_offset,
                                                            info.geometry.region_bytes());
        const ChannelView channel = ChannelView::At(region, info.geometry);
        const uint32_t epoch = SubscriberEpoch(channel.subscribers[k].epoch.load());
        channel.subscribers[k].epoch.store(EncodeSubscriber(epoch, false));
        channel.header->subscriber_stamp.fetch_add(1);
        if (Send(*session, *port, 2) != Code::kOk) _exit(4);
      },
      [&](MemPoolManager& manager, ChannelRegistry& registry) {
        ExpectInUse(manager, registry.QueuedCount(*registry.Find("feed"), survivor->info().index));
      });
}

TEST_P(StepTest, TakeAMessageThatWasMoved) {
  auto publisher = Publish(peer_, "feed");
  const JoinInfo info = VictimSubscribes();
  for (uint64_t i = 0; i < 2; ++i) ASSERT_EQ(Send(*peer_, *publisher, i), Code::kOk);
  StepThrough(
      [info](const auto& session) {
        auto port = std::move(*SubscriberPort::Create(session, info));
        for (int i = 0; i < 2; ++i) {
          ChunkRef chunk;
          if (port->TryTake(&chunk) != Code::kOk || !session->Release(chunk)) _exit(3);
        }
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 0); });
}

TEST_P(StepTest, TakeAMessageThatIsShared) {
  auto publisher = Publish(peer_, "feed");
  const JoinInfo info = VictimSubscribes();
  auto other = Subscribe(peer_, "feed");
  ASSERT_EQ(Send(*peer_, *publisher, 0), Code::kOk);
  StepThrough(
      [info](const auto& session) {
        auto port = std::move(*SubscriberPort::Create(session, info));
        ChunkRef chunk;
        if (port->TryTake(&chunk) != Code::kOk || !session->Release(chunk)) _exit(3);
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 1); });  // the other's
}

// Lossy subscribers.

// Messages of the victim's lane, sent and given up.
uint64_t SentOnDrop(MemPoolManager& manager, ChannelRegistry& registry, uint32_t lane) {
  const ChannelRegistry::Channel& channel = *registry.Find("drop");
  return channel.Lane(channel.lanes[lane], manager).lane->tail.load();
}

TEST_P(StepTest, PublishThatDropsAMovedMessage) {
  const JoinInfo info = VictimPublishes("drop");
  auto subscriber = Subscribe(peer_, "drop");
  const uint16_t peer = peer_->id();
  StepThrough(
      [info](const auto& session) {
        auto port = std::move(*PublisherPort::Create(session, info));
        for (uint64_t i = 0; i < 6; ++i) {
          if (Send(*session, *port, i) != Code::kOk) _exit(3);
        }
      },
      [&](MemPoolManager& manager, ChannelRegistry& registry) {
        auto session = std::make_shared<Session>(
            std::shared_ptr<MemPoolManager>(&manager, [](auto*) {}), peer);
        auto port = std::move(*SubscriberPort::Create(session, subscriber->info()));
        ExpectInUse(manager, registry.QueuedCount(*registry.Find("drop"), port->info().index));
        Code end;
        const uint64_t taken = TakeAll(*session, *port, &end);
        EXPECT_EQ(end, Code::kPublisherDied);
        EXPECT_EQ(taken + port->missed_count(), SentOnDrop(manager, registry, info.index));
        session->FlushThisThread();
      });
}

TEST_P(StepTest, PublishThatDropsAMessageAtTwo) {
  const JoinInfo info = VictimPublishes("drop");
  auto one = Subscribe(peer_, "drop");
  auto other = Subscribe(peer_, "drop");
  const uint16_t peer = peer_->id();
  StepThrough(
      [info](const auto& session) {
        auto port = std::move(*PublisherPort::Create(session, info));
        for (uint64_t i = 0; i < 5; ++i) {
          if (Send(*session, *port, i) != Code::kOk) _exit(3);
        }
      },
      [&](MemPoolManager& manager, ChannelRegistry& registry) {
        auto session = std::make_shared<Session>(
            std::shared_ptr<MemPoolManager>(&manager, [](auto*) {}), peer);
        for (const SubscriberPort* known : {one.get(), other.get()}) {
          auto port = std::move(*SubscriberPort::Create(session, known->info()));
          Code end;
          const uint64_t taken = TakeAll(*session, *port, &end);
          EXPECT_EQ(end, Code::kPublisherDied);
          EXPECT_EQ(taken + port->missed_count(), SentOnDrop(manager, registry, info.index));
        }
        ExpectInUse(manager, 0);
        session->FlushThisThread();
      });
}

TEST_P(StepTest, LossyTakeOfAMessageThatWasMoved) {
  auto publisher = Publish(peer_, "drop");
  const JoinInfo info = VictimSubscribes("drop");
  for (uint64_t i = 0; i < 2; ++i) ASSERT_EQ(Send(*peer_, *publisher, i), Code::kOk);
  StepThrough(
      [info](const auto& session) {
        auto port = std::move(*SubscriberPort::Create(session, info));
        for (int i = 0; i < 2; ++i) {
          ChunkRef chunk;
          if (port->TryTake(&chunk) != Code::kOk || !session->Release(chunk)) _exit(3);
        }
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 0); });
}

TEST_P(StepTest, LossyTakeOfAMessageThatIsShared) {
  auto publisher = Publish(peer_, "drop");
  const JoinInfo info = VictimSubscribes("drop");
  auto other = Subscribe(peer_, "drop");
  ASSERT_EQ(Send(*peer_, *publisher, 0), Code::kOk);
  StepThrough(
      [info](const auto& session) {
        auto port = std::move(*SubscriberPort::Create(session, info));
        ChunkRef chunk;
        if (port->TryTake(&chunk) != Code::kOk || !session->Release(chunk)) _exit(3);
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 1); });  // the other's
}

// Publisher and subscriber in one session: its death takes both.
TEST_P(StepTest, LossyTakeFromAPublisherOfTheSameSession) {
  const JoinInfo in = VictimSubscribes("drop");
  const JoinInfo out = VictimPublishes("drop");
  StepThrough(
      [in, out](const auto& session) {
        auto publisher = std::move(*PublisherPort::Create(session, out));
        auto subscriber = std::move(*SubscriberPort::Create(session, in));
        for (uint64_t i = 0; i < 5; ++i) {
          if (Send(*session, *publisher, i) != Code::kOk) _exit(3);
        }
        ChunkRef chunk;
        if (subscriber->TryTake(&chunk) != Code::kOk || !session->Release(chunk)) _exit(4);
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 0); });
}

// History.

TEST_P(StepTest, PublishWithAHistoryAndLetGoOfIt) {
  const JoinInfo info = VictimPublishes("kept");
  auto subscriber = Subscribe(peer_, "kept");
  StepThrough(
      [info](const auto& session) {
        auto port = std::move(*PublisherPort::Create(session, info));
        for (uint64_t i = 1; i <= 3; ++i) {
          if (Send(*session, *port, i) != Code::kOk) _exit(3);
        }
        port->LetGoOfHistory();
      },
      [&](MemPoolManager& manager, ChannelRegistry& registry) {
        ExpectInUse(manager,
                    registry.QueuedCount(*registry.Find("kept"), subscriber->info().index));
      });
}

TEST_P(StepTest, TakeFromAHistory) {
  auto publisher = Publish(peer_, "kept");
  for (uint64_t i = 1; i <= 3; ++i) ASSERT_EQ(Send(*peer_, *publisher, i), Code::kOk);
  const JoinInfo info = VictimSubscribes("kept");
  StepThrough(
      [info](const auto& session) {
        auto port = std::move(*SubscriberPort::Create(session, info));
        ChunkRef chunk;
        for (uint64_t i = 2; i <= 3; ++i) {
          if (port->TryTake(&chunk) != Code::kOk || Value(chunk) != i || !session->Release(chunk))
            _exit(3);
        }
      },
      [](MemPoolManager& manager, ChannelRegistry&) { ExpectInUse(manager, 2); });
  publisher->LetGoOfHistory();
}

INSTANTIATE_TEST_SUITE_P(Pools, StepTest, ::testing::Values(64u, 4096u));

}  // namespace
}  // namespace zerocp::shm
