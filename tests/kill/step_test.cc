// Killed or stopped after every machine instruction: a child is single-stepped through one
// operation of the data plane.
//
// Killed: after each instruction both segments are copied, and what a kill at this point would
// leave is recovered, audited and used again on the copy. A kill takes the whole process, so what
// it leaves is exactly a prefix of its instructions' effects.
//
// Stopped: the operation is run anew for each of its instructions; there the child stands still
// while a peer does something, and then goes on.
#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <climits>
#include <functional>

#include "shm/free_list.h"
#include "shm/pool_drain.h"
#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {
namespace {

// The number of chunks: a pool of 64 is revocable, one of 4,096 has exclusive thread caches.
class StepTest : public InstanceFixture, public ::testing::WithParamInterface<uint32_t> {
 protected:
  // What the child does between its stops, on a mapping of its own.
  using Operation = std::function<void(const std::shared_ptr<Session>& session)>;
  // Looks at the copy after recovery of the victim alone.
  using Check = std::function<void(MemPoolManager& manager, ChannelRegistry& registry)>;

  void SetUp() override {
    AddPool("pool", 64, GetParam());
    AddChannel("feed", "pool", 4);
    AddChannel("drop", "pool", 4, WhenFull::kDropOldest);
    AddHistory("kept", 4, 2, WhenFull::kWait);
    AddHistory("fresh", 2, 2, WhenFull::kDropOldest);
    victim_id_ = next_id_++;
    attached_.set(victim_id_);
    peer_ = Attach();
    // A short cache, so that each operation goes its whole way: refill, cache, flush.
    pool().shared->cache_cap.store(GetParam() == 64 ? 0 : 2);
  }
  const PoolView& pool() { return *manager_->FindPool("pool"); }
  void AddHistory(const char* name, uint32_t queue, uint32_t history, WhenFull when_full) {
    ChannelSpec spec{name, "pool", queue, "", when_full};
    spec.history_count = history;
    ASSERT_TRUE(registry_->Create(spec).ok());
  }
  JoinInfo VictimPublishes(const char* channel = "feed") {
    return *registry_->JoinAsPublisher(channel, "", victim_id_);
  }
  JoinInfo VictimSubscribes(const char* channel = "feed") {
    return *registry_->JoinAsSubscriber(channel, "", victim_id_);
  }
  // A chunk that the victim's child may use as its own from the start.
  uint32_t VictimLoans() {
    uint32_t chunk = 0;
    while (!TakeFree(pool().record(chunk), Kind::kLoaned, victim_id_)) ++chunk;
    SetPhase(pool().record(chunk), ChunkPhase::kLoaned);
    return chunk;
  }

  // Steps through `operation`; at every instruction, `check` on a recovered copy. Returns the
  // number of instructions.
  int StepThrough(const Operation& operation, const Check& check) {
    const pid_t child = StartVictim(operation);
    int status = 0;
    int steps = 0;
    std::string before;
    for (;; ++steps) {
      // Only instructions that change a segment make a new state.
      std::string now = Snapshot();
      if (now != before) {
        before = std::move(now);
        CheckCopy(before, check);
        if (HasFailure()) {
          ADD_FAILURE() << "after instruction " << steps;
          break;
        }
      }
      if (!Step(child)) break;
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return steps;
  }

  // Runs `operation` once for each of its instructions after its own SIGSTOP, if it has one:
  // `prepare`, up to the instruction, `meanwhile` on the peer, to the end, `check`. Returns the
  // number of instructions, of which it goes through `most` at most.
  int StopAtEach(const std::function<void()>& prepare, const Operation& operation,
                 const std::function<void()>& meanwhile, const std::function<void()>& check,
                 bool begins_with_a_stop = false, int most = INT_MAX) {
    for (int stop = 0;; ++stop) {
      if (stop > most) return most;
      prepare();
      const pid_t child = StartVictim(operation);
      if (begins_with_a_stop) {
        int stopped = 0;
        ptrace(PTRACE_CONT, child, nullptr, nullptr);
        waitpid(child, &stopped, 0);
        EXPECT_TRUE(WIFSTOPPED(stopped)) << "the victim ended by itself, status " << stopped;
      }
      bool under_way = true;
      for (int steps = 0; under_way && steps < stop; ++steps) under_way = Step(child);
      meanwhile();
      int status = 0;
      if (under_way) {  // not at its end already
        ptrace(PTRACE_CONT, child, nullptr, nullptr);
        waitpid(child, &status, 0);
        EXPECT_TRUE(WIFSTOPPED(status)) << "the victim ended by itself, status " << status;
      }
      check();
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      if (HasFailure()) {
        ADD_FAILURE() << "stopped after instruction " << stop;
        return stop;
      }
      if (!under_way) return stop;
    }
  }

  // The victim's child is not run on any more; its next one has the same session.
  void RecoverVictim() { recovery_->Recover(SessionSet().set(victim_id_), false); }

 private:
  pid_t StartVictim(const Operation& operation) {
    const pid_t child = fork();  // no gRPC, no other thread in this program
    if (child == 0) RunVictim(operation);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSTOPPED(status));
    return child;
  }

