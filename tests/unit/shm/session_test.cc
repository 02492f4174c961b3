// Loan, release, share, open: one session, several, their threads, and what is left of a dead one.
#include "shm/session.h"

#include <set>
#include <thread>

#include "shm/free_list.h"
#include "shm/settle.h"
#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {
namespace {

class SessionTest : public InstanceFixture {
 protected:
  static ChunkRef MustLoan(Session& session, const PoolView& pool) {
    ChunkRef chunk;
    EXPECT_EQ(session.Loan(pool, Deadline::Now(), &chunk), Code::kOk);
    return chunk;
  }
};

TEST_F(SessionTest, EveryChunkIsLoanedOnceAndThenThePoolIsExhausted) {
  for (uint32_t count : {1u, 3u, 64u, 65u, 5000u}) {
    const PoolView& pool = AddPool("pool-" + std::to_string(count), 64, count);
    auto session = Attach();
    std::set<uint32_t> chunks;
    std::vector<ChunkRef> refs;
    for (uint32_t i = 0; i < count; ++i) {
      refs.push_back(MustLoan(*session, pool));
      EXPECT_TRUE(chunks.insert(refs.back().chunk).second);
    }
    ChunkRef none;
    EXPECT_EQ(session->Loan(pool, Deadline::Now(), &none), Code::kExhausted);
    EXPECT_EQ(session->held(), count);
    for (const ChunkRef& ref : refs) EXPECT_TRUE(session->Release(ref));
    EXPECT_EQ(session->held(), 0);
    session->Close();
    EXPECT_EQ(Counts(pool).free_count, count);
  }
}

TEST_F(SessionTest, AChunkReleasedTwiceIsRefusedTheSecondTime) {
  const PoolView& pool = AddPool("a", 64, 8);
  auto session = Attach();
  ChunkRef chunk = MustLoan(*session, pool);
  EXPECT_TRUE(session->Release(chunk));
  EXPECT_FALSE(session->Release(chunk));
  chunk = MustLoan(*session, pool);
  session->Share(chunk);
  EXPECT_TRUE(session->Release(chunk));
  EXPECT_FALSE(session->Release(chunk));
}

TEST_F(SessionTest, WhatOneThreadCachesAnotherSessionCanLoanWhenNothingElseIsLeft) {
  const PoolView& pool = AddPool("a", 64, 16);
  ASSERT_TRUE(pool.revocable);
  auto idle = Attach();
  auto busy = Attach();
  pool.shared->cache_cap.store(32);
  std::vector<ChunkRef> refs;
  for (int i = 0; i < 16; ++i) refs.push_back(MustLoan(*idle, pool));
  for (const ChunkRef& ref : refs) EXPECT_TRUE(idle->Release(ref));
  EXPECT_EQ(Counts(pool).cached_count, 16u);
  for (int i = 0; i < 16; ++i) MustLoan(*busy, pool);
  // The idle session's cache is all stale now: it finds out chunk by chunk.
  ChunkRef none;
  EXPECT_EQ(idle->Loan(pool, Deadline::Now(), &none), Code::kExhausted);
}

TEST_F(SessionTest, OneBarrierTakesBackManyAndTheRestIsAnyones) {
  const PoolView& pool = AddPool("a", 64, 64);
  pool.shared->cache_cap.store(32);
  auto idle = Attach();
  auto busy = Attach();
  std::vector<ChunkRef> refs;
  for (int i = 0; i < 64; ++i) refs.push_back(MustLoan(*idle, pool));
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(idle->Release(refs[static_cast<size_t>(i)]));
  ASSERT_EQ(Counts(pool).cached_count, 20u);
  const ChunkRef taken = MustLoan(*busy, pool);
  EXPECT_EQ(Counts(pool).cached_count, 0u);
  EXPECT_EQ(Counts(pool).free_count, 19u);
  // What is loaned is left alone, also where the idle cache has it yet.
  for (int i = 0; i < 19; ++i) MustLoan(*busy, pool);
  ChunkRef none;
  EXPECT_EQ(busy->Loan(pool, Deadline::Now(), &none), Code::kExhausted);
  EXPECT_EQ(idle->Loan(pool, Deadline::Now(), &none), Code::kExhausted);
  EXPECT_TRUE(busy->Release(taken));
  EXPECT_EQ(MustLoan(*idle, pool).chunk, taken.chunk);
}

// A mark that comes late, on a chunk that is sent already, holds up neither its receiver nor, when
// its sender has died, the delivery.
TEST_F(SessionTest, AMessageThatIsMarkedArrives) {
  AddPool("a", 64, 8);
  AddChannel("c", "a", 4);
  for (const bool dies : {false, true}) {
    auto sender = Attach();
    auto taker = Attach();
    auto out = Publish(sender, "c");
    auto in = Subscribe(taker, "c");
    ASSERT_EQ(Send(*sender, *out, 7), Code::kOk);
    for (uint32_t chunk = 0; chunk < 8; ++chunk) {
      ChunkManager& record = manager_->FindPool("a")->record(chunk);
      if (KindOf(record.word.load()) == Kind::kLoaned) record.word.fetch_or(kRecalled);
    }
    if (dies) Kill(sender);
    ExpectTakes(*taker, *in, 7);
    Leave(std::move(in), *taker);
    if (!dies) Leave(std::move(out), *sender);
  }
}

TEST_F(SessionTest, ThreadsKeepHalfOfAPoolOfWhichAnyoneMayTakeThemBackAndAnEighthOfOthers) {
  const PoolView& few = AddPool("few", 64, 40);
  ASSERT_TRUE(few.revocable);
  EXPECT_EQ(few.CacheCap(40, 1, true), 20u);
  EXPECT_EQ(few.CacheCap(40, 4, true), 5u);
  EXPECT_EQ(few.CacheCap(40, 4, false), 1u);  // somebody cannot take them back
  EXPECT_EQ(few.CacheCap(40, 6, true), 0u);   // so few are not worth the barrier
  const PoolView& many = AddPool("many", 64, 8192);
  ASSERT_FALSE(many.revocable);
  EXPECT_EQ(many.CacheCap(8192, 64, true), 16u);
  EXPECT_EQ(many.CacheCap(8192, 0, true), 32u);
}

TEST_F(SessionTest, AThreadThatEndsGivesItsCacheBack) {
  const PoolView& pool = AddPool("a", 64, 8192);
  ASSERT_FALSE(pool.revocable);
  auto session = Attach();
  std::thread([&] { EXPECT_TRUE(session->Release(MustLoan(*session, pool))); }).join();
  EXPECT_EQ(Counts(pool).free_count, 8192u);
  EXPECT_EQ(session->held(), 0);
}

TEST_F(SessionTest, ACacheKeepsNoMoreThanTheCap) {
  const PoolView& pool = AddPool("a", 64, 8192);
  auto session = Attach();
  std::vector<ChunkRef> refs;
  for (int i = 0; i < 500; ++i) refs.push_back(MustLoan(*session, pool));
  for (const ChunkRef& ref : refs) EXPECT_TRUE(session->Release(ref));
  EXPECT_LE(Counts(pool).cached_count, 32u);
  pool.shared->cache_cap.store(0);
  EXPECT_TRUE(session->Release(MustLoan(*session, pool)));
  EXPECT_EQ(Counts(pool).free_count, 8192u);
}

TEST_F(SessionTest, AWaitingLoanWakesWhenAChunkComesFree) {
  const PoolView& pool = AddPool("a", 64, 1);
  auto holder = Attach();
  auto waiter = Attach();
  ChunkRef held = MustLoan(*holder, pool);
  std::thread thread([&] {
    ChunkRef chunk;
    EXPECT_EQ(waiter->Loan(pool, Deadline::Never(), &chunk), Code::kOk);
  });
  while (pool.shared->pressure.load() == 0) std::this_thread::yield();
  EXPECT_TRUE(holder->Release(held));
  thread.join();
}

TEST_F(SessionTest, AGrownPoolHasItsNewChunksForSessionsThatKnowIt) {
  for (uint32_t count : {1u, 100u, 5000u}) {
    const PoolView& pool = AddPool("pool-" + std::to_string(count), 64, count);
    auto session = Attach();
    std::set<uint32_t> chunks;
    for (uint32_t i = 0; i < count; ++i) chunks.insert(MustLoan(*session, pool).chunk);
    ChunkRef none;
    EXPECT_EQ(session->Loan(pool, Deadline::Now(), &none), Code::kExhausted);
    const uint32_t grown = 3 * count + 1;
    ASSERT_TRUE(manager_->GrowPool(pool.index, grown).ok());
    EXPECT_EQ(pool.live_chunk_count(), grown);
    EXPECT_EQ(pool.shared->chunk_count.load(), grown);
    // By the free list alone: a large pool is not searched by its clients.
    for (uint32_t chunk = count; chunk < grown; ++chunk)
      ASSERT_TRUE(FreeList::IsSet(pool.hints, chunk)) << chunk;
    for (uint32_t i = count; i < grown; ++i) {
      const ChunkRef chunk = MustLoan(*session, pool);
      EXPECT_TRUE(chunks.insert(chunk.chunk).second);
      EXPECT_EQ(Value(chunk), 0u);  // real memory, not another chunk's
      std::memset(chunk.data(), 0xff, 64);
    }
    EXPECT_EQ(session->Loan(pool, Deadline::Now(), &none), Code::kExhausted);
  }
}

TEST_F(SessionTest, APoolGrowsToItsMaximumAndNeverShrinks) {
  const PoolView& pool = AddPool("a", 64, 10);
  EXPECT_EQ(manager_->GrowPool(pool.index, 41).code(), Code::kInvalid);
  EXPECT_EQ(manager_->GrowPool(pool.index, 9).code(), Code::kInvalid);
  EXPECT_TRUE(manager_->GrowPool(pool.index, 10).ok());
  EXPECT_EQ(pool.live_chunk_count(), 10u);
  EXPECT_TRUE(manager_->GrowPool(pool.index, 40).ok());
  EXPECT_EQ(Counts(pool).free_count, 40u);
}

TEST_F(SessionTest, AForgedChunkCountReachesNeitherTheDaemonNorBeyondThePool) {
  const PoolView& pool = AddPool("a", 64, 8);
  auto attached = MemPoolManager::Attach(UniqueFd(dup(manager_->management_segment().fd())),
                                         UniqueFd(dup(manager_->chunk_segment().fd())));
  ASSERT_TRUE(attached.ok());
  const PoolView& clients = *(*attached)->FindPool("a");
  ASSERT_TRUE(manager_->GrowPool(pool.index, 9).ok());
  EXPECT_EQ(clients.live_chunk_count(), 9u);  // without a new look at the table
  pool.shared->chunk_count.store(0xffffffff);
  EXPECT_EQ(clients.live_chunk_count(), 32u);
  EXPECT_EQ(pool.live_chunk_count(), 9u);
  pool.shared->chunk_count.store(9);
}

TEST_F(SessionTest, AWaitingLoanGetsAChunkThatItsPoolGrowsBy) {
  const PoolView& pool = AddPool("a", 64, 1);
  auto session = Attach();
  MustLoan(*session, pool);
  std::thread thread([&] {
    ChunkRef chunk;
    EXPECT_EQ(session->Loan(pool, Deadline::Never(), &chunk), Code::kOk);
    EXPECT_EQ(chunk.chunk, 1u);
  });
  while (pool.shared->pressure.load() == 0) std::this_thread::yield();
  EXPECT_TRUE(manager_->GrowPool(pool.index, 2).ok());
  thread.join();
}

TEST_F(SessionTest, ADeadSessionsChunkGoesToWhoWaitsAtOnce) {
  const PoolView& pool = AddPool("a", 64, 1);
  auto victim = Attach();
  MustLoan(*victim, pool);
  pool.shared->pressure.store(1);  // what a waiting loan says; it sleeps until that changes
  EXPECT_EQ(Kill(victim).freed_chunk_count, 1u);
  EXPECT_EQ(pool.shared->pressure.load(), 0u);
}

TEST_F(SessionTest, ADaemonKilledInAGrowthBeforeTheHintsIsFinishedByTheNext) {
  const PoolView& pool = AddPool("a", 64, 4096);
  ASSERT_TRUE(manager_->GrowPool(pool.index, 5000).ok());
  for (uint32_t word = 64; word < pool.hints.word_count[0]; ++word) pool.hints.level[0][word] = 0;
  auto adopted = MemPoolManager::Adopt(manager_->options());
  ASSERT_TRUE(adopted.ok()) << adopted.status().message();
  ChannelRegistry registry(**adopted);
  Recovery(**adopted, registry).Recover(SessionSet(), false);
  const PoolView& next = *(*adopted)->pool(pool.index);
  EXPECT_EQ(next.live_chunk_count(), 5000u);
  for (uint32_t chunk = 0; chunk < 5000; ++chunk)
    ASSERT_TRUE(FreeList::IsSet(next.hints, chunk)) << chunk;
  EXPECT_FALSE(FreeList::IsSet(next.hints, 5000));
}

TEST_F(SessionTest, ACacheIsItsThreadsUntilThatEndsAndThenAnothers) {
  const PoolView& pool = AddPool("a", 64, 4096);
  auto session = Attach();
  ChunkRef loaned;
  LoanCache* cache = nullptr;
  std::thread([&] {
    loaned = MustLoan(*session, pool);
    EXPECT_TRUE(session->Release(MustLoan(*session, pool)));
    cache = &session->CacheOf(pool);
    EXPECT_EQ(cache->thread.load(), internal::ThisThread());
  }).join();
  EXPECT_EQ(cache->thread.load(), 0u);
  EXPECT_EQ(Counts(pool).free_count, 4095u);
  uint32_t chunk;
  EXPECT_FALSE(cache->TryLoan(64, &chunk));
  EXPECT_FALSE(cache->TryRelease(loaned.chunk));
  std::thread([&] {
    EXPECT_EQ(&session->CacheOf(pool), cache);
    EXPECT_TRUE(session->Release(loaned));
    EXPECT_TRUE(cache->TryLoan(64, &chunk));
    EXPECT_FALSE(cache->TryLoan(65, &chunk));  // more than a chunk has
    EXPECT_EQ(session->held(), 1);
    EXPECT_TRUE(cache->TryRelease(chunk));
  }).join();
  EXPECT_EQ(session->held(), 0);
  EXPECT_EQ(Counts(pool).free_count, 4096u);
}

TEST_F(SessionTest, NobodyInlinesWhereTheLibraryHasToLook) {
  const PoolView& pool = AddPool("a", 64, 4096);
  auto session = Attach();
  EXPECT_NE(session->CacheOf(pool).thread.load(), 0u);
  session->StopInlining();
  EXPECT_EQ(session->CacheOf(pool).thread.load(), 0u);
  std::thread([&] { EXPECT_EQ(session->CacheOf(pool).thread.load(), 0u); }).join();
  EXPECT_TRUE(session->Release(MustLoan(*session, pool)));
  manager_->super_block().max_chunks_per_session.store(10);
  auto limited = Attach();
  EXPECT_EQ(limited->CacheOf(pool).thread.load(), 0u);
  manager_->super_block().max_chunks_per_session.store(0);
}

TEST_F(SessionTest, SessionsLoanAndReleaseWhileTheirPoolGrows) {
  const PoolView& pool = AddPool("a", 64, 4096);
  ASSERT_FALSE(pool.revocable);
  auto first = Attach();
  auto second = Attach();
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (Session* session : {first.get(), second.get()}) {
    threads.emplace_back([&, session] {
      while (!stop.load()) {
        ChunkRef chunk;
        ASSERT_EQ(session->Loan(pool, Deadline::Never(), &chunk), Code::kOk);
        ASSERT_TRUE(session->Release(chunk));
      }
    });
  }
  for (uint32_t count = 4097; count <= 16384; count += 97)
    ASSERT_TRUE(manager_->GrowPool(pool.index, count).ok());
  stop = true;
  for (std::thread& thread : threads) thread.join();
  ExpectAuditHolds();
}

TEST_F(SessionTest, TheDaemonWaitsForTheKernelOnlyIfASessionIsOutOfTheBarriersReach) {
  if (!JoinBarrier()) FAIL() << "membarrier(2) is not to be had: " << strerror(errno);
  const auto session = Attach();
  SessionEntry& entry = manager_->session_entry(session->id());
  SessionEntry& other = manager_->session_entry(static_cast<uint16_t>(session->id() + 1));
  entry.state.store(static_cast<uint32_t>(SessionState::kAttached));
  EXPECT_FALSE(NeedsGracePeriod(*manager_));
  for (const SessionState state :
       {SessionState::kAttached, SessionState::kOrphaned, SessionState::kRevoked}) {
    other.state.store(static_cast<uint32_t>(state));
    EXPECT_TRUE(NeedsGracePeriod(*manager_));
  }
  Settle(*manager_);
  other.state.store(static_cast<uint32_t>(SessionState::kDead));
  EXPECT_FALSE(NeedsGracePeriod(*manager_));
  Settle(*manager_);
}

TEST_F(SessionTest, AWaitingLoanGivesUpAtItsDeadline) {
  const PoolView& pool = AddPool("a", 64, 1);
  auto session = Attach();
  MustLoan(*session, pool);
  ChunkRef chunk;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(session->Loan(pool, Deadline::After(std::chrono::milliseconds(20)), &chunk),
            Code::kExhausted);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(20));
}

