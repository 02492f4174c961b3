// Death at each point of a hand-over, and what the audit says of damage.
#include "shm/recovery.h"

#include <fcntl.h>

#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {
namespace {

class RecoveryTest : public InstanceFixture {
 protected:
  void SetUp() override {
    AddPool("pool", 64, 64);
    AddChannel("feed", "pool", 4);
    publisher_session_ = Attach();
    subscriber_session_ = Attach();
    publisher_ = Publish(publisher_session_, "feed");
    subscriber_ = Subscribe(subscriber_session_, "feed");
  }
  void TearDown() override {
    publisher_session_->Close();
    subscriber_session_->Close();
    InstanceFixture::TearDown();
  }
  const PoolView& pool() { return *manager_->FindPool("pool"); }
  ChannelRegistry::Channel& channel() { return *registry_->Find("feed"); }
  LaneView lane() { return channel().Lane(channel().lanes[publisher_->info().index], *manager_); }
  void SendAll(int count) {
    for (int i = 0; i < count; ++i) {
      ASSERT_EQ(Send(*publisher_session_, *publisher_, static_cast<uint64_t>(i)), Code::kOk);
    }
  }

  std::shared_ptr<Session> publisher_session_, subscriber_session_;
  std::unique_ptr<PublisherPort> publisher_;
  std::unique_ptr<SubscriberPort> subscriber_;
};

TEST_F(RecoveryTest, WhatADeadPublisherSentIsStillDelivered) {
  SendAll(3);
  const RecoveryReport report = Kill(publisher_session_);
  EXPECT_EQ(report.delivered_count, 3u);
  ExpectAuditHolds();
  for (uint64_t i = 0; i < 3; ++i) ExpectTakes(*subscriber_session_, *subscriber_, i);
  ChunkRef chunk;
  EXPECT_EQ(subscriber_->TryTake(&chunk), Code::kPublisherDied);
}

TEST_F(RecoveryTest, TheLaneOfADeadPublisherNamesNobodyToTheNextDaemon) {
  SendAll(1);
  const LaneEntry& entry = channel().view.lanes[publisher_->info().index];
  EXPECT_EQ(entry.session.load(), publisher_session_->id());
  Kill(publisher_session_);
  EXPECT_EQ(entry.session.load(), 0);  // its id is given out again
  ExpectTakes(*subscriber_session_, *subscriber_, 0);
}

TEST_F(RecoveryTest, WhatADeadPublisherSentToSeveralIsStillDeliveredToEach) {
  auto other_session = Attach();
  auto other = Subscribe(other_session, "feed");
  SendAll(3);
  ExpectTakes(*other_session, *other, 0);
  EXPECT_EQ(Kill(publisher_session_).delivered_count, 5u);
  ExpectAuditHolds();
  for (uint64_t i = 0; i < 3; ++i) ExpectTakes(*subscriber_session_, *subscriber_, i);
  for (uint64_t i = 1; i < 3; ++i) ExpectTakes(*other_session, *other, i);
  EXPECT_EQ(Counts(pool()).shared_count, 0u);
}

TEST_F(RecoveryTest, AnOrderlyDetachWithMessagesWaitingLosesNone) {
  SendAll(3);
  Detach(publisher_session_);
  for (uint64_t i = 0; i < 3; ++i) ExpectTakes(*subscriber_session_, *subscriber_, i);
  ChunkRef chunk;
  EXPECT_EQ(subscriber_->TryTake(&chunk), Code::kEndOfStream);
}

TEST_F(RecoveryTest, AWordOfNoKindComesFreeWithItsOwner) {
  ChunkRef chunk;
  ASSERT_EQ(publisher_session_->Loan(pool(), Deadline::Now(), &chunk), Code::kOk);
  std::atomic<uint64_t>& word = pool().record(chunk.chunk).word;
  word.store((word.load() & ~uint64_t{3}) | 1);  // forged
  Kill(publisher_session_);
  EXPECT_EQ(KindOf(word.load()), Kind::kFree);
}

TEST_F(RecoveryTest, AMessageOutsideTheLaneDiesWithItsPublisher) {
  SendAll(1);
  // Killed between writing the cell and the tail: the tail does not count it.
  ChunkRef chunk;
  ASSERT_EQ(publisher_session_->Loan(pool(), Deadline::Now(), &chunk), Code::kOk);
  lane().cell(1).store(Encode(Cell{CellKind::kMoved, 0, chunk.chunk, 1}));
  Kill(publisher_session_);
  ExpectTakes(*subscriber_session_, *subscriber_, 0);
  ChunkRef none;
  EXPECT_EQ(subscriber_->TryTake(&none), Code::kPublisherDied);
  subscriber_session_->FlushThisThread();
  EXPECT_EQ(Counts(pool()).free_count, 64u);
}

TEST_F(RecoveryTest, WhatWaitedForADeadSubscriberIsFreeAndThePublisherGoesOn) {
  SendAll(4);
  const RecoveryReport report = Kill(subscriber_session_);
  EXPECT_EQ(report.drained_count, 4u);
  EXPECT_EQ(report.freed_chunk_count, 4u);
  ExpectAuditHolds();
  SendAll(20);  // nobody is there
}

// Take-over is done, the cursor has not moved: the message is the dead subscriber's.
TEST_F(RecoveryTest, ASubscriberKilledBetweenTakeOverAndCursorLeavesNothing) {
  SendAll(2);
  const Cell cell = DecodeCell(lane().cell(0).load());
  ChunkManager& record = pool().record(cell.chunk);
  record.word.store(NextWord(record.word.load(), Kind::kLoaned, subscriber_session_->id()));
  Kill(subscriber_session_);
  publisher_session_->FlushThisThread();
  EXPECT_EQ(Counts(pool()).free_count, 64u);
  SendAll(8);
}

TEST_F(RecoveryTest, BothDeadInEitherOrderOrAtOnceLeavesNothing) {
  for (int order = 0; order < 3; ++order) {
    auto sender = Attach();
    auto taker = Attach();
    auto out = Publish(sender, "feed");
    auto in = Subscribe(taker, "feed");
    for (uint64_t i = 0; i < 3; ++i) ASSERT_EQ(Send(*sender, *out, i), Code::kOk);
    ChunkRef held;
    ASSERT_EQ(in->TryTake(&held), Code::kOk);
    if (order == 0) {
      Kill(sender);
      Kill(taker);
    } else if (order == 1) {
      Kill(taker);
      Kill(sender);
    } else {
      SessionSet gone;
      for (const auto& session : {sender, taker}) {
        gone.set(session->id());
        attached_.reset(session->id());
        killed_.push_back(session);
      }
      recovery_->Recover(gone, false);
    }
    ExpectAuditHolds();
    ChunkRef taken;  // the fixture's own subscriber has these too: they are shared
    while (subscriber_->TryTake(&taken) == Code::kOk) subscriber_session_->Release(taken);
    subscriber_session_->FlushThisThread();
    EXPECT_EQ(Counts(pool()).free_count, 64u) << order;
  }
}

TEST_F(RecoveryTest, RunningRecoveryTwiceChangesNothingMore) {
  SendAll(3);
  SessionSet gone;
  gone.set(publisher_session_->id());
  Kill(publisher_session_);
  const RecoveryReport again = recovery_->Recover(gone, false);
  EXPECT_EQ(again.freed_chunk_count + again.delivered_count + again.drained_count, 0u);
  for (uint64_t i = 0; i < 3; ++i) ExpectTakes(*subscriber_session_, *subscriber_, i);
}

// The daemon was killed after it had taken a message in a dead subscriber's place and before it let
// go of the chunk; meanwhile the publisher has used the chunk again, in a later generation with the
// same slot.
TEST_F(RecoveryTest, AClaimFinishedLateDoesNotTouchALaterUseOfTheChunk) {
  auto second_session = Attach();
  auto second = Subscribe(second_session, "feed");
  SendAll(1);
  const uint32_t k = subscriber_->info().index;
  std::atomic<uint64_t>& cursor = lane().cursors[k].word;
  const uint64_t cell = lane().cell(0).load();
  ChunkManager& record = pool().record(DecodeCell(cell).chunk);
  lane().cursors[k].daemon_claim.store(cell | kClaimValid);
  cursor.store(CursorWith(cursor.load() ^ kCursorD, CursorEpoch(cursor.load()), 1));
  // The chunk is now shared anew by its publisher: same slots, next generation.
  StoreWord(record, Kind::kLoaned, publisher_session_->id());
  ShareChunk(record, publisher_session_->id(), 3);
  recovery_->FinishClaims();
  EXPECT_EQ(record.slots()[k].load(), publisher_session_->id());
  EXPECT_EQ(KindOf(record.word.load()), Kind::kShared);
  record.slots()[0].store(0);
  record.slots()[1].store(0);
  second_session->Close();
  Kill(second_session);
}

TEST_F(RecoveryTest, AClaimThatWasWonIsFinishedByTheNextDaemon) {
  SendAll(1);
  const uint32_t k = subscriber_->info().index;
  std::atomic<uint64_t>& cursor = lane().cursors[k].word;
  lane().cursors[k].daemon_claim.store(lane().cell(0).load() | kClaimValid);
  cursor.store(CursorWith(cursor.load() ^ kCursorD, CursorEpoch(cursor.load()), 1));
  EXPECT_EQ(recovery_->FinishClaims().freed_chunk_count, 1u);
  EXPECT_EQ(recovery_->FinishClaims().freed_chunk_count, 0u);
}

TEST_F(RecoveryTest, ASubscriberLetOutHalfWayIsFreedByTheNextDaemon) {
  SendAll(3);
  const uint32_t k = subscriber_->info().index;
  ASSERT_TRUE(registry_->LeaveSubscriber(0, k, subscriber_session_->id()).ok());
  const RecoveryReport report = recovery_->FinishClaims();
  EXPECT_EQ(report.drained_count, 3u);
  EXPECT_EQ(channel().subscribers[k].session, 0);
}

TEST_F(RecoveryTest, WhatAPublisherSendsBeforeItNoticesAnEndIsLetGoByTheTick) {
  SendAll(1);
  Kill(subscriber_session_);
  // As a publisher does that looked at the stamp just before the subscriber died.
  ChunkRef chunk;
  ASSERT_EQ(publisher_session_->Loan(pool(), Deadline::Now(), &chunk), Code::kOk);
  const uint64_t tail = lane().lane->tail.load();
  const uint32_t stamp =
      static_cast<uint32_t>(DecodeWord(pool().record(chunk.chunk).word.load()).stamp);
  lane().cell(tail).store(Encode(Cell{CellKind::kMoved, 0, chunk.chunk, stamp}));
  lane().lane->tail.store(tail + 1);
  EXPECT_EQ(recovery_->Tick(attached_).freed_chunk_count, 1u);
  EXPECT_EQ(recovery_->Tick(attached_).freed_chunk_count, 0u);
}

TEST_F(RecoveryTest, TheTickNeverTakesFromALivingSubscriber) {
  SendAll(4);
  EXPECT_EQ(recovery_->Tick(attached_).drained_count, 0u);
  for (uint64_t i = 0; i < 4; ++i) ExpectTakes(*subscriber_session_, *subscriber_, i);
}

TEST_F(RecoveryTest, TheTickSetsCapsAndEndsPressure) {
  publisher_session_->FlushThisThread();  // registers a thread
  pool().shared->cache_cap.store(0);
  pool().shared->pressure.store(1);
  recovery_->Tick(attached_);
  EXPECT_EQ(pool().shared->pressure.load(), 0u);
  recovery_->Tick(attached_);
  EXPECT_EQ(pool().shared->cache_cap.load(), 32u);  // half of 64 chunks, one thread
}

TEST_F(RecoveryTest, ARegistryAdoptedFromTheSegmentServesTheSameMembers) {
  SendAll(2);
  ChannelRegistry adopted(*manager_);
  // The ranges are reserved by the first registry: adopt into a manager of its own.
  MemPoolManager::CreateOptions options;
  options.segment_dir = dir_;
  options.instance = "test";
  auto manager = MemPoolManager::Adopt(options);
  ASSERT_TRUE(manager.ok());
  ChannelRegistry registry(**manager);
  ASSERT_TRUE(registry.Adopt().ok());
  const ChannelRegistry::Channel* same = registry.Find("feed");
  ASSERT_NE(same, nullptr);
  EXPECT_EQ(ChannelRegistry::PublisherCount(*same), 1u);
  EXPECT_EQ(ChannelRegistry::SubscriberCount(*same), 1u);
  EXPECT_EQ(registry.QueuedCount(*same, subscriber_->info().index), 2u);
  EXPECT_EQ(Audit(**manager, registry, attached_).violation_count, 0u);
  for (uint64_t i = 0; i < 2; ++i) ExpectTakes(*subscriber_session_, *subscriber_, i);
  SendAll(1);
  ExpectTakes(*subscriber_session_, *subscriber_, 0);
}

// Damage: each seeded corruption is found under the name of its invariant.

class AuditTest : public RecoveryTest {
 protected:
  void ExpectFinds(const std::string& invariant) {
    const AuditReport report = Audit(*manager_, *registry_, attached_);
    EXPECT_GE(report.violation_count, 1u);
    bool found = false;
    for (const auto& violation : report.violations) found |= violation.invariant == invariant;
    EXPECT_TRUE(found) << invariant << " not found; first: " << First(report);
  }
  // Sets `word` to `value` while the audit runs, then back.
  template <class T>
  void ExpectFindsCorrupt(std::atomic<T>& word, T value, const std::string& invariant) {
    const T before = word.exchange(value);
    ExpectFinds(invariant);
    word.store(before);
  }
};

TEST_F(AuditTest, FindsEachSeededCorruptionByName) {
  auto other_session = Attach();
  auto other = Subscribe(other_session, "feed");
  SendAll(2);
  ChunkManager& free = pool().record(60);
  ASSERT_EQ(KindOf(free.word.load()), Kind::kFree);
  const Cell cell = DecodeCell(lane().cell(0).load());
  ChunkManager& queued = pool().record(cell.chunk);
  std::atomic<uint64_t>& cursor = lane().cursors[subscriber_->info().index].word;

  ExpectFindsCorrupt(free.word, Encode(Word{Kind::kLoaned, 99, 1}), "word-owner");
  ExpectFindsCorrupt(free.word, Encode(Word{Kind::kLoaned, kDaemonSession, 1}), "word-owner");
  ExpectFindsCorrupt(free.word, Encode(Word{Kind::kFree, 5, 1}), "word-owner");
  ExpectFindsCorrupt(free.word, Encode(Word{Kind::kShared, 0, 1}), "shared-held");
  ExpectFindsCorrupt(free.slots()[0], publisher_session_->id(), "free-unheld");
  ExpectFindsCorrupt(free.slots()[20], uint16_t{99}, "slot-session");
  ExpectFindsCorrupt(free.slots()[20], uint16_t{0xffff}, "slot-session");
  ExpectFindsCorrupt(queued.slots()[subscriber_->info().index], uint16_t{0}, "queue-label");
  ExpectFindsCorrupt(queued.generation, 77u, "queue-label");
  ExpectFindsCorrupt(lane().cell(0), ~uint64_t{0}, "queue-cell");
  ExpectFindsCorrupt(lane().cell(1), uint64_t{0}, "queue-cell");
  ExpectFindsCorrupt(cursor, CursorWith(cursor.load(), CursorEpoch(cursor.load()), 1u << 20),
                     "queue-bounds");
  ExpectAuditHolds();
  other_session->Close();
  Kill(other_session);
}

TEST_F(AuditTest, ClientsGiveUpADamagedLaneAndReadNothingOutside) {
  SendAll(2);
  for (uint64_t forged :
       {~uint64_t{0}, uint64_t{0}, Encode(Cell{CellKind::kMoved, 0, 63, 0}),
        Encode(Cell{CellKind::kMoved, 15, 0, 0}), Encode(Cell{CellKind::kShared, 0, 5, 0})}) {
    auto session = Attach();
    auto port = Subscribe(session, "feed");
    auto sender = Attach();
    auto out = Publish(sender, "feed");
    ASSERT_EQ(Send(*sender, *out, 1), Code::kOk);
    const LaneView view = channel().Lane(channel().lanes[out->info().index], *manager_);
    const uint64_t before = view.cell(0).exchange(forged);
    ChunkRef chunk;
    EXPECT_EQ(port->TryTake(&chunk), Code::kDamaged) << forged;
    EXPECT_EQ(port->TryTake(&chunk), Code::kTimeout);
    view.cell(0).store(before);
    Kill(session);
    Kill(sender);
  }
}

// With a mapping of its own, as a client has it: the daemon's manager believes no offset.
TEST_F(AuditTest, ALaneOrAPoolThatIsSaidToLieBehindTheFilesEndIsNotTouched) {
  auto attached = MemPoolManager::Attach(
      UniqueFd(fcntl(manager_->management_segment().fd(), F_DUPFD_CLOEXEC, 0)),
      UniqueFd(fcntl(manager_->chunk_segment().fd(), F_DUPFD_CLOEXEC, 0)));
  ASSERT_TRUE(attached.ok()) << attached.status().message();
  const std::shared_ptr<MemPoolManager> manager = std::move(*attached);
  const auto keeper = Attach();
  auto session = std::make_shared<Session>(manager, keeper->id());
  auto port = Subscribe(session, "feed");
  auto out = Publish(publisher_session_, "feed");
  const uint64_t reserved = manager->management_segment().reserved_bytes();
  const uint64_t bytes = out->info().geometry.lane_bytes();
  const uint64_t last_place = (reserved - bytes) / kLine * kLine;
  ASSERT_LT(manager_->management_segment().file_bytes(), last_place);
  std::atomic<uint64_t>& offset = channel().view.lanes[out->info().index].offset;
  const uint64_t before = offset.exchange(last_place);
  ASSERT_EQ(Send(*publisher_session_, *out, 1), Code::kOk);
  ChunkRef chunk;
  EXPECT_EQ(port->TryTake(&chunk), Code::kTimeout);
  offset.store(before);

  MemPool& entry = manager_->pool_entry(pool().index);
  const uint64_t payload = entry.payload_offset;
  const uint64_t last = manager->chunk_segment().reserved_bytes() - entry.stride_bytes * 64;
  entry.payload_offset = last - last % kExtentAlign;
  auto other = MemPoolManager::Attach(
      UniqueFd(fcntl(manager_->management_segment().fd(), F_DUPFD_CLOEXEC, 0)),
      UniqueFd(fcntl(manager_->chunk_segment().fd(), F_DUPFD_CLOEXEC, 0)));
  ASSERT_TRUE(other.ok()) << other.status().message();
  EXPECT_EQ((*other)->pool(pool().index), nullptr);
  entry.payload_offset = payload;
  EXPECT_NE((*other)->pool(pool().index), nullptr);
  Leave(std::move(out), *publisher_session_);
  Kill(session);
}

TEST_F(AuditTest, AChunkCountThatIsForgedLeadsNoClientBehindTheFilesEnd) {
  auto attached = MemPoolManager::Attach(
      UniqueFd(fcntl(manager_->management_segment().fd(), F_DUPFD_CLOEXEC, 0)),
      UniqueFd(fcntl(manager_->chunk_segment().fd(), F_DUPFD_CLOEXEC, 0)));
  ASSERT_TRUE(attached.ok()) << attached.status().message();
  const uint32_t index = AddPool("grows", 4096, 4).index;
  const PoolView* view = (*attached)->pool(index);
  ASSERT_NE(view, nullptr);
  EXPECT_EQ(view->live_chunk_count(), 4u);
  std::atomic<uint32_t>& count = manager_->pool_entry(index).chunk_count;
  for (uint32_t forged : {5u, view->max_chunk_count, ~0u}) {
    count.store(forged);
    EXPECT_EQ(view->live_chunk_count(), 4u) << forged;
  }
  count.store(4);
  ASSERT_TRUE(manager_->GrowPool(index, 6).ok());
  EXPECT_EQ(view->live_chunk_count(), 6u);
}

TEST_F(AuditTest, ADaemonAdoptsNothingBehindTheFilesEnd) {
  MemPoolManager::CreateOptions options;
  options.segment_dir = dir_;
  options.instance = "test";
  const uint64_t end = manager_->management_segment().file_bytes();
  const uint64_t behind = (end + kExtentAlign - 1) / kExtentAlign * kExtentAlign;
  LaneEntry& lane_entry = channel().view.lanes[publisher_->info().index];
  const uint64_t lane_offset = lane_entry.offset.exchange(behind);
  {
    auto adopted = MemPoolManager::Adopt(options);
    ASSERT_TRUE(adopted.ok()) << adopted.status().message();
    ChannelRegistry registry(**adopted);
    EXPECT_TRUE(registry.Inspect().ok());
    EXPECT_EQ(registry.Find("feed")->lanes[publisher_->info().index].state, LaneState::kFree);
  }
  lane_entry.offset.store(lane_offset);

  ChannelEntry& entry = manager_->channel_entry(channel().index);
  const uint64_t region = std::exchange(entry.region_offset, behind);
  {
    auto adopted = MemPoolManager::Adopt(options);
    ASSERT_TRUE(adopted.ok()) << adopted.status().message();
    EXPECT_EQ(ChannelRegistry(**adopted).Inspect().code(), Code::kDamaged);
  }
  entry.region_offset = region;

  MemPool& pool_entry = manager_->pool_entry(pool().index);
  for (uint64_t* offset : {&pool_entry.headers_offset, &pool_entry.hints_offset}) {
    const uint64_t before = std::exchange(*offset, uint64_t{32} << 20);
    EXPECT_EQ(MemPoolManager::Adopt(options).code(), Code::kDamaged);
    *offset = before;
  }
}

TEST_F(AuditTest, RecoveryOverForgedBytesEndsAndStaysInside) {
  SendAll(4);
  uint64_t random = 88172645463325252;
  const auto next = [&] {
    return random ^= random << 13, random ^= random >> 7, random ^= random << 17;
  };
  for (int round = 0; round < 200; ++round) {
    auto* words = reinterpret_cast<uint64_t*>(lane().lane);
    for (uint64_t i = 0; i < publisher_->info().geometry.lane_bytes() / 8; ++i) {
      if (next() % 4 == 0) __atomic_store_n(words + i, next(), __ATOMIC_RELAXED);
    }
    for (uint32_t chunk = 0; chunk < 64; ++chunk) {
      if (next() % 4 == 0) pool().record(chunk).word.store(next());
      pool().record(chunk).slots()[next() % 24].store(static_cast<uint16_t>(next()));
    }
    SessionSet gone;
    gone.set(publisher_session_->id(), round % 2 == 0);
    gone.set(subscriber_session_->id(), round % 3 == 0);
    recovery_->Recover(gone, false);
    recovery_->Tick(attached_);
    Audit(*manager_, *registry_, attached_);
  }
  // A daemon that adopts this believes no session id, index or size of it.
  for (uint32_t k = 0; k < channel().subscribers.size(); ++k) {
    channel().view.subscribers[k].session.store(static_cast<uint16_t>(next()));
  }
  for (uint32_t i = 0; i < kLaneEntries; ++i) {
    channel().view.lanes[i].session.store(static_cast<uint16_t>(next()));
    channel().view.lanes[i].state.store(static_cast<uint16_t>(next() % 8));
  }
  MemPoolManager::CreateOptions options;
  options.segment_dir = dir_;
  options.instance = "test";
  auto adopted = MemPoolManager::Adopt(options);
  ASSERT_TRUE(adopted.ok());
  ChannelRegistry registry(**adopted);
  (void)registry.Adopt();
  Recovery recovery(**adopted, registry);
  recovery.FinishClaims();
  recovery.Recover(SessionSet().set(), false);
  recovery.Tick(SessionSet());
  // Made whole again for TearDown.
  attached_.reset();
  std::memset(static_cast<void*>(&pool().record(0)), 0, 64 * 64);
}

}  // namespace
}  // namespace zerocp::shm
