// Chunks are taken back from caches while the one side or the other stands still at each of its
// instructions: nobody ever has a chunk that another has, and none is lost.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <set>

#include "tests/kill/step_fixture.h"

namespace zerocp::shm {
namespace {

constexpr uint32_t kChunks = 5;
constexpr uint8_t kVictims = 0xbd;
constexpr int kInstructionsOfALoan = 2000;

// The kernel refuses membarrier(2) to this process, as in some sandboxes.
void ForbidBarrier() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{std::size(code), code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    _exit(20);
  }
}

class RecallTest : public StepTest {
 protected:
  void SetUp() override {
    StepTest::SetUp();
    few_ = AddPool("few", 64, kChunks).index;
    ASSERT_TRUE(few().revocable);
    third_ = Attach();
    peers_.session = peer_;
    thirds_.session = third_;
  }
  const PoolView& few() { return *manager_->pool(few_); }

  // A client's loans, each with a value of its own in it.
  struct Loans {
    std::shared_ptr<Session> session;
    uint8_t value;
    std::vector<ChunkRef> chunks = {};

    bool Loan(const PoolView& pool) {
      ChunkRef chunk;
      if (session->Loan(pool, Deadline::Now(), &chunk) != Code::kOk) return false;
      std::memset(chunk.data(), value, 64);
      chunks.push_back(chunk);
      return true;
    }
    void LoanAll(const PoolView& pool) {
      while (chunks.size() <= kChunks && Loan(pool)) {
      }
    }
    void ReleaseAll() {
      for (const ChunkRef& chunk : chunks) {
        EXPECT_EQ(std::to_integer<uint8_t>(*chunk.data()), value) << "chunk " << chunk.chunk;
        EXPECT_TRUE(session->Release(chunk)) << "chunk " << chunk.chunk;
      }
      chunks.clear();
    }
  };

  // With all that the peer can get.
  void FillPeersCache() {
    peers_.LoanAll(few());
    few().shared->cache_cap.store(32);  // 0 since the last loan found nothing
    peers_.ReleaseAll();
  }

  // The victim's: 0 or 1 chunk, which it does not give back.
  static void LoanInVictim(Session& session) {
    const PoolView& pool = *session.manager().FindPool("few");
    ChunkRef chunk;
    const Code code = session.Loan(pool, Deadline::Now(), &chunk);
    if (code != Code::kOk && code != Code::kExhausted) _exit(3);
    if (code == Code::kOk) std::memset(chunk.data(), kVictims, 64);
  }
  uint32_t CountVictims() {
    uint32_t count = 0;
    for (uint32_t chunk = 0; chunk < kChunks; ++chunk) {
      const ChunkManager& record = few().record(chunk);
      if (!IsOwned(record.word.load(), Kind::kLoaned, victim_id_) ||
          PhaseOf(record) != ChunkPhase::kLoaned) {
        continue;
      }
      EXPECT_EQ(std::to_integer<uint8_t>(*few().data(chunk)), kVictims) << "chunk " << chunk;
      ++count;
    }
    return count;
  }

  // The victim stands still at each instruction of `operation` after its own SIGSTOP while the peer
  // does `meanwhile`. In the end each chunk is somebody's, and one's only.
  void StopTheVictim(const std::function<void()>& prepare, const Operation& operation,
                     const std::function<void()>& meanwhile) {
    const int steps = StopAtEach(
        [&] {
          few().shared->cache_cap.store(4);
          prepare();
        },
        operation, meanwhile,
        [&] {
          ExpectAuditHolds();
          peers_.LoanAll(few());
          thirds_.LoanAll(few());
          EXPECT_LE(CountVictims(), 1u);
          EXPECT_EQ(CountVictims() + peers_.chunks.size() + thirds_.chunks.size(), kChunks);
          std::set<uint32_t> different;
          for (const Loans* loans : {&peers_, &thirds_}) {
            for (const ChunkRef& chunk : loans->chunks) different.insert(chunk.chunk);
          }
          EXPECT_EQ(different.size(), peers_.chunks.size() + thirds_.chunks.size());
          peers_.ReleaseAll();
          thirds_.ReleaseAll();
          peer_->FlushThisThread();
          third_->FlushThisThread();
          RecoverVictim();
          EXPECT_EQ(Counts(few()).free_count, kChunks);
        },
        /*begins_with_a_stop=*/true, kInstructionsOfALoan);
    EXPECT_GT(steps, 20);
  }
  void StopTheVictimInAll(const std::function<void()>& prepare, const Operation& operation) {
    StopTheVictim(prepare, operation, [&] { peers_.LoanAll(few()); });
    StopTheVictim(prepare, operation, [&] {
      for (int i = 0; i < 2; ++i) peers_.Loan(few());
    });
    StopTheVictim(prepare, operation, [&] {
      FillPeersCache();
      peers_.Loan(few());
    });
  }

