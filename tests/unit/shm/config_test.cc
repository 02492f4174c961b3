// What pools are wanted and where they lie: the checks that the first design named, and bad values.
#include "shm/mem_pool_config.h"
#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {
namespace {

PoolSpec Spec(const std::string& name, uint64_t size = 1024, uint32_t count = 8) {
  PoolSpec spec;
  spec.name = name;
  spec.chunk_size_bytes = size;
  spec.chunk_count = count;
  return spec;
}

TEST(MemPoolConfigTest, HoldsSixteenPoolsAndRefusesTheSeventeenth) {
  MemPoolConfig config;
  for (int i = 0; i < 16; ++i) EXPECT_TRUE(config.Add(Spec("pool-" + std::to_string(i))).ok());
  EXPECT_EQ(config.Add(Spec("one-more")).code(), Code::kLimit);
  EXPECT_EQ(config.size(), MemPoolConfig::capacity());
}

TEST(MemPoolConfigTest, IsCopiedAndMovedAsAValue) {
  MemPoolConfig config;
  ASSERT_TRUE(config.Add(Spec("a")).ok());
  MemPoolConfig copy = config;
  ASSERT_TRUE(copy.Add(Spec("b")).ok());
  EXPECT_EQ(config.size(), 1u);
  MemPoolConfig moved = std::move(copy);
  ASSERT_EQ(moved.size(), 2u);
  EXPECT_EQ(moved[0].name, "a");
  EXPECT_EQ(moved[1].name, "b");
}

TEST(MemPoolConfigTest, RefusesANameThatIsThereTwice) {
  MemPoolConfig config;
  ASSERT_TRUE(config.Add(Spec("a")).ok());
  EXPECT_EQ(config.Add(Spec("a")).code(), Code::kInvalid);
}

TEST(MemPoolConfigTest, NamesEachBadField) {
  PoolSpec spec = Spec("Bad_Name", 63, 0);
  spec.chunk_alignment_bytes = 96;
  spec.max_holders = 11;
  std::vector<std::string> fields;
  for (const Violation& violation : Validate(spec)) fields.push_back(violation.field);
  EXPECT_EQ(fields, (std::vector<std::string>{"name", "chunk_size_bytes", "chunk_alignment_bytes",
                                              "chunk_count", "max_holders_per_chunk"}));
  PoolSpec shrinking = Spec("a", 64, 8);
  shrinking.max_chunk_count = 7;
  ASSERT_EQ(Validate(shrinking).size(), 1u);
  EXPECT_EQ(Validate(shrinking)[0].field, "max_chunk_count");
}

TEST(MemPoolConfigTest, AcceptsNamesByTheRule) {
  for (const char* good : {"a", "a-b", "a1", "video-4k"}) EXPECT_TRUE(IsValidName(good)) << good;
  EXPECT_TRUE(IsValidName(std::string(63, 'a')));
  for (const char* bad : {"", "A", "1a", "-a", "a-", "a_b", "a b", "a/b"})
    EXPECT_FALSE(IsValidName(bad)) << bad;
  EXPECT_FALSE(IsValidName(std::string(64, 'a')));
}

TEST(MemPoolConfigTest, RoundsHoldersUpToWhatARecordHolds) {
  PoolSpec spec = Spec("a");
  for (auto [asked, given] :
       {std::pair{0u, 24u}, {12u, 24u}, {24u, 24u}, {25u, 56u}, {1016u, 1016u}}) {
    spec.max_holders = asked;
    EXPECT_EQ(WithDefaults(spec).max_holders, given) << asked;
  }
}

TEST(ExtentMapTest, ReusesFreedRangesAndRefusesOverlap) {
  ExtentMap extents(0, 4 * kExtentAlign);
  const uint64_t first = *extents.Allocate(1);
  const uint64_t second = *extents.Allocate(2 * kExtentAlign);
  EXPECT_EQ(first, 0u);
  EXPECT_EQ(second, kExtentAlign);
  EXPECT_EQ(extents.Allocate(2 * kExtentAlign).code(), Code::kNoMemory);
  EXPECT_EQ(extents.Reserve(2 * kExtentAlign, 1).code(), Code::kDamaged);
  EXPECT_EQ(extents.Reserve(100, 1).code(), Code::kDamaged);
  EXPECT_EQ(extents.Reserve(3 * kExtentAlign, 2 * kExtentAlign).code(), Code::kDamaged);
  extents.Free(first);
  EXPECT_EQ(*extents.Allocate(kExtentAlign), 0u);
  EXPECT_EQ(extents.free_bytes(), kExtentAlign);
}

class GeometryTest : public InstanceFixture {
 protected:
  // Memory that the file system gave; it counts in blocks of 512 bytes.
  static uint64_t InUse(const Segment& segment) {
    struct stat info {};
    EXPECT_EQ(fstat(segment.fd(), &info), 0);
    return static_cast<uint64_t>(info.st_blocks) * 512;
  }
  uint64_t InUse() const {
    return InUse(manager_->management_segment()) + InUse(manager_->chunk_segment());
  }
};

TEST_F(GeometryTest, SegmentsAreAsLargeAsTheAllocatorSays) {
  MemPoolConfig config;
  ASSERT_TRUE(config.Add(Spec("small", 100, 1000)).ok());
  ASSERT_TRUE(config.Add(Spec("large", 1 << 20, 5)).ok());
  const SegmentSizes sizes = MemPoolAllocator::SizesFor(config, manager_->session_capacity());
  EXPECT_EQ(sizes.total_bytes(), sizes.management_bytes + sizes.chunk_bytes);
  for (const PoolSpec& spec : config) ASSERT_TRUE(manager_->CreatePool(spec).ok());
  EXPECT_EQ(InUse(manager_->management_segment()), sizes.management_bytes);
  EXPECT_EQ(InUse(manager_->chunk_segment()), sizes.chunk_bytes);
}

// What a growth is said to need is what it takes, also where it begins in the middle of a page.
TEST_F(GeometryTest, AGrowingPoolTakesThePagesThatWereAnnounced) {
  const PoolView& pool = AddPool("a", 100, 1000);
  uint64_t in_use = InUse();
  for (uint32_t count : {1001u, 1002u, 1064u, 2000u, 4000u}) {
    const uint64_t announced =
        MemPoolAllocator::CommittedSizes(pool, count).total_bytes() -
        MemPoolAllocator::CommittedSizes(pool, pool.live_chunk_count()).total_bytes();
    ASSERT_TRUE(manager_->GrowPool(0, count).ok());
    EXPECT_EQ(InUse() - in_use, announced) << count;
    in_use = InUse();
  }
}

// The same places, and a whole number of pages in each extent, whatever a page is.
TEST_F(GeometryTest, PagesOfUpTo64KiBFitTheLayout) {
  const PoolView& pool = AddPool("a", 100, 1000);
  for (uint64_t page : {4u << 10, 16u << 10, 64u << 10}) {
    EXPECT_TRUE(MemPoolAllocator::CheckPages(page).ok()) << page;
    for (uint64_t offset :
         {pool.records_offset, pool.hints_offset, pool.headers_offset, pool.payload_offset,
          MemPoolAllocator::ExtentsOffset(manager_->session_capacity()),
          manager_->options().management_reserved_bytes, manager_->options().chunk_reserved_bytes})
      EXPECT_EQ(offset % page, 0u) << page;
    const SegmentSizes sizes = MemPoolAllocator::CommittedSizes(pool, 1000, page);
    EXPECT_EQ(sizes.management_bytes % page, 0u) << page;
    EXPECT_EQ(sizes.chunk_bytes % page, 0u) << page;
    EXPECT_GE(sizes.chunk_bytes, 1000 * (128 + 128u)) << page;
    EXPECT_LT(sizes.chunk_bytes, 1000 * (128 + 128u) + 2 * page) << page;
  }
  const Status refused = MemPoolAllocator::CheckPages(128u << 10);
  EXPECT_EQ(refused.code(), Code::kInternal);
  EXPECT_NE(refused.message().find("131072"), std::string::npos) << refused.message();
}

TEST_F(GeometryTest, EachPoolIsReachableAndAligned) {
  for (uint64_t size : {64u, 100u, 4096u, 5000u}) {
    const PoolView& pool = AddPool("pool-" + std::to_string(size), size, 3);
    EXPECT_EQ(manager_->FindPool("pool-" + std::to_string(size)), &pool);
    auto session = Attach();
    for (int i = 0; i < 3; ++i) {
      ChunkRef chunk;
      ASSERT_EQ(session->Loan(pool, Deadline::Now(), &chunk), Code::kOk);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(chunk.data()) % 64, 0u);
      std::memset(chunk.data(), 0xab, size);
    }
    EXPECT_EQ(Counts(pool).writing_count, 3u);
    Kill(session);
  }
  EXPECT_EQ(manager_->FindPool("absent"), nullptr);
}

