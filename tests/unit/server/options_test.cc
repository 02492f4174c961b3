#include "server/options.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "shm/mem_pool_allocator.h"

namespace zerocp {
namespace {

ParsedOptions Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "zerocpd");
  return ParseOptions(static_cast<int>(arguments.size()), arguments.data());
}

TEST(OptionsTest, EveryOptionReachesItsField) {
  const ParsedOptions parsed = Parse(
      {"--runtime-dir", "/tmp/x", "--instance=two", "--segment-dir=/mnt/huge", "--system",
       "--socket-group=users", "--admin-group=wheel", "--pool", "video=1MiBx64", "--pool",
       "small=4096x10", "--channel", "camera=video,queue=8,max-held=3,history=2,type=acme.Frame/1",
       "--reserve=2T", "--max-sessions=16381", "--on-stop=keep", "--log-level=debug",
       "--death-watch=hangup", "--metrics-listen=9400"});
  ASSERT_TRUE(parsed.options) << parsed.output;
  const Options& o = *parsed.options;
  EXPECT_EQ(o.runtime_dir, "/tmp/x");
  EXPECT_EQ(o.instance, "two");
  EXPECT_EQ(o.segment_dir, "/mnt/huge");
  EXPECT_TRUE(o.system_service);
  EXPECT_EQ(o.socket_group, "users");
  EXPECT_EQ(o.admin_group, "wheel");
  ASSERT_EQ(o.pools.size(), 2u);
  EXPECT_EQ(o.pools[0].name, "video");
  EXPECT_EQ(o.pools[0].chunk_size_bytes, uint64_t{1} << 20);
  EXPECT_EQ(o.pools[0].chunk_count, 64u);
  ASSERT_EQ(o.channels.size(), 1u);
  EXPECT_EQ(o.channels[0].pool, "video");
  EXPECT_EQ(o.channels[0].queue_capacity, 8u);
  EXPECT_EQ(o.channels[0].max_held_count, 3u);
  EXPECT_EQ(o.channels[0].history_count, 2u);
  EXPECT_EQ(o.channels[0].message_type, "acme.Frame/1");
  EXPECT_EQ(o.chunk_reserved_bytes, uint64_t{2} << 40);
  EXPECT_EQ(o.management_reserved_bytes(), uint64_t{2} << 36);
  EXPECT_EQ(o.max_session_count, 16381u);
  EXPECT_EQ(o.on_stop, OnStop::kKeep);
  EXPECT_EQ(o.log_level, spdlog::level::debug);
  EXPECT_EQ(o.death_watch, DeathWatchMode::kHangup);
  EXPECT_EQ(o.metrics_listen, "127.0.0.1:9400");
}

