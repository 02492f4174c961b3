#include "server/config_manager.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "server/error.h"
#include "shm/session.h"
#include "tests/unit/server/test_instance.h"

namespace zerocp {
namespace {

shm::ChannelSpec ChannelOf(const std::string& name, const std::string& pool) {
  shm::ChannelSpec channel;
  channel.name = name;
  channel.pool = pool;
  return channel;
}

class ConfigManagerTest : public ::testing::Test {
 protected:
  // Address space for few channels: each takes 64 KiB of it.
  static constexpr TestInstance::Sizes kSmall{uint64_t{4} << 20, uint64_t{16} << 30};

  ~ConfigManagerTest() override { std::filesystem::remove_all(directory); }

  std::string Journal() const { return directory + "/journal"; }
  std::vector<std::string> Running() {
    std::vector<std::string> names;
    const ConfigState state = config.Get();
    for (const shm::PoolSpec& pool : state.config.pools)
      names.push_back(pool.name + "x" + std::to_string(pool.chunk_count));
    for (const shm::ChannelSpec& channel : state.config.channels) names.push_back(channel.name);
    return names;
  }

  const std::string directory = NewDirectory("/tmp");
  TestInstance instance{kSmall};
  const ConfigFile file{directory + "/zerocp.yaml", {}};
  ConfigManager config{instance.core, instance.pools, instance.channels, Journal(), &file};
  const Config old_config{{Spec("video", 4096, 16), Spec("audio", 4096, 8)},
                          {ChannelOf("frames", "video")}};
};

using List = std::vector<std::string>;

TEST_F(ConfigManagerTest, AChangeThatFailsOnTheWayIsUndone) {
  ASSERT_TRUE(config.Begin(old_config).ok());
  const std::string etag = config.Get().etag;
  Config wanted = old_config;
  wanted.pools.push_back(Spec("new", 64, 8));
  wanted.pools[0].auto_grow = true;
  for (int i = 0; i < 200; ++i)
    wanted.channels.push_back(ChannelOf("c" + std::to_string(i), "new"));
  const auto failed = config.Apply(wanted, {});
  EXPECT_EQ(ReasonOf(failed.status()), "SEGMENT_FULL") << failed.status();
  EXPECT_EQ(Running(), (List{"audiox8", "videox16", "frames"}));
  EXPECT_EQ(config.Get().etag, etag);
  EXPECT_FALSE(std::filesystem::exists(Journal()));
  EXPECT_TRUE(config.Apply(old_config, {}).ok());
}

TEST_F(ConfigManagerTest, TheRoomForAllIsLookedAtBeforeTheFirstStep) {
  ASSERT_TRUE(config.Begin(old_config).ok());
  Config wanted = old_config;
  // Each of them fits, both do not.
  for (const char* name : {"one", "two"}) {
    wanted.pools.push_back(Spec(name, uint64_t{1} << 20, 9 << 10));
    wanted.pools.back().max_chunk_count = 9 << 10;
  }
  const auto refused = config.Apply(wanted, {.validate_only = true});
  EXPECT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted) << refused.status();
}

TEST_F(ConfigManagerTest, AChannelInUseIsClosedAndItsPoolDrainsUntilItsMembersHaveLeft) {
  ASSERT_TRUE(config.Begin(old_config).ok());
  uint32_t lane = 0;
  {
    MutexLock lock(instance.core.mutex);
    instance.core.attached.set(shm::kFirstSession);
    const auto joined = instance.core.registry.JoinAsPublisher("frames", "", shm::kFirstSession);
    ASSERT_TRUE(joined.ok());
    lane = joined->index;
  }
  Config wanted;
  wanted.pools = {Spec("audio", 4096, 8)};
  ASSERT_TRUE(config.Apply(wanted, {.allow_deletion = true}).ok());
  EXPECT_EQ(Running(), List{"audiox8"});
  instance.pools.Tick();
  const auto draining = instance.pools.Get("video");
  ASSERT_TRUE(draining.ok());  // a member of its channel may be in it
  EXPECT_TRUE(draining->draining);
  // Its name is not free yet.
  EXPECT_EQ(ReasonOf(config.Apply(old_config, {}).status()), "POOL_DRAINING");
  {
    MutexLock lock(instance.core.mutex);
    for (uint32_t index : instance.core.registry.List())
      ASSERT_TRUE(instance.core.registry.LeavePublisher(index, lane, shm::kFirstSession).ok());
    instance.core.attached.reset(shm::kFirstSession);
    for (int i = 0; i < 3; ++i) instance.core.registry.RetireLanes();  // in steps
  }
  instance.pools.Tick();
  EXPECT_EQ(ReasonOf(instance.pools.Get("video").status()), "POOL_NOT_FOUND");
  EXPECT_TRUE(config.Apply(old_config, {}).ok());
}

TEST_F(ConfigManagerTest, AJournalIsCompletedAtTheNextStart) {
  ASSERT_TRUE(config.Begin(old_config).ok());
  ConfigJournal journal(Journal(), UuidText(instance.core.manager->instance_uuid()));
  Config wanted = old_config;
  wanted.pools[0].chunk_count = 20;
  wanted.pools.push_back(Spec("new", 64, 8));
  wanted.pools.erase(wanted.pools.begin() + 1);
  ASSERT_TRUE(journal.Write({config.Get().config, wanted, true}).ok());
  config.Recover();
  EXPECT_EQ(Running(), (List{"newx8", "videox20", "frames"}));
  EXPECT_FALSE(std::filesystem::exists(Journal()));
  EXPECT_FALSE(config.Get().drifted);  // it was to be persisted, too
}

TEST_F(ConfigManagerTest, AJournalThatCannotBeCompletedIsUndone) {
  ASSERT_TRUE(config.Begin(old_config).ok());
  ConfigJournal journal(Journal(), UuidText(instance.core.manager->instance_uuid()));
  Config wanted = old_config;
  wanted.pools.push_back(Spec("new", 64, 8));
  for (int i = 0; i < 200; ++i)
    wanted.channels.push_back(ChannelOf("c" + std::to_string(i), "new"));
  ASSERT_TRUE(journal.Write({config.Get().config, wanted, false}).ok());
  // The daemon before got this far.
  ASSERT_TRUE(instance.pools.Create(Spec("new", 64, 8)).ok());
  ASSERT_TRUE(instance.channels.Create(ChannelOf("c0", "new")).ok());
  config.Recover();
  EXPECT_EQ(Running(), (List{"audiox8", "videox16", "frames"}));
  EXPECT_FALSE(std::filesystem::exists(Journal()));
}

TEST_F(ConfigManagerTest, AJournalOfOtherSegmentsOrADamagedOneChangesNothing) {
  ASSERT_TRUE(config.Begin(old_config).ok());
  ConfigJournal other(Journal(), "another-instance");
  ASSERT_TRUE(other.Write({{}, {{Spec("new", 64, 8)}, {}}, false}).ok());
  config.Recover();
  EXPECT_EQ(Running(), (List{"audiox8", "videox16", "frames"}));
  EXPECT_FALSE(std::filesystem::exists(Journal()));
  std::ofstream(Journal()) << "zerocp configuration journal 1\n"
                           << UuidText(instance.core.manager->instance_uuid()) << "\n\n{}\n{";
  config.Recover();
  EXPECT_EQ(Running(), (List{"audiox8", "videox16", "frames"}));
  EXPECT_FALSE(std::filesystem::exists(Journal()));
}

TEST_F(ConfigManagerTest, AReloadOfABrokenFileChangesNothingAndIsRemembered) {
  ASSERT_TRUE(config.Begin(old_config).ok());
  std::ofstream(file.path()) << "pools: {";
  EXPECT_EQ(ReasonOf(config.Reload({.allow_deletion = true}).status()), "CONFIG_FILE_UNUSABLE");
  EXPECT_EQ(Running(), (List{"audiox8", "videox16", "frames"}));
  EXPECT_NE(config.Get().file_error, "");
  EXPECT_EQ(instance.core.events.Counts()[EventKind::kConfigRefused], 1u);  // and so a metric
  std::ofstream(file.path()) << "pools: [{name: pools/video, chunk_size_bytes: 4096, chunk_count: "
                                "1}]\n";
  EXPECT_EQ(ReasonOf(config.Reload({}).status()), "DELETION_NOT_ALLOWED");
  EXPECT_NE(config.Get().file_error.find("allow_deletion"), std::string::npos);
  EXPECT_TRUE(config.Reload({.allow_deletion = true}).ok());
  EXPECT_EQ(config.Get().file_error, "");
  EXPECT_EQ(Running(), List{"videox16"});
}

}  // namespace
}  // namespace zerocp
