// Deleting pools under clients that idle, hold, wait, or remember.
#include "shm/pool_drain.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <thread>
#include <vector>

#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {
namespace {

constexpr uint32_t kRevocable = 64;
constexpr uint32_t kExclusive = 4096;

class PoolDrainTest : public InstanceFixture {
 protected:
  // A session with a mapping and views of its own, as a client process has.
  std::shared_ptr<Session> AttachClient() {
    const uint16_t id = next_id_++;
    attached_.set(id);
    auto manager = MemPoolManager::Attach(
        UniqueFd(fcntl(manager_->management_segment().fd(), F_DUPFD_CLOEXEC, 0)),
        UniqueFd(fcntl(manager_->chunk_segment().fd(), F_DUPFD_CLOEXEC, 0)));
    EXPECT_TRUE(manager.ok()) << manager.status().message();
    return std::make_shared<Session>(std::move(*manager), id);
  }
  static const PoolView* Find(const std::shared_ptr<Session>& session, const char* name = "a") {
    return session->manager().FindPool(name);
  }
  static ChunkRef MustLoan(const std::shared_ptr<Session>& session, const PoolView& pool) {
    ChunkRef chunk;
    EXPECT_EQ(session->Loan(pool, Deadline::Now(), &chunk), Code::kOk);
    return chunk;
  }
  // As a publisher's inlined loan does.
  static bool LoansInline(const std::shared_ptr<Session>& session, const PoolView& pool) {
    uint32_t chunk;
    return session->CacheOf(pool).TryLoan(0, &chunk);
  }
  bool Delete(uint32_t index) {
    drain_.Begin(index);
    manager_->SettleDrain(index);
    return drain_.Step(index, attached_);
  }
  uint64_t Blocks() const {
    uint64_t blocks = 0;
    for (int fd : {manager_->management_segment().fd(), manager_->chunk_segment().fd()}) {
      struct stat info {};
      EXPECT_EQ(fstat(fd, &info), 0);
      blocks += static_cast<uint64_t>(info.st_blocks);
    }
    return blocks;
  }

