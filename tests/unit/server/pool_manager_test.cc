#include "server/pool_manager.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/channel_manager.h"
#include "server/error.h"
#include "server/pool_keeper.h"
#include "shm/chunk_ops.h"
#include "shm/session.h"
#include "tests/unit/server/test_instance.h"

namespace zerocp {
namespace {

TEST(PoolManager, CreatedPoolHasItsDefaultsAndIsFound) {
  TestInstance instance;
  const auto created = instance.pools.Create(Spec("video", 5000, 10));
  ASSERT_TRUE(created.ok()) << created.status();
  EXPECT_TRUE(created->created);
  const PoolInfo& pool = created->pool;
  EXPECT_EQ(pool.spec.name, "video");
  EXPECT_EQ(pool.spec.chunk_size_bytes, 5000u);
  EXPECT_EQ(pool.spec.chunk_alignment_bytes, 64u);
  EXPECT_EQ(pool.spec.chunk_count, 10u);
  EXPECT_EQ(pool.spec.max_chunk_count, 40u);
  EXPECT_EQ(pool.spec.max_holders, 24u);
  EXPECT_EQ(pool.uid.size(), 36u);
  EXPECT_TRUE(pool.create_time.has_value());

  const auto found = instance.pools.Get("video");
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->uid, pool.uid);
  EXPECT_EQ(ReasonOf(instance.pools.Get("audio").status()), "POOL_NOT_FOUND");
}

TEST(PoolManager, InvalidSpecIsRefusedWithEveryViolation) {
  TestInstance instance;
  const auto result = instance.pools.Create(Spec("Bad", 1, 0));
  EXPECT_EQ(ReasonOf(result.status()), "FIELD_INVALID");
  const std::string text(result.status().message());
  for (const char* field : {"name", "chunk_size_bytes", "chunk_count"}) {
    EXPECT_NE(text.find(field), std::string::npos) << text;
  }
}

TEST(PoolManager, ValidateOnlyAnswersLikeTheRealCallAndChangesNothing) {
  TestInstance instance;
  const auto preview = instance.pools.Create(Spec("video", 4096, 8), {.validate_only = true});
  ASSERT_TRUE(preview.ok()) << preview.status();
  EXPECT_FALSE(preview->created);
  EXPECT_EQ(preview->pool.spec.max_chunk_count, 32u);
  EXPECT_TRUE(preview->pool.uid.empty());
  EXPECT_FALSE(preview->pool.create_time.has_value());
  EXPECT_TRUE(instance.pools.List().empty());

  ASSERT_TRUE(instance.pools.Create(Spec("video", 4096, 8)).ok());
  const auto again = instance.pools.Create(Spec("video", 4096, 8), {.validate_only = true});
  EXPECT_EQ(ReasonOf(again.status()), "POOL_ALREADY_EXISTS");
}

TEST(PoolManager, AllowExistingTakesAPoolThatAgreesAndIsLargeEnough) {
  TestInstance instance;
  const auto first = instance.pools.Create(Spec("video", 4096, 100));
  ASSERT_TRUE(first.ok());
  const CreateMode allow{.allow_existing = true};
  for (uint32_t count : {100u, 1u}) {
    const auto again = instance.pools.Create(Spec("video", 4096, count), allow);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_FALSE(again->created);
    EXPECT_EQ(again->pool.uid, first->pool.uid);
    EXPECT_EQ(again->pool.spec.chunk_count, 100u);
  }
  shm::PoolSpec holders = Spec("video", 4096, 100);
  holders.max_holders = 13;  // rounded up to the 24 that a record of 64 bytes holds
  EXPECT_TRUE(instance.pools.Create(holders, allow).ok());

  std::vector<std::pair<std::string, shm::PoolSpec>> others;
  others.emplace_back("chunk_size_bytes 4096, not 8192", Spec("video", 8192, 100));
  others.emplace_back("chunk_count 100, not 101", Spec("video", 4096, 101));
  others.emplace_back("chunk_alignment_bytes 64, not 4096", Spec("video", 4096, 100));
  others.back().second.chunk_alignment_bytes = 4096;
  others.emplace_back("max_chunk_count 400, not 500", Spec("video", 4096, 100));
  others.back().second.max_chunk_count = 500;
  others.emplace_back("max_holders_per_chunk 24, not 56", Spec("video", 4096, 100));
  others.back().second.max_holders = 25;
  for (const auto& [difference, spec] : others) {
    const auto result = instance.pools.Create(spec, allow);
    EXPECT_EQ(ReasonOf(result.status()), "POOL_ALREADY_EXISTS");
    EXPECT_NE(std::string(result.status().message()).find(difference), std::string::npos)
        << result.status();
    const bool can_change = difference.starts_with("chunk_count");
    EXPECT_EQ(std::string(result.status().message()).find("UpdatePool") != std::string::npos,
              can_change)
        << result.status();
  }
}

TEST(PoolManager, AnUpdateGrowsAPoolOnceHoweverOftenItIsSaid) {
  TestInstance instance;
  const auto created = instance.pools.Create(Spec("video", 65536, 8));
  ASSERT_TRUE(created.ok());
  const uint64_t before = instance.pools.Memory().chunk.used_bytes;
  const auto preview = instance.pools.Update({"video", "", 20}, /*validate_only=*/true);
  ASSERT_TRUE(preview.ok()) << preview.status();
  EXPECT_EQ(preview->spec.chunk_count, 20u);
  EXPECT_EQ(instance.pools.Get("video")->spec.chunk_count, 8u);
  EXPECT_EQ(instance.pools.Memory().chunk.used_bytes, before);

  const auto grown = instance.pools.Update({"video", created->pool.etag, 20});
  ASSERT_TRUE(grown.ok()) << grown.status();
  EXPECT_EQ(grown->spec.chunk_count, 20u);
  EXPECT_EQ(grown->uid, created->pool.uid);
  EXPECT_NE(grown->etag, created->pool.etag);
  EXPECT_GE(instance.pools.Memory().chunk.used_bytes, before + 12 * 65536);
  EXPECT_EQ((*instance.pools.Stats({"video"}))[0].counts.free_count, 20u);
  const auto again = instance.pools.Update({"video", "", 20});
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->etag, grown->etag);
}

