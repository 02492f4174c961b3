#include "server/channel_manager.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "server/error.h"
#include "tests/unit/server/test_instance.h"

namespace zerocp {
namespace {

class ChannelManagerTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(instance.pools.Create(Spec("video", 4096, 64)).ok()); }

  TestInstance instance;
};

TEST_F(ChannelManagerTest, CreatedChannelHasItsDefaultsAndIsFound) {
  const auto created = instance.channels.Create({"frames", "video", 0, "acme.Frame/1"});
  ASSERT_TRUE(created.ok()) << created.status();
  EXPECT_TRUE(created->created);
  EXPECT_EQ(created->channel.spec.pool, "video");
  EXPECT_EQ(created->channel.spec.queue_capacity, 16u);
  EXPECT_EQ(created->channel.spec.message_type, "acme.Frame/1");
  EXPECT_EQ(created->channel.max_subscriber_count, 16u);
  EXPECT_TRUE(instance.channels.Get("frames").ok());
  EXPECT_EQ(ReasonOf(instance.channels.Get("frame").status()), "CHANNEL_NOT_FOUND");
}

TEST_F(ChannelManagerTest, PreviewIsWhatTheRealCallMakes) {
  shm::PoolSpec wide = Spec("wide", 64, 8);
  for (uint32_t holders : {12u, 100u, 1016u}) {
    wide.name = "wide" + std::to_string(holders);
    wide.max_holders = holders;
    ASSERT_TRUE(instance.pools.Create(wide).ok());
    for (uint32_t capacity : {0u, 1u, 33u, 65536u}) {
      const shm::ChannelSpec spec{"c" + std::to_string(holders) + "-" + std::to_string(capacity),
                                  wide.name, capacity, ""};
      const auto preview = instance.channels.Create(spec, {.validate_only = true});
      ASSERT_TRUE(preview.ok()) << preview.status();
      EXPECT_FALSE(preview->created);
      EXPECT_FALSE(instance.channels.Get(spec.name).ok());
      const auto created = instance.channels.Create(spec);
      ASSERT_TRUE(created.ok()) << created.status();
      EXPECT_EQ(preview->channel.spec.queue_capacity, created->channel.spec.queue_capacity);
      EXPECT_EQ(preview->channel.max_subscriber_count, created->channel.max_subscriber_count);
    }
  }
}

TEST_F(ChannelManagerTest, RefusalsNameWhatIsWrong) {
  for (bool validate_only : {true, false}) {
    const CreateMode mode{.validate_only = validate_only};
    EXPECT_EQ(ReasonOf(instance.channels.Create({"Bad", "", 65537, ""}, mode).status()),
              "FIELD_INVALID");
    EXPECT_EQ(ReasonOf(instance.channels.Create({"frames", "audio", 0, ""}, mode).status()),
              "POOL_NOT_FOUND");
  }
  ASSERT_TRUE(instance.channels.Create({"frames", "video", 0, ""}).ok());
  EXPECT_EQ(ReasonOf(instance.channels.Create({"frames", "video", 0, ""}).status()),
            "CHANNEL_ALREADY_EXISTS");
}

TEST_F(ChannelManagerTest, AllowExistingTakesAChannelThatAgrees) {
  ASSERT_TRUE(instance.pools.Create(Spec("audio", 64, 8)).ok());
  ASSERT_TRUE(instance.channels.Create({"frames", "video", 32, "t"}).ok());
  const CreateMode allow{.allow_existing = true};
  for (uint32_t capacity : {0u, 17u, 32u}) {
    const auto again = instance.channels.Create({"frames", "video", capacity, "t"}, allow);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_FALSE(again->created);
    EXPECT_EQ(again->channel.spec.queue_capacity, 32u);
  }
  const std::pair<const char*, shm::ChannelSpec> others[] = {
      {"pool \"video\", not \"audio\"", {"frames", "audio", 32, "t"}},
      {"queue_capacity 32, not 64", {"frames", "video", 33, "t"}},
      {"message_type \"t\", not \"u\"", {"frames", "video", 32, "u"}},
      {"max_held_count 0, not 3", {"frames", "video", 32, "t", shm::WhenFull::kWait, 3}},
      {"history_count 0, not 4", {"frames", "video", 32, "t", shm::WhenFull::kWait, 0, 4}},
  };
  for (const auto& [difference, spec] : others) {
    const auto result = instance.channels.Create(spec, allow);
    EXPECT_EQ(ReasonOf(result.status()), "CHANNEL_ALREADY_EXISTS");
    EXPECT_NE(std::string(result.status().message()).find(difference), std::string::npos)
        << result.status();
  }
}