  uint32_t few_ = 0;
  std::shared_ptr<Session> third_;
  Loans peers_{nullptr, 0x11};
  Loans thirds_{nullptr, 0x22};
};

// So that the victim's cache has `count` chunks.
void FillCache(Session& session, size_t count) {
  const PoolView& pool = *session.manager().FindPool("few");
  std::vector<ChunkRef> chunks(count);
  for (ChunkRef& chunk : chunks) {
    if (session.Loan(pool, Deadline::Now(), &chunk) != Code::kOk) _exit(4);
  }
  for (const ChunkRef& chunk : chunks) {
    if (!session.Release(chunk)) _exit(5);
  }
}

TEST_P(RecallTest, ALoanOutOfACache) {
  StopTheVictimInAll([] {},
                     [](const auto& session) {
                       FillCache(*session, 3);
                       raise(SIGSTOP);
                       LoanInVictim(*session);
                     });
}

TEST_P(RecallTest, AReleaseAndALoan) {
  StopTheVictimInAll([] {},
                     [](const auto& session) {
                       const PoolView& pool = *session->manager().FindPool("few");
                       FillCache(*session, 3);
                       ChunkRef chunk;
                       if (session->Loan(pool, Deadline::Now(), &chunk) != Code::kOk) _exit(6);
                       raise(SIGSTOP);
                       if (!session->Release(chunk)) _exit(7);
                       LoanInVictim(*session);
                     });
}

TEST_P(RecallTest, AFlushAndALoan) {
  StopTheVictim([] {},
                [](const auto& session) {
                  FillCache(*session, 3);
                  raise(SIGSTOP);
                  session->FlushThisThread();
                  LoanInVictim(*session);
                },
                [&] { peers_.LoanAll(few()); });
}

// Marked by somebody who died before it decided.
TEST_P(RecallTest, ALoanOfWhatIsMarked) {
  StopTheVictimInAll([] {},
                     [](const auto& session) {
                       FillCache(*session, 3);
                       const PoolView& pool = *session->manager().FindPool("few");
                       for (uint32_t chunk = 0; chunk < kChunks; ++chunk) {
                         ChunkManager& record = pool.record(chunk);
                         if (IsOwned(record.word.load(), Kind::kLoaned, session->id()))
                           record.word.fetch_or(kRecalled);
                       }
                       raise(SIGSTOP);
                       LoanInVictim(*session);
                     });
}

// Free chunks may be labelled cached, as the sweep leaves what was in the caches of the dead.
TEST_P(RecallTest, ARefill) {
  StopTheVictimInAll([] {},
                     [](const auto& session) {
                       FillCache(*session, 1);
                       session->FlushThisThread();
                       const PoolView& pool = *session->manager().FindPool("few");
                       for (uint32_t chunk = 0; chunk < kChunks; ++chunk)
                         SetPhase(pool.record(chunk), ChunkPhase::kCached);
                       raise(SIGSTOP);
                       LoanInVictim(*session);
                     });
}

// The victim takes back itself, out of the peer's cache.
TEST_P(RecallTest, TakingBack) {
  StopTheVictim([&] { FillPeersCache(); },
                [](const auto& session) {
                  session->CacheOf(*session->manager().FindPool("few"));  // exists
                  raise(SIGSTOP);
                  LoanInVictim(*session);
                },
                [&] {
                  for (int i = 0; i < 2; ++i) peers_.Loan(few());
                });
}

TEST_P(RecallTest, WhoIsKilledInItLosesNothing) {
  FillPeersCache();
  const int steps = StepThrough(
      [](const auto& session) {
        const PoolView& pool = *session->manager().FindPool("few");
        ChunkRef chunk;
        if (session->Loan(pool, Deadline::Now(), &chunk) != Code::kOk || !session->Release(chunk))
          _exit(3);
      },
      [&](MemPoolManager& manager, ChannelRegistry&) {
        const PoolView& pool = *manager.FindPool("few");
        EXPECT_EQ(Count(pool).writing_count, 0u);
        Loans next{
            std::make_shared<Session>(std::shared_ptr<MemPoolManager>(&manager, [](auto*) {}), 202),
            0x33};
        next.LoanAll(pool);
        EXPECT_EQ(next.chunks.size(), kChunks);
        next.ReleaseAll();
      });
  EXPECT_GT(steps, 100);
}

// A mark that comes between load and compare-exchange keeps the daemon from nothing.
TEST_P(RecallTest, ReplacingAWordThatIsMarkedMeanwhile) {
  uint32_t chunk = 0;
  const int steps =
      StopAtEach([&] { chunk = VictimLoans(); },
                 [&](const auto& session) {
                   ChunkManager& record = session->manager().pool(0)->record(chunk);
                   if (!ReplaceWord(record, record.word.load(), Kind::kFree, 0)) _exit(3);
                 },
                 [&] {
                   std::atomic<uint64_t>& word = pool().record(chunk).word;
                   uint64_t loaned = word.load();
                   if (KindOf(loaned) == Kind::kLoaned)
                     word.compare_exchange_strong(loaned, loaned | kRecalled);
                 },
                 [&] { EXPECT_EQ(KindOf(pool().record(chunk).word.load()), Kind::kFree); });
  EXPECT_GT(steps, 3);
}

// Without the barrier nothing may be taken back, neither by nor from who has none.
TEST_P(RecallTest, WhereTheKernelRefusesTheBarrierNothingIsTakenBack) {
  FillPeersCache();
  StopAtEach([] {},
             [](const auto& session) {
               ForbidBarrier();
               ChunkRef chunk;
               if (session->Loan(*session->manager().FindPool("few"), Deadline::Now(), &chunk) !=
                   Code::kExhausted) {
                 _exit(3);
               }
             },
             [] {}, [] {}, /*begins_with_a_stop=*/false, /*most=*/0);
  EXPECT_EQ(Counts(few()).cached_count, kChunks);
  std::atomic<uint32_t>& joined = manager_->session_entry(peer_->id()).joined_barrier;
  joined.store(0);
  EXPECT_FALSE(thirds_.Loan(few()));
  joined.store(1);
  EXPECT_TRUE(thirds_.Loan(few()));
  // The others of the same barrier are anyone's.
  EXPECT_EQ(Counts(few()).free_count, kChunks - 1);
  thirds_.ReleaseAll();
}

INSTANTIATE_TEST_SUITE_P(Pools, RecallTest, ::testing::Values(64u));

}  // namespace
}  // namespace zerocp::shm