TEST(PoolManager, AnUpdateThatCannotBeIsRefusedAndChangesNothing) {
  TestInstance instance;
  const auto created = instance.pools.Create(Spec("video", 4096, 8));
  ASSERT_TRUE(created.ok());
  EXPECT_EQ(ReasonOf(instance.pools.Update({"audio", "", 9}).status()), "POOL_NOT_FOUND");
  const auto other = instance.pools.Update({"video", "\"other\"", 9});
  EXPECT_EQ(other.status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(other.status()), "ETAG_MISMATCH");
  const auto smaller = instance.pools.Update({"video", "", 7});
  EXPECT_EQ(smaller.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(smaller.status()), "POOL_SHRINK_UNSUPPORTED");
  EXPECT_EQ(ReasonOf(instance.pools.Update({"video", "", 33}).status()), "FIELD_INVALID");
  EXPECT_EQ(instance.pools.Get("video")->etag, created->pool.etag);
}

TEST(PoolManager, MemoryThatAGrowthWouldNeedIsRefusedBeforeAnyIsTaken) {
  TestInstance instance({.chunk_reserved_bytes = uint64_t{1} << 40});
  shm::PoolSpec huge = Spec("huge", uint64_t{1} << 24, 1);
  huge.max_chunk_count = 60000;  // nearly 1 TiB
  ASSERT_TRUE(instance.pools.Create(huge).ok());
  const uint64_t before = instance.pools.Memory().chunk.used_bytes;
  const auto result = instance.pools.Update({"huge", "", huge.max_chunk_count});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted) << result.status();
  EXPECT_EQ(instance.pools.Memory().chunk.used_bytes, before);
  EXPECT_EQ(instance.pools.Get("huge")->spec.chunk_count, 1u);
}

TEST(PoolManager, TheSeventeenthPoolIsRefused) {
  TestInstance instance;
  for (uint32_t i = 0; i < shm::kMaxPools; ++i) {
    ASSERT_TRUE(instance.pools.Create(Spec("p" + std::to_string(i), 64, 1)).ok());
  }
  EXPECT_EQ(ReasonOf(instance.pools.Create(Spec("more", 64, 1)).status()), "POOL_LIMIT");
  EXPECT_EQ(ReasonOf(instance.pools.Create(Spec("more", 64, 1), {.validate_only = true}).status()),
            "POOL_LIMIT");
  const auto pools = instance.pools.List();
  ASSERT_EQ(pools.size(), shm::kMaxPools);
  for (size_t i = 1; i < pools.size(); ++i) EXPECT_LT(pools[i - 1].spec.name, pools[i].spec.name);
}