TEST(OptionsTest, BadValuesExitWithTwoAndSayWhatWouldBeRight) {
  const std::vector<std::pair<std::vector<const char*>, const char*>> kTable = {
      {{"--bogus"}, "--bogus"},
      {{"--metrics-listen", ""}, "not a port"},
      {{"--metrics-listen", "65536"}, "not a port"},
      {{"--metrics-listen", "localhost:1"}, "not a port"},
      {{"--metrics-listen", "127.0.0.1:1,2"}, "not a port"},
      {{"--metrics-listen", "::1:1"}, "not a port"},
      {{"--metrics-listen", "[::1]:"}, "not a port"},
      {{"--pool", "video"}, "NAME=SIZExCOUNT"},
      {{"--pool", "video=1MiBx0"}, "from 1 to 16777216"},
      {{"--pool", "video=1QiBx4"}, "not a size"},
      {{"--pool", "video=99999999999GiBx4"}, "not a size"},
      {{"--pool", "video=1x4"}, "chunk_size_bytes"},
      {{"--pool", "video=1MiB,x4"}, "NAME=SIZExCOUNT"},
      {{"--pool", "video=1MiBx4,"}, "after the size"},
      {{"--pool", "video=1MiBx4,autogrow"}, "not \"autogrow\""},
      {{"--pool", "video=1MiBx4,max=x"}, "max= is from"},
      {{"--pool", "video=1MiBx4,max=3"}, "max_chunk_count"},
      {{"--pool", "video=1MiBx4,max=64,max=128"}, "max is given twice"},
      {{"--pool", "video=1MiBx4,auto-grow,auto-grow"}, "auto-grow is given twice"},
      {{"--max-chunks-per-session", "-1"}, "--max-chunks-per-session"},
      {{"--pool", "Video=1MiBx4"}, "name"},
      {{"--pool", "a=1MiBx4", "--pool", "a=1MiBx4"}, "a"},
      {{"--channel", "camera"}, "NAME=POOL"},
      {{"--channel", "camera=video,queue=0"}, "queue= is from 1"},
      {{"--channel", "camera=video,max-held=0"}, "max-held= is from 1"},
      {{"--channel", "camera=video,max-held=16777217"}, "max-held= is from 1"},
      {{"--channel", "camera=video,size=3"}, "queue=N"},
      {{"--channel", "camera=video,when-full=block"}, "when-full=wait or drop"},
      {{"--channel", "camera=video,queue=8,"}, "queue=N"},
      {{"--channel", "camera=video,type="}, "type=NAME"},
      {{"--channel", "camera=video,queue=8,history=1,queue=8"}, "queue is given twice"},
      {{"--channel", "c=video", "--channel", "c=video"}, "already"},
      {{"--instance", "../x"}, "letter"},
      {{"--segment-dir", "shm"}, "absolute"},
      {{"--reserve", "1KiB"}, "64MiB to 32TiB"},
      {{"--reserve", "a lot"}, "not a size"},
      {{"--max-sessions", "0"}, "1"},
      {{"--max-sessions", "16382"}, "16381"},
      {{"--on-stop", "never"}, "never"},
      {{"--death-watch", "heartbeat"}, "heartbeat"},
      {{"--runtime-dir", "/tmp/x", "--socket-group", "users"}, "--system"},
  };
  for (const auto& [arguments, expected] : kTable) {
    const ParsedOptions parsed = Parse(arguments);
    EXPECT_FALSE(parsed.options) << arguments[0];
    EXPECT_EQ(parsed.exit_code, kExitUsage) << arguments[0];
    EXPECT_NE(parsed.output.find(expected), std::string::npos) << parsed.output;
  }
}

TEST(OptionsTest, HelpAndVersionExitWithZero) {
  for (const char* flag : {"--help", "--version"}) {
    const ParsedOptions parsed = Parse({flag});
    EXPECT_FALSE(parsed.options);
    EXPECT_EQ(parsed.exit_code, kExitOk);
    EXPECT_NE(parsed.output.find("zerocpd"), std::string::npos);
  }
}

TEST(OptionsTest, OnlyTheSystemsDirectoryImpliesASystemService) {
  EXPECT_TRUE(Parse({"--runtime-dir", "/run/zerocp"}).options->system_service);
  EXPECT_TRUE(Parse({"--system"}).options->system_service);
  EXPECT_EQ(Parse({"--system"}).options->runtime_dir, "/run/zerocp");
  EXPECT_FALSE(Parse({"--runtime-dir", "/tmp/x"}).options->system_service);
}

TEST(OptionsTest, DefaultPoolsStayWithinAQuarterOfWhatIsThere) {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  for (uint64_t available :
       {0 * kMiB, 1 * kMiB, 8 * kMiB, 16 * kMiB, 64 * kMiB, 1024 * kMiB, 1024 * (1024 * kMiB)}) {
    const DefaultSetup setup = MakeDefaultSetup(available, shm::kDefaultSessionCapacity);
    shm::MemPoolConfig config;
    for (const shm::PoolSpec& pool : setup.pools) EXPECT_TRUE(config.Add(pool).ok());
    if (setup.pools.empty()) continue;
    const uint64_t bytes =
        shm::MemPoolAllocator::SizesFor(config, shm::kDefaultSessionCapacity).total_bytes() -
        shm::MemPoolAllocator::SizesFor({}, shm::kDefaultSessionCapacity).total_bytes();
    EXPECT_EQ(setup.bytes, bytes);
    EXPECT_LE(bytes, std::min(available / 4, 256 * kMiB));
    ASSERT_EQ(setup.channels.size(), 1u);
    EXPECT_NE(config.Find(setup.channels[0].pool), nullptr);
  }
  EXPECT_EQ(MakeDefaultSetup(1024 * kMiB, shm::kDefaultSessionCapacity).pools.size(), 3u);
  EXPECT_TRUE(MakeDefaultSetup(0, shm::kDefaultSessionCapacity).pools.empty());
}

}  // namespace
}  // namespace zerocp