  // One instruction; false at the operation's end.
  static bool Step(pid_t child) {
    int status = 0;
    if (ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) return false;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSTOPPED(status)) << "the victim ended by itself, status " << status;
    return WIFSTOPPED(status) && WSTOPSIG(status) != SIGSTOP;
  }

  [[noreturn]] void RunVictim(const Operation& operation) {
    auto manager = MemPoolManager::Attach(
        UniqueFd(fcntl(manager_->management_segment().fd(), F_DUPFD_CLOEXEC, 0)),
        UniqueFd(fcntl(manager_->chunk_segment().fd(), F_DUPFD_CLOEXEC, 0)));
    if (!manager.ok()) _exit(2);
    auto session = std::make_shared<Session>(std::move(*manager), victim_id_);
    session->FlushThisThread();           // the thread's cache exists already
    session->manager().FindPool("pool");  // and the view of the pool
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    operation(session);
    raise(SIGSTOP);
    _exit(0);
  }

  // The bytes of both segments in use.
  std::string Snapshot() {
    const auto used = [](const Segment& segment) {
      return std::string(reinterpret_cast<const char*>(segment.data()), segment.file_bytes());
    };
    management_bytes_ = manager_->management_segment().file_bytes();
    return used(manager_->management_segment()) + used(manager_->chunk_segment());
  }

  void CheckCopy(const std::string& snapshot, const Check& check) {
    const std::string dir = dir_ + "/copy";
    std::filesystem::create_directory(dir);
    WriteFile(dir + "/" + MemPoolManager::ManagementName("copy"),
              snapshot.substr(0, management_bytes_));
    WriteFile(dir + "/" + MemPoolManager::ChunkName("copy"), snapshot.substr(management_bytes_));
    MemPoolManager::CreateOptions options;
    options.segment_dir = dir;
    options.instance = "copy";
    auto adopted = MemPoolManager::Adopt(options);
    ASSERT_TRUE(adopted.ok()) << adopted.status().message();
    std::shared_ptr<MemPoolManager> manager = std::move(*adopted);
    ChannelRegistry registry(*manager);
    ASSERT_TRUE(registry.Adopt().ok());
    Recovery recovery(*manager, registry);
    recovery.FinishClaims();
    SessionSet gone;
    gone.set(victim_id_);
    gone.set(departed_id_);
    gone.reset(0);
    recovery.Recover(gone, false);
    const SessionSet left = attached_ & ~gone;
    ExpectAudit(*manager, registry, left);
    check(*manager, registry);
    ExpectAudit(*manager, registry, left);
    UseAgain(manager, registry, "feed");
    UseAgain(manager, registry, "drop");
    // Everybody goes: everything is free, and can be found.
    gone.set();
    gone.reset(0);
    recovery.Recover(gone, true);
    const PoolView& copy = *manager->FindPool("pool");
    EXPECT_EQ(Count(copy).free_count, GetParam());
    for (uint32_t chunk = 0; chunk < GetParam(); ++chunk)
      EXPECT_TRUE(FreeList::IsSet(copy.hints, chunk));
    EXPECT_TRUE(manager->Destroy().ok());
    std::filesystem::remove_all(dir);
  }

  static void WriteFile(const std::string& path, const std::string& bytes) {
    const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
    ASSERT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }

  static void ExpectAudit(MemPoolManager& manager, ChannelRegistry& registry,
                          const SessionSet& attached) {
    const AuditReport report = Audit(manager, registry, attached);
    EXPECT_EQ(report.violation_count, 0u) << First(report);
  }

  // Two newcomers exchange messages over the channel, whatever happened to it.
  void UseAgain(const std::shared_ptr<MemPoolManager>& manager, ChannelRegistry& registry,
                const char* channel) {
    auto sender = std::make_shared<Session>(manager, 200);
    auto taker = std::make_shared<Session>(manager, 201);
    auto in =
        std::move(*SubscriberPort::Create(taker, *registry.JoinAsSubscriber(channel, "", 201)));
    auto out =
        std::move(*PublisherPort::Create(sender, *registry.JoinAsPublisher(channel, "", 200)));
    for (uint64_t i = 0; i < 3; ++i) {
      if (Send(*sender, *out, i) != Code::kOk)
        break;  // a living subscriber that does not take may fill up
      ExpectTakes(*taker, *in, i);
    }
  }

 protected:
  uint16_t victim_id_ = 0;
  uint16_t departed_id_ = 0;  // a second one that is gone; 0: none
  std::shared_ptr<Session> peer_;
  uint64_t management_bytes_ = 0;
};