TEST(PoolManager, UsedUpAddressRangeIsAnErrorWithNumbers) {
  TestInstance instance({.management_reserved_bytes = 64 << 20, .chunk_reserved_bytes = 1 << 20});
  for (bool validate_only : {true, false}) {
    const auto result =
        instance.pools.Create(Spec("video", 65536, 8), {.validate_only = validate_only});
    EXPECT_EQ(ReasonOf(result.status()), "SEGMENT_FULL");
    EXPECT_NE(std::string(result.status().message()).find("--reserve"), std::string::npos);
  }
  shm::PoolSpec fits = Spec("video", 65536, 8);
  fits.max_chunk_count = 8;
  EXPECT_TRUE(instance.pools.Create(fits).ok());
}

TEST(PoolManager, MemoryThatIsNotThereIsRefusedBeforeAnyIsTaken) {
  TestInstance instance({.chunk_reserved_bytes = uint64_t{1} << 40});
  const MemoryUse before = instance.pools.Memory();
  shm::PoolSpec huge = Spec("huge", uint64_t{1} << 32, 255);  // nearly 1 TiB
  huge.max_chunk_count = huge.chunk_count;
  for (bool validate_only : {true, false}) {
    const auto result = instance.pools.Create(huge, {.validate_only = validate_only});
    EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted);
    const std::string reason = ReasonOf(result.status()).value_or("");
    EXPECT_TRUE(reason == "MEMORY_LIMIT" || reason == "SHM_FILESYSTEM_FULL") << reason;
    EXPECT_NE(std::string(result.status().message()).find("needs 10952"), std::string::npos)
        << result.status();
  }
  EXPECT_EQ(instance.pools.Memory().chunk.used_bytes, before.chunk.used_bytes);
  EXPECT_TRUE(instance.pools.List().empty());
}

TEST(PoolManager, StatsCountEveryChunkAndKnowTheirPools) {
  TestInstance instance;
  ASSERT_TRUE(instance.pools.Create(Spec("b", 64, 7)).ok());
  ASSERT_TRUE(instance.pools.Create(Spec("a", 64, 9)).ok());
  const auto all = instance.pools.Stats();
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->size(), 2u);
  EXPECT_EQ((*all)[0].name, "a");
  EXPECT_EQ((*all)[0].counts.chunk_count, 9u);
  EXPECT_EQ((*all)[0].counts.free_count, 9u);
  EXPECT_EQ((*all)[1].name, "b");
  const auto one = instance.pools.Stats({"b", "b"});
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->size(), 1u);
  EXPECT_EQ(ReasonOf(instance.pools.Stats({"b", "c"}).status()), "POOL_NOT_FOUND");
}

TEST(PoolManager, MemoryInUseGrowsByThePool) {
  TestInstance instance;
  const MemoryUse before = instance.pools.Memory();
  EXPECT_EQ(before.management.name, "zerocp_test_memory_management");
  EXPECT_EQ(before.chunk.name, "zerocp_test_memory_chunk");
  ASSERT_TRUE(instance.pools.Create(Spec("a", 65536, 16)).ok());
  EXPECT_GE(instance.pools.Memory().chunk.used_bytes, before.chunk.used_bytes + 16 * 65536);
  EXPECT_GT(instance.pools.Memory().management.used_bytes, before.management.used_bytes);
}

TEST(PoolManager, PoolsAreFoundAgainByTheNextManager) {
  TestInstance instance;
  const auto created = instance.pools.Create(Spec("video", 4096, 8));
  ASSERT_TRUE(created.ok());
  PoolManager next(instance.core);
  const auto found = next.Get("video");
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->uid, created->pool.uid);
  EXPECT_EQ(found->create_time, created->pool.create_time);
}