TEST_F(GeometryTest, PoolsUpToTheLimitAndNoneAfterIt) {
  for (int i = 0; i < 16; ++i) AddPool("pool-" + std::to_string(i), 64, 1);
  EXPECT_EQ(manager_->CreatePool(Spec("one-more")).code(), Code::kLimit);
  EXPECT_EQ(manager_->CreatePool(Spec("pool-3")).code(), Code::kAlreadyExists);
}

TEST_F(GeometryTest, PayloadsLieAnOddMultipleOfTheirAlignmentApartIfThatIsCheap) {
  struct {
    uint64_t size;
    uint32_t alignment;
    uint64_t stride;
  } cases[] = {{64, 0, 64},          {128, 0, 128},          {1024, 0, 1024 + 64},
               {1088, 0, 1088},      {65536, 0, 65536 + 64}, {32768, 4096, 32768},
               {65536, 4096, 69632}, {65535, 4096, 69632},   {1 << 20, 4096, (1 << 20) + 4096}};
  for (const auto& c : cases) {
    const std::string name = "pool-" + std::to_string(&c - cases);
    PoolSpec spec = Spec(name, c.size, 3);
    spec.chunk_alignment_bytes = c.alignment;
    ASSERT_TRUE(manager_->CreatePool(spec).ok());
    const PoolView& pool = *manager_->FindPool(name);
    EXPECT_EQ(pool.stride_bytes, c.stride) << c.size << " aligned to " << c.alignment;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pool.data(2)) % std::max(c.alignment, 64u), 0u);
  }
}

