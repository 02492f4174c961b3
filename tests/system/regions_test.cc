// Where the memory of pools is, for who pins it: as pools come, grow and go.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

class RegionsTest : public ::testing::Test {
 protected:
  MappedRegions Regions() {
    auto regions = client_.Regions();
    EXPECT_TRUE(regions) << regions.message();
    return std::move(*regions);
  }
  static const Region* Of(const MappedRegions& mapped, const std::string& pool) {
    const auto found = std::find_if(mapped.regions.begin(), mapped.regions.end(),
                                    [&](const Region& region) { return region.pool == pool; });
    return found == mapped.regions.end() ? nullptr : &*found;
  }
  void Pools(std::vector<std::string> words) {
    words.insert(words.begin(), "pools");
    const testing::Ran ran = testing::RunCommand(daemon_.Command(std::move(words)));
    ASSERT_EQ(ran.exit_code, 0) << ran.output << ran.error;
  }

  testing::DaemonProcess daemon_{{"--pool", "frames=64KiBx4,max=16", "--pool", "odd=100x8"}};
  Client client_ = std::move(*Client::Connect({.runtime_dir = daemon_.runtime_dir()}));
};

TEST_F(RegionsTest, EveryChunkOfAPoolIsInItsRegionAndNothingElse) {
  const MappedRegions mapped = Regions();
  ASSERT_EQ(mapped.regions.size(), 2u);
  for (const auto& [pool, chunk_bytes, stride, count] :
       {std::tuple<std::string, size_t, size_t, size_t>{"frames", 65536, 65536 + 64, 4},
        {"odd", 100, 128, 8}}) {
    const Region* region = Of(mapped, pool);
    ASSERT_NE(region, nullptr) << pool;
    EXPECT_EQ(region->data.size(), stride * count);
    std::vector<Loan> loans;
    std::vector<std::byte*> chunks;
    for (size_t i = 0; i < count; ++i) {
      auto loan = client_.NewLoan(pool, chunk_bytes);
      ASSERT_TRUE(loan) << loan.message();
      chunks.push_back(loan->data().data());
      loans.push_back(std::move(*loan));
    }
    std::sort(chunks.begin(), chunks.end());
    EXPECT_EQ(chunks.front(), region->data.data());
    EXPECT_LE(chunks.back() + chunk_bytes, region->data.data() + region->data.size());
  }
  EXPECT_EQ(client_.RegionsEpoch(), mapped.epoch);  // loans change nothing
}

TEST_F(RegionsTest, GrowthKeepsTheAddressAndChangesTheEpoch) {
  const MappedRegions before = Regions();
  Pools({"grow", "frames", "9"});
  EXPECT_GT(client_.RegionsEpoch(), before.epoch);
  const MappedRegions after = Regions();
  EXPECT_EQ(Of(after, "frames")->data.data(), Of(before, "frames")->data.data());
  EXPECT_EQ(Of(after, "frames")->data.size(), 9u * (65536 + 64));
  EXPECT_EQ(Of(after, "odd")->data.size(), Of(before, "odd")->data.size());
  EXPECT_EQ(client_.RegionsEpoch(), after.epoch);
}

TEST_F(RegionsTest, PoolsThatComeAndGoChangeTheEpoch) {
  uint64_t epoch = Regions().epoch;
  for (int round = 0; round < 3; ++round) {
    Pools({"create", "more", "4KiB", std::to_string(64 - round)});  // each smaller than the last
    const MappedRegions with = Regions();
    EXPECT_GT(with.epoch, epoch);
    EXPECT_NE(Of(with, "more"), nullptr);
    Pools({"delete", "more"});
    const MappedRegions without = Regions();
    EXPECT_GT(without.epoch, with.epoch);
    EXPECT_EQ(Of(without, "more"), nullptr);
    epoch = without.epoch;
  }
}

TEST_F(RegionsTest, APoolThatIsBeingDeletedIsThereUntilItsLastChunkIsReleased) {
  auto loan = client_.NewLoan("frames", 1);
  ASSERT_TRUE(loan);
  Pools({"delete", "frames", "--drain"});
  const MappedRegions draining = Regions();
  ASSERT_NE(Of(draining, "frames"), nullptr);
  EXPECT_EQ(Of(draining, "frames")->data.data() <= loan->data().data(), true);
  *loan = {};
  while (client_.RegionsEpoch() == draining.epoch) usleep(1000);  // ctest's time limit
  EXPECT_EQ(Of(Regions(), "frames"), nullptr);
}

TEST_F(RegionsTest, AReadOnlyClientHasThemToo) {
  auto reader = Client::Connect({.runtime_dir = daemon_.runtime_dir(), .read_only = true});
  ASSERT_TRUE(reader) << reader.message();
  EXPECT_EQ(reader->Regions()->regions.size(), 2u);
  EXPECT_EQ(reader->RegionsEpoch(), client_.RegionsEpoch());
}

TEST_F(RegionsTest, WithoutRoomTheNumberIsRight) {
  zerocp_client* client = nullptr;
  const zerocp_client_options options{sizeof(options), "c", daemon_.runtime_dir().c_str(), 0};
  ASSERT_EQ(zerocp_connect(&options, &client), ZEROCP_OK) << zerocp_last_error();
  size_t count = 0;
  zerocp_region one{};
  EXPECT_EQ(zerocp_client_regions(client, &one, 1, &count, nullptr), ZEROCP_OK);
  EXPECT_EQ(count, 2u);
  EXPECT_NE(one.data, nullptr);
  EXPECT_EQ(zerocp_client_regions(client, nullptr, 0, nullptr, nullptr), ZEROCP_OK);
  zerocp_client_close(client);
}

TEST_F(RegionsTest, TheChildOfAForkHasNone) {
  const pid_t child = fork();
  if (child == 0) {
    const auto regions = client_.Regions();
    _exit(regions.code() == Code::kUnavailable && client_.RegionsEpoch() == 0 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace zerocp
