#include "server/pool_watch.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <vector>

#include "shm/publisher_port.h"
#include "shm/session.h"
#include "shm/subscriber_port.h"
#include "tests/unit/server/test_instance.h"

namespace zerocp {
namespace {

using shm::ChunkRef;
using shm::Deadline;
using shm::HoldPhase;
using std::chrono::milliseconds;
using std::chrono::seconds;

class PoolWatchTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(instance.pools.Create(Spec("video", 4096, 16)).ok());
    ASSERT_TRUE(instance.pools.Create(Spec("audio", 64, 64)).ok());
  }
  void TearDown() override {
    for (auto& session : sessions) session->Close();
    shm::SessionSet gone;
    MutexLock lock(instance.core.mutex);
    gone = instance.core.attached;
    (void)instance.core.recovery.Recover(gone, /*orderly=*/true);
    instance.core.attached.reset();
  }
  shm::Session& Attach() {
    const auto id = static_cast<uint16_t>(shm::kFirstSession + sessions.size());
    MutexLock lock(instance.core.mutex);
    instance.core.attached.set(id);
    sessions.push_back(std::make_shared<shm::Session>(
        std::shared_ptr<shm::MemPoolManager>(std::shared_ptr<void>(), instance.core.manager.get()),
        id));
    return *sessions.back();
  }
  const shm::PoolView& Pool(const char* name) { return *instance.core.manager->FindPool(name); }
  ChunkRef Loan(shm::Session& session, const char* pool) {
    ChunkRef chunk;
    EXPECT_EQ(session.Loan(Pool(pool), Deadline::Now(), &chunk), shm::Code::kOk);
    return chunk;
  }
  // Without what sits in caches.
  static std::vector<PoolWatch::Held> Held(const PoolWatch::List& list) {
    std::vector<PoolWatch::Held> held;
    for (const PoolWatch::Held& h : list.chunks) {
      if (h.holders.front().phase != HoldPhase::kCached) held.push_back(h);
    }
    return held;
  }

  TestInstance instance;
  std::vector<std::shared_ptr<shm::Session>> sessions;
  milliseconds time{1'000'000};
  PoolWatch watch{instance.core, [this] { return PoolWatch::Clock::time_point(time); }};
};

TEST_F(PoolWatchTest, AChunkIsAsOldAsItsUseWasFirstSeen) {
  shm::Session& session = Attach();
  const ChunkRef old = Loan(session, "video");
  watch.ListHeld({}, std::nullopt, 100);
  time += seconds(5);
  const ChunkRef young = Loan(session, "video");
  auto held = Held(watch.ListHeld({}, std::nullopt, 100));
  ASSERT_EQ(held.size(), 2u);
  EXPECT_EQ(held[0].key.chunk, old.chunk);
  EXPECT_EQ(held[0].min_age, seconds(5));
  EXPECT_EQ(held[1].key.chunk, young.chunk);
  EXPECT_EQ(held[1].min_age, milliseconds(0));

  EXPECT_TRUE(session.Release(old));
  const ChunkRef again = Loan(session, "video");  // the same chunk, out of the thread's cache
  EXPECT_EQ(again.chunk, old.chunk);
  time += seconds(1);
  held = Held(watch.ListHeld({}, std::nullopt, 100));
  ASSERT_EQ(held.size(), 2u);
  EXPECT_EQ(held[0].key.chunk, young.chunk);
  EXPECT_EQ(held[1].min_age, milliseconds(0));
  EXPECT_TRUE(session.Release(again));
  EXPECT_TRUE(session.Release(young));
}

TEST_F(PoolWatchTest, PagesHoldEveryChunkOnceTheOldestFirst) {
  shm::Session& session = Attach();
  std::vector<ChunkRef> loans;
  for (int i = 0; i < 14; ++i) {
    loans.push_back(Loan(session, i % 2 == 0 ? "video" : "audio"));
    time += milliseconds(10);
    watch.ListHeld({}, std::nullopt, 1);
  }
  std::set<PoolWatch::Key> seen;
  std::optional<PoolWatch::Key> after;
  bool more = true;
  while (more) {
    const PoolWatch::List page = watch.ListHeld({}, after, 3);
    ASSERT_FALSE(page.chunks.empty());
    for (const PoolWatch::Held& held : page.chunks) {
      EXPECT_TRUE(!after || *after < held.key);
      EXPECT_TRUE(seen.insert(held.key).second);
      after = held.key;
    }
    more = page.more;
  }
  size_t loaned = 0;
  for (const ChunkRef& loan : loans) {
    for (const PoolWatch::Key& key : seen)
      loaned += key.pool == loan.pool->index && key.chunk == loan.chunk ? 1 : 0;
    EXPECT_TRUE(session.Release(loan));
  }
  EXPECT_EQ(loaned, loans.size());
}