// Nothing is in use that the test does not know of.
void ExpectInUse(MemPoolManager& manager, uint64_t count) {
  const PoolCounts counts = Count(*manager.FindPool("pool"));
  EXPECT_EQ(counts.writing_count + counts.shared_count, count);
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

// The stamp guards the close: an open that is confirmed while a closer looks makes the close fail.
TEST_P(StepTest, AnOpenWhileACloserIsStoppedIsNeverLost) {
  uint32_t chunk = 0;
  uint32_t generation = 0;
  uint16_t slot = kNoSlot;
  bool opened = false;
  const int steps = StopAtEach(
      [&] {  // as Release leaves it between its exchange and the close
        chunk = VictimLoans();
        generation = ShareChunk(pool().record(chunk), victim_id_, 0);
      },
      [&](const auto& session) {
        const PoolView& mine = *session->manager().pool(0);
        CloseIfUnheld(mine.record(chunk), mine.slot_count, Kind::kLoaned, session->id());
      },
      [&] {
        opened = OpenChunk(pool().record(chunk), pool(), generation, peer_->id(), &slot) ==
                 OpenResult::kOpened;
      },
      [&] {
        const uint64_t word = pool().record(chunk).word.load();
        if (opened) {
          EXPECT_EQ(KindOf(word), Kind::kShared) << "the victim closed a chunk that is held";
          EXPECT_TRUE(ReleaseSlot(pool().record(chunk), pool().slot_count, slot, peer_->id()));
          StoreWord(pool().record(chunk), Kind::kFree, 0);
        } else {
          EXPECT_TRUE(IsOwned(word, Kind::kLoaned, victim_id_));
          StoreWord(pool().record(chunk), Kind::kFree, 0);
        }
      });
  EXPECT_GT(steps, 10);
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

// Takes what is there, releases it, and returns how many were taken.
uint64_t TakeAll(Session& session, SubscriberPort& port, Code* end) {
  uint64_t taken = 0;
  ChunkRef chunk;
  while ((*end = port.TryTake(&chunk)) == Code::kOk) {
    ++taken;
    EXPECT_TRUE(session.Release(chunk));
  }
  return taken;
}

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

// One message waits and another subscriber may share it; the victim is stopped at each instruction
// of its take while `meanwhile` happens to the publisher. Its memory is as whole afterwards as
// before, and it has taken or missed each message that was sent.
class StoppedTakeTest : public StepTest {
 protected:
  void StopTheTakeWhile(bool shared, const std::function<void(PublisherPort&)>& meanwhile) {
    std::unique_ptr<PublisherPort> publisher;
    std::unique_ptr<SubscriberPort> other;
    std::shared_ptr<Session> sender;
    JoinInfo info{};
    const int steps = StopAtEach(
        [&] {
          sender = Attach();
          sender_ = sender;
          publisher = Publish(sender, "drop");
          info = VictimSubscribes("drop");
          if (shared) other = Subscribe(peer_, "drop");
          for (uint64_t i = 0; i < 2; ++i) ASSERT_EQ(Send(*sender, *publisher, i), Code::kOk);
        },
        [&info](const auto& session) {
          auto port = std::move(*SubscriberPort::Create(session, info));
          ChunkRef chunk;
          if (port->TryTake(&chunk) != Code::kOk || !session->Release(chunk)) _exit(3);
          raise(SIGSTOP);
          if (port->TryTake(&chunk) != Code::kOk) _exit(4);
          if (port->missed_before() != Value(chunk) - 1) _exit(5);  // numbered from 0
        },
        [&] { meanwhile(*publisher); },
        [&] {
          ExpectAuditHolds();
          ASSERT_TRUE(registry_->LeaveSubscriber(info.channel, info.index, victim_id_).ok());
          recovery_->DrainSubscriber(info.channel, info.index);
          if (other != nullptr) {
            Code end;
            TakeAll(*peer_, *other, &end);
            Leave(std::move(other), *peer_);
          }
          if (attached_[sender->id()]) Kill(sender);
          recovery_->Tick(attached_);
          recovery_->Tick(attached_);
          ExpectAuditHolds();
          ExpectInUse(*manager_, 1);  // the one it took
          RecoverVictim();
          ExpectInUse(*manager_, 0);
        },
        /*begins_with_a_stop=*/true);
    EXPECT_GT(steps, 50);
  }
  std::shared_ptr<Session> sender_;
};

TEST_P(StoppedTakeTest, WhileThePublisherDropsWhatIsBeingTaken) {
  for (bool shared : {false, true}) {
    StopTheTakeWhile(shared, [&](PublisherPort& port) {
      for (uint64_t i = 2; i < 12; ++i) ASSERT_EQ(Send(*sender_, port, i), Code::kOk);
    });
  }
}

TEST_P(StoppedTakeTest, WhileThePublisherDiesAndIsRecovered) {
  for (bool shared : {false, true}) {
    StopTheTakeWhile(shared, [&](PublisherPort&) { Kill(sender_); });
  }
}

TEST_P(StoppedTakeTest, WhileThePublisherDropsAndThenDies) {
  for (bool shared : {false, true}) {
    StopTheTakeWhile(shared, [&](PublisherPort& port) {
      for (uint64_t i = 2; i < 12; ++i) ASSERT_EQ(Send(*sender_, port, i), Code::kOk);
      Kill(sender_);
    });
  }
}

// The publisher is stopped at each instruction of a publish that drops, while its subscriber takes.
TEST_P(StepTest, ATakeWhileADroppingPublisherIsStoppedLosesAndDoublesNothing) {
  JoinInfo info{};
  std::unique_ptr<SubscriberPort> subscriber;
  uint64_t taken = 0;
  const int steps = StopAtEach(
      [&] {
        info = VictimPublishes("drop");
        subscriber = Subscribe(peer_, "drop");
        taken = 0;
      },
      [&info](const auto& session) {
        auto port = std::move(*PublisherPort::Create(session, info));
        for (uint64_t i = 0; i < 4; ++i) {
          if (Send(*session, *port, i) != Code::kOk) _exit(3);
        }
        ChunkRef chunk;
        if (session->Loan(port->pool(), Deadline::Now(), &chunk) != Code::kOk) _exit(4);
        Published published{};
        raise(SIGSTOP);
        if (port->Publish(chunk, Deadline::Now(), &published) != Code::kOk) _exit(5);
      },
      [&] {
        ChunkRef chunk;
        ASSERT_EQ(subscriber->TryTake(&chunk), Code::kOk);
        EXPECT_EQ(Value(chunk), subscriber->missed_before());
        EXPECT_TRUE(peer_->Release(chunk));
        // One more, so that a cursor that is set back would show it again.
        ASSERT_EQ(subscriber->TryTake(&chunk), Code::kOk);
        EXPECT_TRUE(peer_->Release(chunk));
        taken = 2;
        const uint32_t index = subscriber->info().index;
        const auto counts = registry_->CountsOf(*registry_->Find("drop"), index);
        EXPECT_LE(counts.taken_count, taken);
        EXPECT_EQ(counts.taken_count + counts.missed_count, taken + subscriber->missed_count());
      },
      [&] {
        ExpectAuditHolds();
        ASSERT_TRUE(registry_->LeavePublisher(info.channel, info.index, victim_id_).ok());
        Code end;
        taken += TakeAll(*peer_, *subscriber, &end);
        EXPECT_EQ(end, Code::kEndOfStream);
        EXPECT_EQ(taken + subscriber->missed_count(), 5u);
        const uint32_t index = subscriber->info().index;
        const auto counts = registry_->CountsOf(*registry_->Find("drop"), index);
        EXPECT_EQ(counts.taken_count, taken);
        EXPECT_EQ(counts.missed_count, subscriber->missed_count());
        Leave(std::move(subscriber), *peer_);
        ExpectInUse(*manager_, 0);
        RecoverVictim();
        recovery_->Tick(attached_);
        recovery_->Tick(attached_);
      },
      /*begins_with_a_stop=*/true);
  EXPECT_GT(steps, 100);
}

INSTANTIATE_TEST_SUITE_P(Pools, StoppedTakeTest, ::testing::Values(64u));  // a take knows no pools

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

// A late joiner stands still at each instruction of its way through the history, while the
// publisher goes on: by what its queue holds, or by more.
TEST_P(StepTest, AJoinerStoppedInTheHistoryGetsEachMessageOnce) {
  constexpr int kInstructionsOfATake = 400;  // and then some
  for (const auto& [channel, more] : {std::pair("kept", 3), std::pair("fresh", 6)}) {
    auto publisher = Publish(peer_, channel);
    JoinInfo info{};
    uint64_t sent = 0;
    const auto send = [&](int count) {
      for (int i = 0; i < count; ++i) ASSERT_EQ(Send(*peer_, *publisher, ++sent), Code::kOk);
    };
    const int steps = StopAtEach(
        [&] {
          send(3);
          info = VictimSubscribes(channel);
        },
        [&](const auto& session) {
          auto port = std::move(*SubscriberPort::Create(session, info));
          const uint64_t joined = sent;
          const uint64_t newest =
              joined + static_cast<uint64_t>(more);  // once the peer has gone on
          ChunkRef chunk;
          if (port->TryTake(&chunk) != Code::kOk || !session->Release(chunk)) _exit(5);
          uint64_t last = joined - 1;  // of the two that are kept
          raise(SIGSTOP);
          while (last != newest) {
            if (port->TryTake(&chunk) != Code::kOk) continue;
            const uint64_t value = Value(chunk);
            if (value <= last || value > newest || !session->Release(chunk)) _exit(3);
            // What comes after the join is granted, and none of it is missed without a word.
            const uint64_t before = std::max(last, joined);
            if (value > joined && value != before + 1 + port->missed_before()) _exit(4);
            last = value;
          }
        },
        [&] { send(more); },
        [&] {
          ExpectAuditHolds();
          RecoverVictim();
          ExpectAuditHolds();
          ExpectInUse(*manager_, 2);  // the history
        },
        /*begins_with_a_stop=*/true, kInstructionsOfATake);
    EXPECT_EQ(steps, kInstructionsOfATake);
    publisher->LetGoOfHistory();
    Leave(std::move(publisher), *peer_);
  }
}

// An operator takes the victim off the channel while it stands in the middle of a take, and its
// publisher goes on at once: fills its lane anew, with the same chunks, for another subscriber.
TEST_P(StepTest, DetachASubscriberThatIsStoppedInATake) {
  constexpr int kInstructionsOfATake = 250;  // and then some
  for (const bool shared : {false, true}) {
    auto sender = Attach();
    auto publisher = Publish(sender, "feed");
    auto other = shared ? Subscribe(peer_, "feed") : nullptr;
    JoinInfo info{};
    const int steps = StopAtEach(
        [&] {
          info = VictimSubscribes();
          for (uint64_t i = 0; i < 4; ++i) {
            ASSERT_EQ(Send(*sender, *publisher, i), Code::kOk);
            if (other) ExpectTakes(*peer_, *other, i);
          }
        },
        [&info](const auto& session) {
          auto port = std::move(*SubscriberPort::Create(session, info));
          ChunkRef chunk;
          if (port->TryTake(&chunk) != Code::kOk || !session->Release(chunk)) _exit(3);
          raise(SIGSTOP);
          Code code = port->TryTake(&chunk);
          if (code == Code::kOk && (Value(chunk) != 1 || !session->Release(chunk))) _exit(4);
          // It was in the middle of that one at most.
          for (int i = 0; i < 2; ++i) {
            if (port->TryTake(&chunk) != Code::kDetached) _exit(5);
          }
          session->FlushThisThread();
        },
        [&] {
          ASSERT_TRUE(registry_->StopSubscriber(info.channel, info.index, info.epoch).ok());
          auto late = other ? nullptr : Subscribe(peer_, "feed");
          SubscriberPort& taker = other ? *other : *late;
          for (uint64_t i = 0; i < 10; ++i) {
            ASSERT_EQ(Send(*sender, *publisher, 100 + i), Code::kOk);
            ExpectTakes(*peer_, taker, 100 + i);
          }
          ExpectAuditHolds();
          if (late) Leave(std::move(late), *peer_);
        },
        [&] {
          recovery_->Tick(attached_);
          ExpectAuditHolds();
          EXPECT_EQ(registry_->Find("feed")->subscribers[info.index].session, 0);
          ExpectInUse(*manager_, 0);
        },
        /*begins_with_a_stop=*/true, kInstructionsOfATake);
    EXPECT_EQ(steps, kInstructionsOfATake);
    Leave(std::move(publisher), *sender);
    if (other) Leave(std::move(other), *peer_);
    sender->Close();
  }
}

// A pool is deleted, and its addresses of chunks are another's at once, while the victim stands
// anywhere in a loan, a release or a flush of what it had in its cache.
TEST_P(StepTest, DeleteAPoolWhoseClientIsStoppedInALoan) {
  constexpr int kInstructions = 400;  // and then some
  PoolDrain drain(*manager_);
  uint32_t index = 0;
  uint32_t next = 0;
  bool gone = false;
  std::vector<ChunkRef> others;
  const int steps = StopAtEach(
      [&] {
        RecoverVictim();
        drain.FreeGaps(SessionSet(attached_).reset(victim_id_));
        index = AddPool("gone", 64, GetParam()).index;
      },
      [](const auto& session) {
        const PoolView& pool = *session->manager().FindPool("gone");
        const auto loan_and_release = [&] {
          ChunkRef chunk;
          const Code code = session->Loan(pool, Deadline::Now(), &chunk);
          if (code == Code::kNotFound) return;
          if (code != Code::kOk) _exit(3);
          std::memset(chunk.data(), 0xbd, 64);
          if (!session->Release(chunk)) _exit(4);
        };
        loan_and_release();
        raise(SIGSTOP);
        loan_and_release();
        session->FlushThisThread();
      },
      [&] {
        drain.Begin(index);
        gone = drain.Step(index, attached_);
        const PoolView& pool = AddPool("next", 64, GetParam());  // so that any chunk is another's
        next = pool.index;
        ChunkRef chunk;
        others.clear();
        while (peer_->Loan(pool, Deadline::Now(), &chunk) == Code::kOk) {
          std::memset(chunk.data(), 0x11, 64);
          others.push_back(chunk);
        }
        ASSERT_EQ(others.size(), GetParam());
        ExpectAuditHolds();
      },
      [&] {
        for (const ChunkRef& chunk : others) {
          EXPECT_EQ(Value(chunk), 0x1111111111111111u) << "written by who had lost its pool";
          EXPECT_TRUE(peer_->Release(chunk));
        }
        EXPECT_TRUE(gone || drain.Step(index, attached_)) << "a chunk did not come back";
        drain.Begin(next);
        EXPECT_TRUE(drain.Step(next, attached_));
        ExpectAuditHolds();
      },
      /*begins_with_a_stop=*/true, kInstructions);
  EXPECT_GT(steps, 50);
}

INSTANTIATE_TEST_SUITE_P(Pools, StepTest, ::testing::Values(64u, 4096u));

}  // namespace
}  // namespace zerocp::shm