TEST_F(ChannelManagerTest, ListGoesByNameAndByPages) {
  for (const char* name : {"c", "a", "d", "b"}) {
    ASSERT_TRUE(instance.channels.Create({name, "video", 1, ""}).ok());
  }
  EXPECT_EQ(instance.channels.List().size(), 4u);
  const auto page = instance.channels.List("a", 2);
  ASSERT_EQ(page.size(), 2u);
  EXPECT_EQ(page[0].spec.name, "b");
  EXPECT_EQ(page[1].spec.name, "c");
  EXPECT_TRUE(instance.channels.List("d").empty());
}

TEST_F(ChannelManagerTest, OneChannelTooManyIsRefused) {
  for (uint32_t i = 0; i < shm::kMaxChannels; ++i) {
    ASSERT_TRUE(instance.channels.Create({"c" + std::to_string(i), "video", 1, ""}).ok());
  }
  for (bool validate_only : {true, false}) {
    const auto result =
        instance.channels.Create({"more", "video", 1, ""}, {.validate_only = validate_only});
    EXPECT_EQ(ReasonOf(result.status()), "CHANNEL_LIMIT");
  }
}

TEST_F(ChannelManagerTest, StatsNameSubscribersTheLongestQueueFirst) {
  ASSERT_TRUE(instance.channels.Create({"frames", "video", 8, ""}).ok());
  {
    MutexLock lock(instance.core.mutex);
    for (uint16_t session : {uint16_t{2}, uint16_t{3}}) {
      instance.core.attached.set(session);
      ASSERT_TRUE(instance.core.registry.JoinAsSubscriber("frames", "", session).ok());
    }
    ASSERT_TRUE(instance.core.registry.JoinAsPublisher("frames", "", 2).ok());
  }
  const auto stats = instance.channels.Stats();
  ASSERT_EQ(stats.size(), 1u);
  EXPECT_EQ(stats[0].name, "frames");
  EXPECT_EQ(stats[0].publisher_count, 1u);
  EXPECT_EQ(stats[0].published_count, 0u);
  ASSERT_EQ(stats[0].subscribers.size(), 2u);
  EXPECT_EQ(stats[0].subscribers[0].session, 2);
  EXPECT_EQ(stats[0].subscribers[1].session, 3);
  EXPECT_EQ(stats[0].subscribers[1].queue_capacity, 8u);
}

TEST_F(ChannelManagerTest, AChannelInUseIsDeletedOnlyWhenToldSoAndItsNameIsFreeAtOnce) {
  ASSERT_TRUE(instance.channels.Create({"frames", "video", 8, ""}).ok());
  uint32_t index = 0;
  {
    MutexLock lock(instance.core.mutex);
    instance.core.attached.set(2);
    ASSERT_TRUE(instance.core.registry.JoinAsSubscriber("frames", "", 2).ok());
    ASSERT_TRUE(instance.core.registry.JoinAsPublisher("frames", "", 2).ok());
    index = instance.core.registry.Find("frames")->index;
  }
  const absl::Status refused = instance.channels.Delete("frames", false, false);
  EXPECT_EQ(ReasonOf(refused), "CHANNEL_IN_USE");
  EXPECT_TRUE(instance.channels.Get("frames").ok());
  EXPECT_TRUE(instance.channels.Delete("frames", true, false).ok());
  EXPECT_EQ(ReasonOf(instance.channels.Delete("frames", true, false)), "CHANNEL_NOT_FOUND");
  EXPECT_TRUE(instance.channels.Delete("frames", true, true).ok());
  EXPECT_TRUE(instance.channels.List().empty());
  EXPECT_TRUE(instance.channels.Stats().empty());
  ASSERT_TRUE(instance.channels.Create({"frames", "video", 8, ""}).ok());
  EXPECT_TRUE(instance.channels.Delete("frames", false, false).ok());  // nobody is there
  MutexLock lock(instance.core.mutex);
  EXPECT_TRUE(instance.core.registry.channel(index)->closed);
  instance.core.recovery.Recover(shm::SessionSet().set(2), true);
  for (int i = 0; i < 3; ++i) instance.core.recovery.Tick(instance.core.attached);
  EXPECT_EQ(instance.core.registry.channel(index), nullptr);
  EXPECT_TRUE(instance.core.registry.List().empty());
}