TEST_F(PoolWatchTest, FiltersKeepOneHolderOrOnePoolAndSumsAddUp) {
  shm::Session& one = Attach();
  shm::Session& two = Attach();
  const ChunkRef chunks[] = {Loan(one, "video"), Loan(one, "audio"), Loan(two, "audio")};
  EXPECT_EQ(Held(watch.ListHeld({.pool = Pool("audio").index, .session = {}, .history_of = {}},
                                std::nullopt, 100))
                .size(),
            2u);
  const PoolWatch::Filter of_two{.pool = {}, .session = two.id(), .history_of = {}};
  const PoolWatch::List list = watch.ListHeld(of_two, std::nullopt, 100);
  ASSERT_EQ(Held(list).size(), 1u);
  uint64_t writing = 0;
  for (const PoolWatch::Sum& sum : list.sums) {
    EXPECT_EQ(sum.sum.session, two.id());
    EXPECT_EQ(sum.pool, "audio");
    if (sum.sum.phase == HoldPhase::kWriting) writing += sum.sum.chunk_count;
  }
  EXPECT_EQ(writing, 1u);
  EXPECT_TRUE(watch.ListHeld({.pool = {}, .session = 999, .history_of = {}}, std::nullopt, 100)
                  .chunks.empty());
  EXPECT_TRUE(one.Release(chunks[0]));
  EXPECT_TRUE(one.Release(chunks[1]));
  EXPECT_TRUE(two.Release(chunks[2]));
}

TEST_F(PoolWatchTest, TheLeastNumberOfFreeChunksIsKeptForAMinute) {
  shm::Session& session = Attach();
  const uint32_t index = Pool("video").index;
  EXPECT_EQ(watch.LeastFree(index), 16u);
  std::vector<ChunkRef> loans;
  for (int i = 0; i < 10; ++i) loans.push_back(Loan(session, "video"));
  watch.Look();
  for (const ChunkRef& loan : loans) EXPECT_TRUE(session.Release(loan));
  session.FlushThisThread();
  time += seconds(30);
  EXPECT_LE(*watch.LeastFree(index), 6u);
  time += seconds(31);
  EXPECT_EQ(watch.LeastFree(index), 16u);
  time += seconds(1000);
  EXPECT_EQ(watch.LeastFree(index), 16u);
}

TEST_F(PoolWatchTest, ARefusedLoanBetweenTwoLooksIsNotMissed) {
  shm::Session& session = Attach();
  const uint32_t index = Pool("video").index;
  watch.Look();
  std::vector<ChunkRef> loans;
  for (int i = 0; i < 16; ++i) loans.push_back(Loan(session, "video"));
  ChunkRef none;
  EXPECT_EQ(session.Loan(Pool("video"), Deadline::Now(), &none), shm::Code::kExhausted);
  for (const ChunkRef& loan : loans) EXPECT_TRUE(session.Release(loan));
  session.FlushThisThread();
  EXPECT_EQ(watch.LeastFree(index), 0u);
  EXPECT_EQ(instance.pools.Stats({"video"})->front().exhausted_count, 1u);
  EXPECT_EQ(instance.pools.Stats({"video"})->front().loan_count, 16u);
  time += seconds(61);
  EXPECT_EQ(watch.LeastFree(index), 16u);
}

TEST_F(PoolWatchTest, ItsThreadLooksBesideWorkingClients) {
  watch.Start();
  shm::Session& session = Attach();
  for (int i = 0; i < 1000; ++i) {
    const ChunkRef loan = Loan(session, "audio");
    if (i % 100 == 0) {
      EXPECT_GE(watch.ListHeld({}, std::nullopt, 100).chunks.size(), 1u);
    }
    EXPECT_TRUE(session.Release(loan));
  }
  watch.Stop();
}

}  // namespace
}  // namespace zerocp