TEST_F(SessionTest, ASharedChunkIsOpenedByHandleAndFreeAfterTheLastRelease) {
  const PoolView& pool = AddPool("a", 64, 8);
  auto owner = Attach();
  auto reader = Attach();
  ChunkRef chunk = MustLoan(*owner, pool);
  const uint64_t handle = owner->Share(chunk);
  EXPECT_EQ(Session::HandleOf(chunk), handle);
  ChunkRef opened;
  ASSERT_EQ(reader->Open(handle, &opened), Code::kOk);
  EXPECT_EQ(opened.data(), chunk.data());
  EXPECT_TRUE(owner->Release(chunk));
  EXPECT_EQ(Counts(pool).shared_count, 1u);
  EXPECT_TRUE(reader->Release(opened));
  EXPECT_EQ(Counts(pool).shared_count, 0u);
  EXPECT_EQ(reader->Open(handle, &opened), Code::kStale);
}

TEST_F(SessionTest, AHandleOfAnEarlierUseIsStale) {
  const PoolView& pool = AddPool("a", 64, 1);
  auto session = Attach();
  ChunkRef chunk = MustLoan(*session, pool);
  const uint64_t old = session->Share(chunk);
  EXPECT_TRUE(session->Release(chunk));
  chunk = MustLoan(*session, pool);
  const uint64_t now = session->Share(chunk);
  EXPECT_NE(old, now);
  ChunkRef opened;
  EXPECT_EQ(session->Open(old, &opened), Code::kStale);
  EXPECT_EQ(session->Open(now, &opened), Code::kOk);
}