TEST_F(ChannelManagerTest, AnEtagNamesTheChannelThatWasReadAndNotOneCreatedAnew) {
  const auto first = instance.channels.Create({"frames", "video", 8, ""});
  ASSERT_TRUE(first.ok());
  const std::string etag = first->channel.etag;
  EXPECT_GT(etag.size(), 2u);
  EXPECT_EQ(etag.front(), '"');
  EXPECT_EQ(etag.back(), '"');
  EXPECT_EQ(instance.channels.Get("frames")->etag, etag);
  EXPECT_TRUE(instance.channels.Delete("frames", false, false, etag).ok());
  EXPECT_TRUE(instance.channels.Delete("frames", false, true, etag).ok());
  const auto second = instance.channels.Create({"frames", "video", 8, ""});
  ASSERT_TRUE(second.ok());
  EXPECT_NE(second->channel.etag, etag);
  const absl::Status refused = instance.channels.Delete("frames", true, true, etag);
  EXPECT_EQ(refused.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(refused), "ETAG_MISMATCH");
  EXPECT_EQ(instance.channels.Get("frames")->etag, second->channel.etag);
  EXPECT_TRUE(instance.channels.Create({"other", "video", 8, ""}, {.validate_only = true})
                  ->channel.etag.empty());
}

TEST_F(ChannelManagerTest, DetachSubscriberTakesTheNameThatStatsGive) {
  ASSERT_TRUE(instance.channels.Create({"frames", "video", 8, ""}).ok());
  {
    MutexLock lock(instance.core.mutex);
    instance.core.attached.set(2);
    ASSERT_TRUE(instance.core.registry.JoinAsSubscriber("frames", "", 2).ok());
  }
  const SubscriberStats line = instance.channels.Stats()[0].subscribers[0];
  const SubscriberName name{"frames", line.index, line.epoch};
  for (const SubscriberName& other : {SubscriberName{"none", name.index, name.epoch},
                                      SubscriberName{"frames", name.index, name.epoch + 1},
                                      SubscriberName{"frames", 1u << 30, name.epoch}}) {
    EXPECT_EQ(ReasonOf(instance.channels.DetachSubscriber(other).status()), "SUBSCRIBER_NOT_FOUND");
  }
  int64_t told = 0;
  for (int i = 0; i < 2; ++i) {  // a retry finds it stopped
    const auto detached = instance.channels.DetachSubscriber(name);
    ASSERT_TRUE(detached.ok()) << detached.status();
    EXPECT_EQ(detached->queued_count, 0u);
    EXPECT_EQ(detached->before, i == 1);
  }
  int64_t number = 0;
  while (const auto event = instance.core.events.Next(number++))
    told += event->detail.find("detached by an operator; 0 messages waited") != std::string::npos;
  EXPECT_EQ(told, 1);
}

TEST_F(ChannelManagerTest, UsedUpAddressRangeIsAnErrorWithNumbers) {
  TestInstance small({.management_reserved_bytes = 2 << 20, .chunk_reserved_bytes = 1 << 20});
  shm::PoolSpec spec = Spec("video", 64, 8);
  spec.max_chunk_count = 8;
  ASSERT_TRUE(small.pools.Create(spec).ok());
  absl::Status status;
  for (int i = 0; i < 100 && status.ok(); ++i) {
    status = small.channels.Create({"c" + std::to_string(i), "video", 1, ""}).status();
  }
  EXPECT_EQ(ReasonOf(status), "SEGMENT_FULL");
  EXPECT_EQ(
      ReasonOf(small.channels.Create({"more", "video", 1, ""}, {.validate_only = true}).status()),
      "SEGMENT_FULL");
}

TEST_F(ChannelManagerTest, PoolsAndChannelsAreCreatedAtTheSameTime) {
  std::thread pools([&] {
    for (int i = 0; i < 15; ++i) {
      const auto result = instance.pools.Create(Spec("p" + std::to_string(i), 65536, 16));
      EXPECT_TRUE(result.ok()) << result.status();
    }
  });
  for (int i = 0; i < 100; ++i) {
    const auto result = instance.channels.Create({"c" + std::to_string(i), "video", 1, ""});
    EXPECT_TRUE(result.ok()) << result.status();
  }
  pools.join();
}

TEST_F(ChannelManagerTest, AuditChecksEveryChunk) {
  const shm::AuditReport report = instance.channels.Audit();
  EXPECT_EQ(report.checked_chunk_count, 64u);
  EXPECT_EQ(report.violation_count, 0u);
}

}  // namespace
}  // namespace zerocp
