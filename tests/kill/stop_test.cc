// Stopped at every machine instruction: the operation is run anew for each of its instructions;
// there the child stands still while a peer does something, and then goes on.
#include "shm/pool_drain.h"
#include "tests/kill/step_fixture.h"

namespace zerocp::shm {
namespace {

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

// An open slot is filled by compare-exchange only, so that the undo of an open that came too late
// empties its own and no other: not even that of a thread of the same session, whose id is the
// same.
TEST_P(StepTest, AnOpenThatComesTooLateUndoesNothingButItself) {
  Session thread(manager_, victim_id_);
  ChunkRef shared;
  uint32_t generation = 0;
  bool closed = false;
  int late = 0;  // opens that filled a slot of a chunk that had been closed
  StopAtEach(
      [&] {
        shared = {&pool(), VictimLoans(), 0};
        generation = ShareChunk(pool().record(shared.chunk), victim_id_, 1);
      },
      [&](const auto& session) {
        const PoolView& mine = *session->manager().pool(0);
        uint16_t slot;
        OpenChunk(mine.record(shared.chunk), mine, generation, session->id(), &slot);
      },
      [&] {
        ChunkManager& record = pool().record(shared.chunk);
        closed = ReleaseSlot(record, pool().slot_count, 0, victim_id_);
        if (!closed) return;
        while (record.slots()[pool().grant_slots].load() == 0 && StepOn(1)) {
        }
        late += record.slots()[pool().grant_slots].load() != 0;
        thread.Share(shared);
      },
      [&] {
        ChunkManager& record = pool().record(shared.chunk);
        if (closed) {
          EXPECT_EQ(KindOf(record.word.load()), Kind::kShared) << "a chunk that is held was freed";
          EXPECT_EQ(record.slots()[shared.slot].load(), victim_id_);
        }
        RecoverVictim();
        ExpectInUse(*manager_, 0);
      });
  EXPECT_GT(late, 0);
}

// The word is FREE before the hint says so: whoever claims the hint finds the chunk. Where nobody
// looks at every record, one that was claimed too early is found by nobody.
TEST_P(StepTest, AFlushThatIsStoppedHidesNoChunk) {
  constexpr size_t kChunks = 3;
  std::vector<ChunkRef> all;
  const auto loan_all = [&] {
    ChunkRef chunk;
    while (peer_->Loan(pool(), Deadline::Now(), &chunk) == Code::kOk) all.push_back(chunk);
    return all.size();
  };
  const int steps = StopAtEach([&] { pool().shared->cache_cap.store(kChunks); },
                               [](const auto& session) {
                                 const PoolView& mine = *session->manager().pool(0);
                                 ChunkRef chunks[kChunks];
                                 for (ChunkRef& chunk : chunks)
                                   if (session->Loan(mine, Deadline::Now(), &chunk) != Code::kOk)
                                     _exit(3);
                                 for (const ChunkRef& chunk : chunks)
                                   if (!session->Release(chunk)) _exit(4);
                                 raise(SIGSTOP);
                                 session->FlushThisThread();
                               },
                               [&] { loan_all(); },
                               [&] {
                                 EXPECT_EQ(loan_all(), GetParam());
                                 for (const ChunkRef& chunk : all)
                                   EXPECT_TRUE(peer_->Release(chunk));
                                 all.clear();
                                 peer_->FlushThisThread();
                               },
                               /*begins_with_a_stop=*/true);
  EXPECT_GT(steps, 20);
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
            // None is missed without a word since the first take.
            if (value != last + 1 + port->missed_before()) _exit(4);
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
          recovery_->Tick(attached_);  // it lives: nothing is taken in its place
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
        manager_->SettleDrain(index);
        gone = drain.Step(index, attached_);
        const PoolView& pool = AddPool("next", 64, GetParam());  // so that any chunk is another's
        next = pool.index;
        ChunkRef chunk;
        Code code;
        others.clear();
        while ((code = peer_->Loan(pool, Deadline::Now(), &chunk)) == Code::kOk) {
          std::memset(chunk.data(), 0x11, 64);
          others.push_back(chunk);
        }
        ASSERT_EQ(code, Code::kExhausted);
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
        manager_->SettleDrain(next);
        EXPECT_TRUE(drain.Step(next, attached_));
        ExpectAuditHolds();
      },
      /*begins_with_a_stop=*/true, kInstructions);
  EXPECT_GT(steps, 50);
}

}  // namespace
}  // namespace zerocp::shm