  PoolDrain drain_{*manager_};
};

TEST_F(PoolDrainTest, WhatIdleThreadsKeepIsTakenAndAllMemoryGivenBack) {
  for (uint32_t count : {kRevocable, kExclusive}) {
    const uint64_t before = Blocks();
    const uint32_t index = AddPool("a", 64, count).index;
    auto client = AttachClient();
    const PoolView& pool = *Find(client);
    std::vector<ChunkRef> chunks;
    for (int i = 0; i < 20; ++i) chunks.push_back(MustLoan(client, pool));
    for (const ChunkRef& chunk : chunks) EXPECT_TRUE(client->Release(chunk));
    EXPECT_GT(Count(*manager_->pool(index)).cached_count, 0u);
    EXPECT_TRUE(Delete(index));
    EXPECT_EQ(manager_->pool(index), nullptr);
    EXPECT_EQ(Find(client), nullptr);
    EXPECT_EQ(Blocks(), before);
    ChunkRef none;
    EXPECT_EQ(client->Loan(pool, Deadline::Now(), &none), Code::kNotFound);
    client->FlushThisThread();
    EXPECT_EQ(drain_.gap_count(), 1u);
    Detach(client);
    drain_.FreeGaps(attached_);
    EXPECT_EQ(drain_.gap_count(), 0u);
    EXPECT_EQ(Blocks(), before);  // also of what the loan has touched
  }
}

TEST_F(PoolDrainTest, WhatApplicationsHoldIsWaitedFor) {
  for (uint32_t count : {kRevocable, kExclusive}) {
    const uint32_t index = AddPool("a", 64, count).index;
    auto client = AttachClient();
    const PoolView& pool = *Find(client);
    ChunkRef loan = MustLoan(client, pool);
    ChunkRef shared = MustLoan(client, pool);
    const uint64_t handle = client->Share(shared);
    EXPECT_FALSE(Delete(index));
    ChunkRef none;
    EXPECT_FALSE(client->TryLoan(pool, &none));
    EXPECT_EQ(client->Loan(pool, Deadline::Never(), &none), Code::kNotFound);
    ExpectAuditHolds();
    EXPECT_EQ(Count(*manager_->pool(index)).free_count, count - 2);
    ChunkRef opened;  // who holds a chunk may pass it on
    EXPECT_EQ(client->Open(handle, &opened), Code::kOk);
    EXPECT_TRUE(client->Release(opened));
    EXPECT_TRUE(client->Release(shared));
    EXPECT_FALSE(drain_.Step(index, attached_));
    EXPECT_TRUE(client->Release(loan));
    EXPECT_TRUE(drain_.Step(index, attached_));
    EXPECT_EQ(client->Open(handle, &opened), Code::kStale);
    Detach(client);
    drain_.FreeGaps(attached_);
  }
}

TEST_F(PoolDrainTest, ALoanOutOfACacheSeesThatItsPoolIsDeletedBeforeAnythingIsTaken) {
  for (uint32_t count : {kRevocable, kExclusive}) {
    const uint32_t index = AddPool("a", 64, count).index;
    auto client = AttachClient();
    const PoolView& pool = *Find(client);
    EXPECT_TRUE(client->Release(MustLoan(client, pool)));
    ChunkRef chunk;
    ASSERT_TRUE(client->TryLoan(pool, &chunk));
    EXPECT_TRUE(client->Release(chunk));
    drain_.Begin(index);
    manager_->SettleDrain(index);
    EXPECT_FALSE(LoansInline(client, pool));
    EXPECT_FALSE(client->TryLoan(pool, &chunk));
    EXPECT_EQ(client->Loan(pool, Deadline::Never(), &chunk), Code::kNotFound);
    EXPECT_TRUE(drain_.Step(index, attached_));
    Detach(client);
    drain_.FreeGaps(attached_);
  }
}

// The word has changed since the daemon marked it.
TEST_F(PoolDrainTest, WhatComesBackWhileItsPoolIsDeletedIsNotLoanedAgain) {
  for (uint32_t count : {kRevocable, kExclusive}) {
    const uint32_t index = AddPool("a", 64, count).index;
    auto client = AttachClient();
    const PoolView& pool = *Find(client);
    ChunkRef chunk = MustLoan(client, pool);
    client->Share(chunk);
    EXPECT_FALSE(Delete(index));
    recovery_->Tick(attached_);
    EXPECT_TRUE(client->Release(chunk));
    EXPECT_FALSE(LoansInline(client, pool));
    EXPECT_TRUE(drain_.Step(index, attached_));
    Detach(client);
    drain_.FreeGaps(attached_);
  }
}

// Records that the system took back begin anew, with a word that a cache may remember.
TEST_F(PoolDrainTest, APoolThatIsGoneIsNotLoanedFromWhateverItsRecordsSay) {
  for (uint32_t count : {kRevocable, kExclusive}) {
    const uint32_t index = AddPool("a", 64, count).index;
    auto client = AttachClient();
    const PoolView& pool = *Find(client);
    const ChunkRef cached = MustLoan(client, pool);
    EXPECT_TRUE(client->Release(cached));
    EXPECT_TRUE(Delete(index));
    EXPECT_NE(TakeFree(pool.record(cached.chunk), client->id()), 0u);  // by a thread that slept
    ChunkRef chunk;
    EXPECT_FALSE(client->TryLoan(pool, &chunk));
    EXPECT_EQ(client->held(), 0);
    Detach(client);
    drain_.FreeGaps(attached_);
  }
}

TEST_F(PoolDrainTest, WhatTheDeadHeldComesWithTheirRecovery) {
  const uint32_t index = AddPool("a", 64, kExclusive).index;
  auto client = AttachClient();
  MustLoan(client, *Find(client));
  EXPECT_FALSE(Delete(index));
  Kill(client);
  EXPECT_TRUE(drain_.Step(index, attached_));
}

TEST_F(PoolDrainTest, WhoWaitsForAChunkIsTold) {
  const uint32_t index = AddPool("a", 64, 1).index;
  auto client = AttachClient();
  const PoolView& pool = *Find(client);
  const ChunkRef loan = MustLoan(client, pool);
  std::thread waiter([&] {
    ChunkRef none;
    EXPECT_EQ(client->Loan(pool, Deadline::Never(), &none), Code::kNotFound);
  });
  while (pool.shared->pressure.load() == 0) std::this_thread::yield();
  EXPECT_FALSE(Delete(index));
  waiter.join();
  EXPECT_TRUE(client->Release(loan));
  EXPECT_TRUE(drain_.Step(index, attached_));
}

// More often than a handle's incarnation can tell apart.
TEST_F(PoolDrainTest, HandlesOfPoolsThatWereThereBeforeAreStale) {
  auto client = AttachClient();
  std::vector<uint64_t> handles;
  for (int round = 0; round < 40; ++round) {
    const uint32_t index = AddPool("a", 64, 1).index;
    ChunkRef chunk = MustLoan(client, *Find(client));
    const uint64_t handle = client->Share(chunk);
    ChunkRef opened;
    for (uint64_t old : handles) EXPECT_EQ(client->Open(old, &opened), Code::kStale);
    ASSERT_EQ(client->Open(handle, &opened), Code::kOk);
    EXPECT_EQ(Session::HandleOf(opened), handle);
    handles.push_back(handle);
    EXPECT_TRUE(client->Release(opened));
    EXPECT_TRUE(client->Release(chunk));
    ASSERT_TRUE(Delete(index));
  }
}

TEST_F(PoolDrainTest, CachesOfPoolsUnderOneIndexAreNotMixed) {
  auto client = AttachClient();
  for (uint32_t count : {kExclusive, kRevocable, kExclusive, kExclusive}) {
    const uint32_t index = AddPool("a", 64, count).index;
    const PoolView& pool = *Find(client);
    for (uint32_t i = 0; i < 2 * count; ++i) {
      const ChunkRef chunk = MustLoan(client, pool);
      std::memset(chunk.data(), 0x5a, 64);
      EXPECT_TRUE(client->Release(chunk));
    }
    ExpectAuditHolds();
    ASSERT_TRUE(Delete(index));
  }
}

// 64 MiB of addresses for records, and each pool takes more than 4 of them.
TEST_F(PoolDrainTest, AddressesOfPoolsThatNobodyKnowsAreUsedAgain) {
  AddPool("other", 64, 8);
  auto client = AttachClient();
  MustLoan(client, *Find(client, "other"));
  PoolSpec spec;
  spec.name = "a";
  spec.chunk_size_bytes = 64;
  spec.chunk_count = 8;
  spec.max_chunk_count = 65536;
  for (int round = 0; round < 100; ++round) {
    const auto index = manager_->CreatePool(spec);
    ASSERT_TRUE(index.ok()) << round << ": " << index.status().message();
    ASSERT_TRUE(Delete(*index)) << round;
    EXPECT_EQ(Find(client), nullptr);
  }
  EXPECT_EQ(drain_.gap_count(), 0u);
}

TEST_F(PoolDrainTest, AddressesOfRecordsAreKeptFromWhoKnowsThem) {
  auto client = AttachClient();
  std::vector<uint64_t> offsets;
  for (int round = 0; round < 10; ++round) {
    const PoolView& pool = AddPool("a", 64, kExclusive);
    for (uint64_t offset : offsets) EXPECT_NE(pool.records_offset, offset);
    offsets.push_back(pool.records_offset);
    const PoolView& known = *Find(client);
    EXPECT_TRUE(client->Release(MustLoan(client, known)));
    ASSERT_TRUE(Delete(pool.index));
  }
  EXPECT_EQ(drain_.gap_count(), 10u);
  Detach(client);
  drain_.FreeGaps(attached_);
  EXPECT_EQ(drain_.gap_count(), 0u);
  EXPECT_EQ(AddPool("a", 64, kExclusive).records_offset, offsets.front());
}

TEST_F(PoolDrainTest, ADaemonThatAdoptsGoesOnAndKeepsTheAddresses) {
  const uint32_t first = AddPool("a", 64, kExclusive).index;
  const uint64_t records = manager_->pool(first)->records_offset;
  auto client = AttachClient();
  EXPECT_TRUE(client->Release(MustLoan(client, *Find(client))));
  ASSERT_TRUE(Delete(first));
  const uint32_t index = AddPool("b", 64, kRevocable).index;
  const ChunkRef loan = MustLoan(client, *Find(client, "b"));
  EXPECT_FALSE(Delete(index));

  auto adopted = MemPoolManager::Adopt(manager_->options());
  ASSERT_TRUE(adopted.ok()) << adopted.status().message();
  MemPoolManager& next = **adopted;
  PoolDrain drain(next);
  drain.AdoptGaps(attached_);
  ASSERT_NE(next.pool(index), nullptr);
  EXPECT_FALSE(next.pool(index)->IsOpen());
  PoolSpec spec;
  spec.name = "c";
  spec.chunk_size_bytes = 64;
  spec.chunk_count = kExclusive;
  const auto created = next.CreatePool(spec);
  ASSERT_TRUE(created.ok());
  EXPECT_NE(next.pool(*created)->records_offset, records);
  drain.Begin(*created);
  next.SettleDrain(*created);
  EXPECT_TRUE(drain.Step(*created, attached_));
  EXPECT_FALSE(drain.Step(index, attached_));
  EXPECT_TRUE(client->Release(loan));
  EXPECT_TRUE(drain.Step(index, attached_));
  EXPECT_TRUE(drain_.Step(index, attached_));  // the daemon of this test, of which that was a copy
  Detach(client);
  drain.FreeGaps(attached_);
  EXPECT_EQ(drain.gap_count(), 0u);
}

TEST_F(PoolDrainTest, WhatAKilledDaemonHadCommittedForAGrowthIsGivenBack) {
  const PoolView& pool = AddPool("a", 65536, 4);
  const int fd = manager_->chunk_segment().fd();
  const auto blocks = [fd] {
    struct stat info {};
    EXPECT_EQ(fstat(fd, &info), 0);
    return info.st_blocks;
  };
  const auto before = blocks();
  const auto end = static_cast<off_t>(pool.payload_offset + 4 * pool.stride_bytes);
  ASSERT_EQ(posix_fallocate(fd, end, 8 * 65536), 0);
  EXPECT_GT(blocks(), before);
  auto adopted = MemPoolManager::Adopt(manager_->options());
  ASSERT_TRUE(adopted.ok()) << adopted.status().message();
  EXPECT_EQ(blocks(), before);
}

}  // namespace
}  // namespace zerocp::shm
