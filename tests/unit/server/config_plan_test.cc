#include "server/config_plan.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/error.h"
#include "tests/unit/server/test_instance.h"

namespace zerocp {
namespace {

using Action = ConfigChange::Action;

shm::ChannelSpec ChannelOf(const std::string& name, const std::string& pool) {
  shm::ChannelSpec channel;
  channel.name = name;
  channel.pool = pool;
  return ChannelManager::WithDefaults(channel);
}

// As the managers would list it.
Config Running() {
  return {{shm::WithDefaults(Spec("audio", 4096, 16)), shm::WithDefaults(Spec("video", 65536, 8))},
          {ChannelOf("frames", "video"), ChannelOf("sound", "audio")}};
}

struct Planned {
  ConfigPlan plan;
  std::vector<std::string> fields;  // of the violations
};

Planned Plan(const Config& running, const Config& wanted) {
  Planned planned;
  std::vector<shm::Violation> violations;
  planned.plan = MakePlan(running, wanted, violations);
  for (const shm::Violation& violation : violations) planned.fields.push_back(violation.field);
  return planned;
}

std::vector<std::string> Paths(const ConfigPlan& plan) {
  std::vector<std::string> paths;
  for (const ConfigChange& change : plan.changes) paths.push_back(change.path);
  return paths;
}

TEST(ConfigPlan, WhatIsInForceIsNoChange) {
  const Planned planned = Plan(Running(), Running());
  EXPECT_TRUE(planned.fields.empty());
  EXPECT_TRUE(ChangesNothing(planned.plan.changes));
  EXPECT_TRUE(planned.plan.changes.empty());
}

TEST(ConfigPlan, AnotherOrderAndDefaultsLeftOutAreNoChange) {
  const Config wanted{{Spec("video", 65536, 8), Spec("audio", 4096, 16)},
                      {ChannelOf("sound", "audio"), ChannelOf("frames", "video")}};
  EXPECT_TRUE(Plan(Running(), wanted).fields.empty());
  EXPECT_TRUE(Plan(Running(), wanted).plan.changes.empty());
}

TEST(ConfigPlan, EachDifferenceIsAStepAndAChangeInPathOrder) {
  Config wanted = Running();
  wanted.pools[0].chunk_count = 32;
  wanted.pools[0].auto_grow = true;
  wanted.pools.erase(wanted.pools.begin() + 1);
  wanted.pools.push_back(Spec("boxes", 256, 4));
  wanted.channels = {ChannelOf("sound", "audio"), ChannelOf("aside", "boxes")};
  const Planned planned = Plan(Running(), wanted);
  ASSERT_TRUE(planned.fields.empty());
  const ConfigPlan& plan = planned.plan;
  ASSERT_EQ(plan.pools_to_create.size(), 1u);
  EXPECT_EQ(plan.pools_to_create[0].name, "boxes");
  ASSERT_EQ(plan.channels_to_create.size(), 1u);
  EXPECT_EQ(plan.channels_to_create[0].name, "aside");
  ASSERT_EQ(plan.growths.size(), 1u);
  EXPECT_EQ(plan.growths[0].chunk_count, 32u);
  EXPECT_FALSE(plan.growths[0].auto_grow);
  ASSERT_EQ(plan.switches.size(), 1u);
  EXPECT_EQ(plan.switches[0].auto_grow, true);
  EXPECT_EQ(plan.channels_to_delete, std::vector<std::string>{"frames"});
  EXPECT_EQ(plan.pools_to_delete, std::vector<std::string>{"video"});
  EXPECT_EQ(Paths(plan),
            (std::vector<std::string>{"channels/aside", "channels/frames", "pools/audio.auto_grow",
                                      "pools/audio.chunk_count", "pools/boxes", "pools/video"}));
  EXPECT_EQ(plan.changes[3].action, Action::kUpdate);
  EXPECT_EQ(plan.changes[3].old_value, "16");
  EXPECT_EQ(plan.changes[3].new_value, "32");
  EXPECT_EQ(plan.changes[4].action, Action::kAdd);
  EXPECT_EQ(plan.changes[4].old_value, "");
  EXPECT_EQ(plan.changes[5].action, Action::kRemove);
  EXPECT_EQ(plan.changes[5].new_value, "");
}

TEST(ConfigPlan, APoolThatHasMoreChunksKeepsThem) {
  Config wanted = Running();
  wanted.pools[0].chunk_count = 1;
  const ConfigPlan plan = Plan(Running(), wanted).plan;
  EXPECT_TRUE(ChangesNothing(plan.changes));
  EXPECT_TRUE(plan.growths.empty());
  ASSERT_EQ(plan.changes.size(), 1u);
  EXPECT_EQ(plan.changes[0].action, Action::kKeep);
  EXPECT_EQ(plan.changes[0].path, "pools/audio.chunk_count");
  EXPECT_EQ(plan.changes[0].old_value, "16");
}

TEST(ConfigPlan, WhatCannotBeIsNamedByItsField) {
  using Fields = std::vector<std::string>;
  Config wanted = Running();
  wanted.pools[1].chunk_size_bytes = 64;
  wanted.pools[1].max_holders = 100;
  EXPECT_EQ(Plan(Running(), wanted).fields,
            (Fields{"pools[1].chunk_size_bytes", "pools[1].max_holders_per_chunk"}));

  wanted = Running();
  wanted.channels[0].history_count = 2;
  wanted.channels[0].message_type = "acme.Frame";
  EXPECT_EQ(Plan(Running(), wanted).fields,
            (Fields{"channels[0].history_count", "channels[0].message_type"}));

  wanted = Running();
  wanted.pools[0].chunk_count = 65;
  EXPECT_EQ(Plan(Running(), wanted).fields, Fields{"pools[0].chunk_count"});

  wanted = Running();
  wanted.pools.pop_back();  // and a channel needs it
  EXPECT_EQ(Plan(Running(), wanted).fields, Fields{"channels[0].pool"});

  wanted = Running();
  wanted.pools.push_back(wanted.pools[0]);
  wanted.channels.push_back(wanted.channels[1]);
  EXPECT_EQ(Plan(Running(), wanted).fields, (Fields{"pools[2].name", "channels[2].name"}));

  wanted = {};
  for (int i = 0; i < 17; ++i) wanted.pools.push_back(Spec("p" + std::to_string(i), 64, 1));
  EXPECT_EQ(Plan({}, wanted).fields, Fields{"pools"});
}

TEST(ConfigPlan, DeletionsAreRefusedByName) {
  const ConfigPlan plan = Plan(Running(), {}).plan;
  const absl::Status refused = RefuseDeletions(plan);
  EXPECT_EQ(ReasonOf(refused), "DELETION_NOT_ALLOWED");
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  for (const char* name : {"channels/frames", "channels/sound", "pools/audio", "pools/video"})
    EXPECT_NE(std::string(refused.message()).find(name), std::string::npos) << refused;
  EXPECT_TRUE(RefuseDeletions(Plan({}, Running()).plan).ok());
}

TEST(ConfigPlan, AfterIsWhatThePlanLeadsTo) {
  Config wanted = Running();
  wanted.pools[0].chunk_count = 20;
  wanted.pools[1].auto_grow = true;
  wanted.channels.erase(wanted.channels.begin());
  wanted.pools.push_back(Spec("boxes", 256, 4));
  const Config after = After(Running(), Plan(Running(), wanted).plan);
  EXPECT_TRUE(Plan(after, wanted).plan.changes.empty());
  ASSERT_EQ(after.pools.size(), 3u);
  EXPECT_EQ(after.pools[1].name, "boxes");
  EXPECT_EQ(after.pools[1].max_chunk_count, 16u);  // the default
}

TEST(ConfigPlan, TheWayBackFromAnyPrefixOfCreationsAndGrowthsOnlySwitchesAndDeletes) {
  const Config old_config = Running();
  Config there = old_config;  // as a plan that failed leaves it
  there.pools.push_back(shm::WithDefaults(Spec("boxes", 256, 4)));
  there.channels.push_back(ChannelOf("aside", "boxes"));
  there.pools[0].chunk_count = 32;
  there.pools[1].auto_grow = true;
  const Planned back = Plan(there, old_config);
  EXPECT_TRUE(back.fields.empty());
  EXPECT_TRUE(back.plan.pools_to_create.empty());
  EXPECT_TRUE(back.plan.channels_to_create.empty());
  EXPECT_TRUE(back.plan.growths.empty());
  EXPECT_EQ(back.plan.switches.size(), 1u);
  EXPECT_EQ(back.plan.channels_to_delete, std::vector<std::string>{"aside"});
  EXPECT_EQ(back.plan.pools_to_delete, std::vector<std::string>{"boxes"});
}

TEST(ConfigPlan, TheEtagIsOfAllButWhatAPoolGrowsByItself) {
  PoolInfo pool;
  pool.spec = shm::WithDefaults(Spec("audio", 4096, 16));
  pool.uid = "u";
  pool.etag = "\"u-10\"";
  ChannelInfo channel{ChannelOf("sound", "audio"), 4, "\"c\""};
  const std::string etag = EtagOf({pool}, {channel});
  EXPECT_EQ(etag.front(), '"');
  EXPECT_EQ(etag.back(), '"');
  EXPECT_EQ(EtagOf({pool}, {channel}), etag);
  PoolInfo grown = pool;
  grown.etag = "\"u-20\"";
  EXPECT_NE(EtagOf({grown}, {channel}), etag);
  EXPECT_NE(EtagOf({pool}, {}), etag);
  pool.spec.auto_grow = grown.spec.auto_grow = true;
  EXPECT_EQ(EtagOf({grown}, {channel}), EtagOf({pool}, {channel}));
  EXPECT_NE(EtagOf({pool}, {channel}), etag);
}

TEST(ConfigPlan, WhatIsLaidOverTakesThePlaceOfItsName) {
  const Config laid = Overlay(
      Running(), {{Spec("video", 128, 2), Spec("more", 64, 1)}, {ChannelOf("frames", "more")}});
  ASSERT_EQ(laid.pools.size(), 3u);
  EXPECT_EQ(laid.pools[1].chunk_size_bytes, 128u);
  EXPECT_EQ(laid.pools[2].name, "more");
  ASSERT_EQ(laid.channels.size(), 2u);
  EXPECT_EQ(laid.channels[0].pool, "more");
}

}  // namespace
}  // namespace zerocp