TEST(PoolManager, ConcurrentCreatesOfOneNameMakeOnePool) {
  TestInstance instance;
  std::atomic<int> created{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      const auto result = instance.pools.Create(Spec("video", 4096, 64), {.allow_existing = true});
      ASSERT_TRUE(result.ok()) << result.status();
      created += result->created;
      EXPECT_EQ(instance.pools.List().size(), 1u);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(created, 1);
}

TEST(PoolManager, APoolIsDeletedOnceNothingNeedsIt) {
  TestInstance instance;
  ASSERT_TRUE(instance.pools.Create(Spec("video", 4096, 8)).ok());
  const std::string etag = instance.pools.Get("video")->etag;
  EXPECT_EQ(ReasonOf(instance.pools.Delete({.name = "audio"}).status()), "POOL_NOT_FOUND");
  const auto missing = instance.pools.Delete({.name = "audio", .allow_missing = true});
  ASSERT_TRUE(missing.ok());
  EXPECT_FALSE(missing->has_value());
  EXPECT_EQ(ReasonOf(instance.pools.Delete({.name = "video", .etag = "\"x\""}).status()),
            "ETAG_MISMATCH");

  shm::ChannelSpec channel;
  channel.name = "frames";
  channel.pool = "video";
  ChannelManager channels(instance.core);
  ASSERT_TRUE(channels.Create(channel).ok());
  const auto used = instance.pools.Delete({.name = "video", .drain = true}).status();
  EXPECT_EQ(ReasonOf(used), "POOL_IN_USE");
  EXPECT_NE(used.message().find("frames"), std::string_view::npos) << used.message();
  ASSERT_TRUE(channels.Delete("frames", false, false).ok());

  ASSERT_TRUE(instance.pools.Delete({.name = "video", .validate_only = true}).ok());
  ASSERT_TRUE(instance.pools.Get("video").ok());
  const auto deleted = instance.pools.Delete({.name = "video", .etag = etag});
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  EXPECT_FALSE((*deleted)->draining);
  EXPECT_TRUE(instance.pools.List().empty());
  EXPECT_TRUE(instance.pools.Create(Spec("video", 64, 5000)).ok());
}

TEST(PoolManager, APoolWithHeldChunksIsDrainedOnlyIfItIsAskedFor) {
  TestInstance instance;
  ASSERT_TRUE(instance.pools.Create(Spec("video", 4096, 8)).ok());
  shm::ChunkManager& record = instance.core.manager->FindPool("video")->record(3);
  {
    MutexLock lock(instance.core.mutex);
    instance.core.attached.set(7);
  }
  ASSERT_TRUE(shm::TakeFree(record, 7));
  const auto held = instance.pools.Delete({.name = "video"}).status();
  EXPECT_EQ(ReasonOf(held), "POOL_IN_USE");
  EXPECT_NE(held.message().find("1 of the 8 chunks"), std::string_view::npos) << held.message();
  EXPECT_FALSE(instance.pools.Get("video")->draining);

  const auto draining = instance.pools.Delete({.name = "video", .drain = true});
  ASSERT_TRUE(draining.ok()) << draining.status();
  EXPECT_TRUE((*draining)->draining);
  instance.pools.Tick();
  EXPECT_TRUE(instance.pools.Get("video")->draining);
  EXPECT_EQ(ReasonOf(instance.pools.Create(Spec("video", 4096, 8)).status()), "POOL_DRAINING");
  EXPECT_EQ(ReasonOf(instance.pools.Update({"video", "", 16}).status()), "POOL_DRAINING");
  shm::StoreWord(record, shm::Kind::kFree, 0);
  instance.pools.Tick();
  EXPECT_EQ(ReasonOf(instance.pools.Get("video").status()), "POOL_NOT_FOUND");
  MutexLock lock(instance.core.mutex);
  instance.core.attached.reset();
}

// A pool of 4 chunks, room for 16, that grows by itself; and a client of it.
class PoolThatGrows : public ::testing::Test {
 protected:
  PoolThatGrows() {
    shm::PoolSpec spec = Spec("video", 4096, 4);
    spec.auto_grow = true;
    EXPECT_TRUE(instance_.pools.Create(spec).ok());
    {
      MutexLock lock(instance_.core.mutex);
      instance_.core.attached.set(7);
    }
    session_.emplace(std::shared_ptr<shm::MemPoolManager>(instance_.core.manager.get(),
                                                          [](shm::MemPoolManager*) {}),
                     uint16_t{7});
  }
  ~PoolThatGrows() override {
    for (const shm::ChunkRef& loan : loans_) session_->Release(loan);
    session_->Close();
    MutexLock lock(instance_.core.mutex);
    instance_.core.attached.reset();
  }
  const shm::PoolView& view() { return *instance_.core.manager->FindPool("video"); }
  uint8_t state() { return view().shared->auto_grow.load(); }
  shm::Code Loan(shm::Deadline deadline = shm::Deadline::Now()) {
    shm::ChunkRef loan;
    const shm::Code code = session_->Loan(view(), deadline, &loan);
    if (code == shm::Code::kOk) loans_.push_back(loan);
    return code;
  }

  TestInstance instance_;
  std::optional<shm::Session> session_;
  std::vector<shm::ChunkRef> loans_;
};

TEST_F(PoolThatGrows, ALoanThatFindsNoChunkGetsOneUntilThePoolHasItsMost) {
  session_->set_growth_patience(std::chrono::seconds(60));
  PoolKeeper keeper(instance_.pools);
  for (int i = 0; i < 16; ++i) ASSERT_EQ(Loan(), shm::Code::kOk) << i;
  EXPECT_EQ(Loan(), shm::Code::kExhausted);
  EXPECT_EQ(instance_.pools.Get("video")->spec.chunk_count, 16u);
  EXPECT_EQ(view().shared->exhausted_count.load(), 1u);
  bool told = false;
  for (auto event = instance_.core.events.Next(0); event;
       event = instance_.core.events.Next(event->sequence)) {
    told |= event->detail == "grown by itself: 5 chunks, 4 before";
  }
  EXPECT_TRUE(told);
}

TEST_F(PoolThatGrows, NobodyWaitsTwiceForADaemonThatDoesNotAnswer) {
  for (int i = 0; i < 4; ++i) ASSERT_EQ(Loan(), shm::Code::kOk);
  EXPECT_EQ(Loan(), shm::Code::kExhausted);
  EXPECT_EQ(state(), static_cast<uint8_t>(shm::AutoGrow::kPaused));
  const uint32_t rung = instance_.pools.bell().load();
  EXPECT_EQ(Loan(), shm::Code::kExhausted);
  EXPECT_EQ(instance_.pools.bell().load(), rung);
  // The daemon is back: it grows what is waited for, and says that it answers.
  instance_.pools.GrowExhausted();
  EXPECT_EQ(state(), static_cast<uint8_t>(shm::AutoGrow::kOn));
  EXPECT_EQ(Loan(), shm::Code::kOk);
}

TEST_F(PoolThatGrows, OneThatNobodyWaitsForStaysAsItIs) {
  for (int i = 0; i < 4; ++i) ASSERT_EQ(Loan(), shm::Code::kOk);
  instance_.pools.GrowExhausted();
  EXPECT_EQ(view().live_chunk_count(), 4u);
  EXPECT_EQ(Loan(), shm::Code::kExhausted);
  session_->Release(loans_.back());  // by a hint that the daemon sees
  loans_.pop_back();
  session_->FlushThisThread();
  instance_.pools.GrowExhausted();
  EXPECT_EQ(view().live_chunk_count(), 4u);
}

TEST_F(PoolThatGrows, AnUpdateEndsAndBeginsIt) {
  session_->set_growth_patience(std::chrono::seconds(60));
  const std::string etag = instance_.pools.Get("video")->etag;
  const auto preview = instance_.pools.Update({"video", etag, {}, false}, true);
  ASSERT_TRUE(preview.ok()) << preview.status();
  EXPECT_FALSE(preview->spec.auto_grow);
  EXPECT_TRUE(instance_.pools.Get("video")->spec.auto_grow);
  const auto ended = instance_.pools.Update({"video", etag, {}, false});
  ASSERT_TRUE(ended.ok()) << ended.status();
  EXPECT_FALSE(ended->spec.auto_grow);
  EXPECT_NE(ended->etag, etag);
  EXPECT_EQ(state(), static_cast<uint8_t>(shm::AutoGrow::kOff));
  PoolKeeper keeper(instance_.pools);
  for (int i = 0; i < 4; ++i) ASSERT_EQ(Loan(), shm::Code::kOk);
  EXPECT_EQ(Loan(), shm::Code::kExhausted);
  // What a client writes there makes no pool grow.
  view().shared->auto_grow.store(static_cast<uint8_t>(shm::AutoGrow::kOn));
  session_->set_growth_patience(std::chrono::milliseconds(100));
  EXPECT_EQ(Loan(), shm::Code::kExhausted);
  EXPECT_EQ(view().live_chunk_count(), 4u);
  session_->set_growth_patience(std::chrono::seconds(60));
  ASSERT_TRUE(instance_.pools.Update({"video", "", {}, true}).ok());
  EXPECT_EQ(Loan(), shm::Code::kOk);
}

TEST_F(PoolThatGrows, AFixedCountThatItHasOutgrownIsDone) {
  ASSERT_TRUE(instance_.pools.Update({"video", "", 8}).ok());
  const auto repeated = instance_.pools.Update({"video", "", 6});
  ASSERT_TRUE(repeated.ok()) << repeated.status();
  EXPECT_EQ(repeated->spec.chunk_count, 8u);
  const auto fixed = instance_.pools.Update({"video", "", 6, false});
  EXPECT_EQ(ReasonOf(fixed.status()), "POOL_SHRINK_UNSUPPORTED");
  EXPECT_TRUE(instance_.pools.Get("video")->spec.auto_grow);
}

TEST_F(PoolThatGrows, TheNextDaemonGrowsItToo) {
  session_->set_growth_patience(std::chrono::seconds(60));
  PoolManager next(instance_.core);
  EXPECT_TRUE(next.Get("video")->spec.auto_grow);
  PoolKeeper keeper(next);
  for (int i = 0; i < 5; ++i) ASSERT_EQ(Loan(), shm::Code::kOk);
}

}  // namespace
}  // namespace zerocp