TEST_F(SessionTest, ForgedHandlesAreStale) {
  AddPool("a", 64, 8);
  auto session = Attach();
  ChunkRef opened;
  for (ChunkHandle handle :
       {ChunkHandle{1, 1, 0, 0}, {0, 2, 0, 0}, {0, 1, 8, 0}, {0, 1, 0xffffff, 0}, {15, 15, 0, 1}}) {
    EXPECT_EQ(session->Open(Encode(handle), &opened), Code::kStale);
  }
}

TEST_F(SessionTest, OpenersBeyondTheRecordsSlotsAreRefusedAndNobodyElseIsHurt) {
  const PoolView& pool = AddPool("a", 64, 2);
  auto session = Attach();
  ChunkRef chunk = MustLoan(*session, pool);
  const uint64_t handle = session->Share(chunk);
  std::vector<ChunkRef> openers(kOpenSlots);
  for (ChunkRef& opener : openers) ASSERT_EQ(session->Open(handle, &opener), Code::kOk);
  ChunkRef one_more;
  EXPECT_EQ(session->Open(handle, &one_more), Code::kHoldersFull);
  EXPECT_TRUE(session->Release(openers[3]));
  EXPECT_EQ(session->Open(handle, &one_more), Code::kOk);
}

TEST_F(SessionTest, ManyThreadsOfTwoSessionsNeverOwnOneChunkAtOnce) {
  for (uint32_t count : {5u, 24u, 8192u}) {
    const PoolView& pool = AddPool("pool-" + std::to_string(count), 64, count);
    auto first = Attach();
    auto second = Attach();
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        Session& session = t % 2 == 0 ? *first : *second;
        for (uint64_t i = 0; i < 20000; ++i) {
          // Each keeps what it can get, for the others to take back.
          if (i % 16 == 0) pool.shared->cache_cap.store(32);
          ChunkRef chunk;
          if (session.Loan(pool, Deadline::Now(), &chunk) != Code::kOk) continue;
          auto* word = reinterpret_cast<uint64_t*>(chunk.data());  // plain: a race if two own it
          *word = t << 32 | i;
          ASSERT_EQ(*word, t << 32 | i);
          ASSERT_TRUE(session.Release(chunk));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    ExpectAuditHolds();
    EXPECT_EQ(first->held() + second->held(), 0);
  }
}

// The stamp guards the close: an open that is confirmed while a closer looks must make the close
// fail.
TEST_F(SessionTest, OpenersAndReleasersNeverFreeAChunkThatIsHeld) {
  const PoolView& pool = AddPool("a", 64, 4);
  std::atomic<uint64_t> handle{0};
  std::atomic<bool> stop{false};
  auto owner = Attach();
  std::vector<std::shared_ptr<Session>> readers = {Attach(), Attach(), Attach()};
  std::vector<std::thread> threads;
  for (auto& reader : readers) {
    threads.emplace_back([&, session = reader.get()] {
      while (!stop.load(std::memory_order_relaxed)) {
        const uint64_t shared = handle.load(std::memory_order_relaxed);
        ChunkRef opened;
        if (shared == 0 || session->Open(shared, &opened) != Code::kOk) continue;
        for (int i = 0; i < 3; ++i) {
          ASSERT_EQ(Value(opened), DecodeHandle(shared).generation);
          std::this_thread::yield();  // long enough for the owner to use the chunk again
        }
        ASSERT_TRUE(session->Release(opened));
      }
    });
  }
  for (int shared = 0; shared < 20000; ++shared) {
    ChunkRef chunk;
    ASSERT_EQ(owner->Loan(pool, Deadline::Never(), &chunk), Code::kOk);
    const uint64_t generation = pool.record(chunk.chunk).generation.load() + 1;
    std::memcpy(chunk.data(), &generation, sizeof(generation));
    handle.store(owner->Share(chunk), std::memory_order_relaxed);
    ASSERT_TRUE(owner->Release(chunk));
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_F(SessionTest, EverythingADeadSessionHadIsFreeAgain) {
  const PoolView& pool = AddPool("a", 64, 8192);
  auto survivor = Attach();
  auto victim = Attach();
  ChunkRef kept = MustLoan(*survivor, pool);
  const uint64_t handle = survivor->Share(kept);
  ChunkRef opened;
  ASSERT_EQ(victim->Open(handle, &opened), Code::kOk);
  for (int i = 0; i < 100; ++i) MustLoan(*victim, pool);
  ChunkRef shared = MustLoan(*victim, pool);
  victim->Share(shared);
  const RecoveryReport report = Kill(victim);
  EXPECT_GE(report.freed_chunk_count, 101u);
  EXPECT_EQ(Counts(pool).shared_count, 1u);  // the survivor's
  EXPECT_EQ(Counts(pool).writing_count, 0u);
  EXPECT_TRUE(survivor->Release(kept));
}

// What a kill leaves in the middle of an operation, made by hand (data-plane tables): each is
// repaired.
TEST_F(SessionTest, RecoveryRepairsEachHalfDoneOperation) {
  const PoolView& pool = AddPool("a", 64, 128);
  auto victim = Attach();
  const uint16_t id = victim->id();
  // Refill: hint claimed, chunk not taken.
  ASSERT_EQ(FreeList::Claim(pool.hints, 0, 1), 1u);
  // Flush: word freed, hint not set.
  pool.hints.level[0][0].fetch_and(~uint64_t{2});
  // Share: slots and generation written, word still loaned.
  ChunkManager& sharing = pool.record(10);
  ASSERT_TRUE(TakeFree(sharing, id));
  sharing.generation.fetch_add(1);
  sharing.slots()[0].store(id);
  // Open: slot claimed, stamp not changed, and the last holder gone since.
  ChunkManager& opening = pool.record(11);
  ASSERT_TRUE(TakeFree(opening, id));
  ShareChunk(opening, id, 0);
  opening.slots()[20].store(id);
  // Fast close: word loaned, slot still set.
  ChunkManager& closing = pool.record(12);
  ASSERT_TRUE(TakeFree(closing, id));
  ShareChunk(closing, id, 1);
  StoreWord(closing, Kind::kLoaned, id);
  // Release: slot cleared, close not tried.
  ChunkManager& released = pool.record(13);
  ASSERT_TRUE(TakeFree(released, id));
  ShareChunk(released, id, 0);
  // Recall: marked, and no more.
  ASSERT_TRUE(TakeFree(pool.record(14), id));
  pool.record(14).word.fetch_or(kRecalled);
  Kill(victim);
  EXPECT_EQ(Counts(pool).free_count, 128u);
  for (uint32_t chunk = 0; chunk < 128; ++chunk)
    EXPECT_TRUE(FreeList::IsSet(pool.hints, chunk)) << chunk;
}

TEST(FreeListTest, FindsTheOnlyFreeChunkOfALargePoolAndNothingElse) {
  for (uint32_t count : {1u, 64u, 65u, 4096u, 4097u, 300000u}) {
    std::vector<uint64_t> bytes(FreeList::Bytes(count) / 8);
    const HintLevels hints = FreeList::At(reinterpret_cast<std::byte*>(bytes.data()), count);
    EXPECT_EQ(FreeList::FindGroup(hints, 0), FreeList::kNone);
    for (uint32_t chunk : {0u, count / 2, count - 1}) {
      FreeList::SetChunk(hints, chunk);
      for (uint32_t from : {0u, chunk / 64, hints.word_count[0] - 1}) {
        EXPECT_EQ(FreeList::FindGroup(hints, from), chunk / 64)
            << count << " " << chunk << " " << from;
      }
      EXPECT_EQ(FreeList::Claim(hints, chunk / 64, 64), uint64_t{1} << (chunk % 64));
      EXPECT_EQ(FreeList::FindGroup(hints, 0), FreeList::kNone);
      for (int level = 1; level < 3; ++level) {
        for (uint32_t word = 0; word < hints.word_count[level]; ++word)
          EXPECT_EQ(hints.level[level][word].load(), 0u);
      }
    }
  }
}

TEST(FreeListTest, LostSummariesAreRepaired) {
  constexpr uint32_t kCount = 300000;
  std::vector<uint64_t> bytes(FreeList::Bytes(kCount) / 8);
  const HintLevels hints = FreeList::At(reinterpret_cast<std::byte*>(bytes.data()), kCount);
  hints.level[0][4000].store(8);  // a client was killed before it said so above
  EXPECT_EQ(FreeList::FindGroup(hints, 0), FreeList::kNone);
  FreeList::RepairSummaries(hints);
  EXPECT_EQ(FreeList::FindGroup(hints, 0), 4000u);
}

}  // namespace
}  // namespace zerocp::shm