TEST_F(GeometryTest, AReservedRangeThatIsUsedUpRefusesAndKeepsNothing) {
  PoolSpec huge = Spec("huge", 1 << 20, 100);
  huge.max_chunk_count = 300;  // the fixture reserves 256 MiB
  Result<uint32_t> refused = manager_->CreatePool(huge);
  EXPECT_EQ(refused.code(), Code::kNoMemory);
  huge.max_chunk_count = 200;
  EXPECT_TRUE(manager_->CreatePool(huge).ok());
}

TEST_F(GeometryTest, AnEntryThatAStrangerWroteIsRefused) {
  AddPool("a", 1024, 8);
  MemPool& entry = manager_->pool_entry(0);
  const auto check = [&] {
    return MemPoolAllocator::Validate(entry, 64u << 20, 256u << 20).code();
  };
  ASSERT_EQ(check(), Code::kOk);
  const auto corrupt = [&](auto& field, auto value) {
    const auto before = field;
    field = static_cast<std::decay_t<decltype(field)>>(value);
    EXPECT_EQ(check(), Code::kDamaged);
    field = before;
  };
  corrupt(entry.chunk_size_bytes, 0u);
  corrupt(entry.stride_bytes, 1025u);
  corrupt(entry.stride_bytes, 1024u);  // an even number of lines
  corrupt(entry.alignment_bytes, 3u);
  corrupt(entry.max_chunk_count, 0xffffffffu);
  corrupt(entry.max_chunk_count, 7u);
  corrupt(entry.record_shift, 63);
  corrupt(entry.slot_count, 25);
  corrupt(entry.grant_slots, 0);
  corrupt(entry.incarnation, 0);
  entry.auto_grow = 3;
  EXPECT_EQ(check(), Code::kDamaged);
  entry.auto_grow = static_cast<uint8_t>(AutoGrow::kPaused);
  EXPECT_EQ(check(), Code::kOk);
  corrupt(entry.records_offset, uint64_t{1} << 60);
  corrupt(entry.hints_offset, uint64_t{0});
  corrupt(entry.headers_offset, uint64_t{100});
  corrupt(entry.payload_offset, uint64_t{256} << 20);
  EXPECT_EQ(check(), Code::kOk);
}

TEST_F(GeometryTest, ASecondInstanceUnderTheSameNamesIsRefused) {
  MemPoolManager::CreateOptions options = manager_->options();
  EXPECT_EQ(MemPoolManager::Create(options).code(), Code::kAlreadyExists);
}

TEST_F(GeometryTest, AdoptionFindsPoolsAndChunksAsTheyWere) {
  const PoolView& pool = AddPool("a", 1024, 8);
  auto session = Attach();
  ChunkRef chunk;
  ASSERT_EQ(session->Loan(pool, Deadline::Now(), &chunk), Code::kOk);
  MemPoolManager::CreateOptions options;
  options.segment_dir = dir_;
  options.instance = "test";
  options.lock = {3, 4, "another"};
  auto adopted = MemPoolManager::Adopt(options);
  ASSERT_TRUE(adopted.ok()) << adopted.status().message();
  const PoolView* same = (*adopted)->FindPool("a");
  ASSERT_NE(same, nullptr);
  EXPECT_EQ(Count(*same).writing_count, 1u);
  EXPECT_EQ((*adopted)->instance_uuid(), manager_->instance_uuid());
  auto lock = MemPoolManager::ReadLock(dir_, "test");
  ASSERT_TRUE(lock.ok());
  EXPECT_EQ(lock->path, "another");
  EXPECT_EQ(lock->inode, 4u);
}

TEST_F(GeometryTest, AdoptionNamesBothLayoutVersions) {
  const_cast<uint32_t&>(manager_->super_block().layout_version) = 77;
  MemPoolManager::CreateOptions options;
  options.segment_dir = dir_;
  options.instance = "test";
  auto adopted = MemPoolManager::Adopt(options);
  EXPECT_EQ(adopted.code(), Code::kVersionMismatch);
  EXPECT_NE(adopted.status().message().find("layout version 77"), std::string::npos)
      << adopted.status().message();
  EXPECT_NE(adopted.status().message().find("layout version " + std::to_string(kLayoutVersion)),
            std::string::npos);
}

TEST_F(GeometryTest, AdoptionRefusesASegmentThatWasCutShort) {
  AddPool("a", 1024, 1000);
  const auto whole = static_cast<off_t>(manager_->chunk_segment().file_bytes());
  ASSERT_EQ(ftruncate(manager_->chunk_segment().fd(), 4096), 0);
  MemPoolManager::CreateOptions options;
  options.segment_dir = dir_;
  options.instance = "test";
  EXPECT_EQ(MemPoolManager::Adopt(options).code(), Code::kDamaged);
  const AuditReport report = Audit(*manager_, *registry_, attached_);
  ASSERT_EQ(report.violation_count, 1u);
  EXPECT_EQ(report.violations[0].invariant, "segment-size");
  ASSERT_EQ(ftruncate(manager_->chunk_segment().fd(), whole), 0);
}

}  // namespace
}  // namespace zerocp::shm
