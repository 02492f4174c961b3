#include "server/trouble_watch.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "shm/publisher_port.h"
#include "shm/session.h"
#include "shm/subscriber_port.h"
#include "tests/unit/server/session_fixture.h"

namespace zerocp {
namespace {

using shm::ChunkRef;
using shm::Code;
using shm::Deadline;
using std::chrono::milliseconds;
using std::chrono::seconds;

class TroubleWatchTest : public SessionFixture {
 protected:
  void SetUp() override { ASSERT_TRUE(instance_.pools.Create(Spec("video", 4096, 16)).ok()); }
  void TearDown() override {
    in_.reset();
    out_.reset();
    for (auto& client : clients_) {
      client->Close();
      sessions_->Detach(client->id());
    }
  }
  std::shared_ptr<shm::Session> Attach(const char* name) {
    const auto attached = sessions_->Attach(Self(), name, nullptr);
    EXPECT_TRUE(attached.ok());
    std::shared_ptr<shm::MemPoolManager> manager(instance_.core.manager.get(), [](auto*) {});
    clients_.push_back(std::make_shared<shm::Session>(manager, attached->id));
    return clients_.back();
  }
  Code Loan(shm::Session& session, ChunkRef* chunk) {
    return session.Loan(*instance_.core.manager->FindPool("video"), Deadline::Now(), chunk);
  }
  // Looks; the events that it made.
  std::vector<Event> Look(milliseconds later = milliseconds(0)) {
    while (const auto old = instance_.core.events.Next(seen_)) seen_ = old->sequence;
    time_ += later;
    watch_.Look();
    std::vector<Event> events;
    while (const auto event = instance_.core.events.Next(seen_)) {
      seen_ = event->sequence;
      events.push_back(*event);
    }
    return events;
  }
  int Warnings(const std::string& text) {
    int count = 0;
    const std::string all = log_.text();
    for (size_t at = all.find(text); at != std::string::npos; at = all.find(text, at + 1)) ++count;
    return count;
  }
  // A camera publishes to a viewer, whose queue is of 2.
  void JoinBoth(shm::WhenFull when_full, uint32_t history_count = 0) {
    shm::ChannelSpec spec{"frames", "video", 2, ""};
    spec.when_full = when_full;
    spec.history_count = history_count;
    ASSERT_TRUE(instance_.channels.Create(spec).ok());
    camera_ = Attach("camera");
    viewer_ = Attach("viewer");
    MutexLock lock(instance_.core.mutex);
    auto sub = instance_.core.registry.JoinAsSubscriber("frames", "", viewer_->id());
    auto pub = instance_.core.registry.JoinAsPublisher("frames", "", camera_->id());
    ASSERT_TRUE(sub.ok() && pub.ok());
    in_ = std::move(*shm::SubscriberPort::Create(viewer_, *sub));
    out_ = std::move(*shm::PublisherPort::Create(camera_, *pub));
  }
  void Publish() {
    ChunkRef chunk;
    ASSERT_EQ(Loan(*camera_, &chunk), Code::kOk);
    shm::Published published;
    ASSERT_EQ(out_->Publish(chunk, Deadline::Now(), &published), Code::kOk);
  }
  void Take() {
    ChunkRef taken;
    ASSERT_EQ(in_->TryTake(&taken), Code::kOk);
    EXPECT_TRUE(viewer_->Release(taken));
  }
  // The publisher's count of what it dropped in the viewer's place.
  std::atomic<uint64_t>& Dropped() {
    MutexLock lock(instance_.core.mutex);
    const auto& channel = *instance_.core.registry.Find("frames");
    return channel.Lane(channel.lanes[out_->info().index], *instance_.core.manager)
        .cursors[in_->info().index]
        .dropped;
  }

  std::vector<std::shared_ptr<shm::Session>> clients_;
  std::shared_ptr<shm::Session> camera_;
  std::shared_ptr<shm::Session> viewer_;
  std::unique_ptr<shm::PublisherPort> out_;
  std::unique_ptr<shm::SubscriberPort> in_;
  int64_t seen_ = 0;
  milliseconds time_{1'000'000};
  PoolWatch::Clock::time_point Now() const { return PoolWatch::Clock::time_point(time_); }
  PoolWatch pools_{instance_.core, [this] { return Now(); }};
  TroubleWatch watch_{instance_.core, pools_, *sessions_, [this] { return Now(); }};
};

TEST_F(TroubleWatchTest, AnExhaustedPoolIsToldOncePerEpisodeWithItsHolders) {
  auto greedy = Attach("greedy");
  EXPECT_TRUE(Look().empty());
  std::vector<ChunkRef> held;
  const auto exhaust = [&] {
    ChunkRef chunk;
    while (Loan(*greedy, &chunk) == Code::kOk) held.push_back(chunk);
  };
  const auto release = [&] {
    for (const ChunkRef& chunk : held) EXPECT_TRUE(greedy->Release(chunk));
    held.clear();
  };
  exhaust();
  ASSERT_EQ(held.size(), 16u);
  auto events = Look(milliseconds(100));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, EventKind::kPoolExhausted);
  EXPECT_EQ(events[0].resource, "pools/video");
  ASSERT_EQ(events[0].holders.size(), 1u);
  EXPECT_EQ(events[0].holders[0].client_name, "greedy");
  EXPECT_EQ(events[0].holders[0].session, sessions_->List()[0].name);
  EXPECT_EQ(events[0].holders[0].chunk_count, 16u);
  EXPECT_EQ(events[0].holders[0].phase, shm::HoldPhase::kWriting);
  EXPECT_NE(events[0].detail.find("greedy (pid "), std::string::npos) << events[0].detail;
  EXPECT_EQ(Warnings("pool video has no free chunk of its 16; held by greedy (pid "), 1);

  for (int i = 0; i < 30; ++i) {  // refused again and again: the same episode
    exhaust();
    EXPECT_TRUE(Look(milliseconds(100)).empty());
  }
  release();
  EXPECT_TRUE(Look(milliseconds(900)).empty());
  events = Look(milliseconds(100));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, EventKind::kPoolRecovered);

  exhaust();  // another episode; the log has said enough for now
  events = Look(milliseconds(100));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, EventKind::kPoolExhausted);
  EXPECT_EQ(Warnings("has no free chunk"), 1);
  release();
  EXPECT_EQ(Look(seconds(10)).size(), 1u);
  exhaust();
  EXPECT_EQ(Look(milliseconds(100)).size(), 1u);
  EXPECT_EQ(Warnings("has no free chunk"), 2);
  release();
}

TEST_F(TroubleWatchTest, AHistoryThatHoldsChunksIsNamedByItsChannel) {
  JoinBoth(shm::WhenFull::kDropOldest, 2);
  EXPECT_TRUE(Look().empty());
  for (int i = 0; i < 2; ++i) {
    Publish();
    Take();
  }
  std::vector<ChunkRef> held;
  for (ChunkRef chunk; Loan(*camera_, &chunk) == Code::kOk;) held.push_back(chunk);
  const auto events = Look();
  ASSERT_EQ(events.size(), 1u);
  ASSERT_EQ(events[0].holders.size(), 2u);
  EXPECT_EQ(events[0].holders[1].session, "channels/frames");
  EXPECT_EQ(events[0].holders[1].phase, shm::HoldPhase::kHistory);
  EXPECT_EQ(events[0].holders[1].chunk_count, 2u);
  EXPECT_NE(events[0].detail.find("14 writing, channels/frames: 2 kept"), std::string::npos)
      << events[0].detail;
  for (const ChunkRef& chunk : held) EXPECT_TRUE(camera_->Release(chunk));
}

TEST_F(TroubleWatchTest, ASubscriberThatDoesNotTakeIsNamedOncePerEpisode) {
  JoinBoth(shm::WhenFull::kWait);
  Publish();
  EXPECT_TRUE(Look().empty());
  EXPECT_TRUE(Look(seconds(5)).empty());  // its queue is not full
  Publish();
  const auto events = Look(milliseconds(100));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, EventKind::kSubscriberStalled);
  EXPECT_EQ(events[0].resource, "channels/frames/subscribers/0-1");
  EXPECT_NE(events[0].detail.find(sessions_->List()[1].name + " \"viewer\" pid "),
            std::string::npos)
      << events[0].detail;
  EXPECT_NE(events[0].detail.find("5100 ms, and 2 messages wait"), std::string::npos)
      << events[0].detail;
  EXPECT_TRUE(Look(seconds(5)).empty());

  Take();
  Publish();
  const auto over = Look(seconds(1));  // it took one
  ASSERT_EQ(over.size(), 1u);
  EXPECT_EQ(over[0].kind, EventKind::kSubscriberRecovered);
  EXPECT_EQ(over[0].resource, events[0].resource);
  EXPECT_NE(over[0].detail.find("it takes again, after it had taken nothing for 11100 ms"),
            std::string::npos)
      << over[0].detail;
  EXPECT_TRUE(Look(milliseconds(999)).empty());
  EXPECT_EQ(Look(milliseconds(1)).size(), 1u);
}

// Its numbers are those of a publisher that stands in the middle of a drop.
TEST_F(TroubleWatchTest, ADropUnderWayIsNotTakenForATake) {
  JoinBoth(shm::WhenFull::kDropOldest);
  Publish();
  Take();
  for (int i = 0; i < 3; ++i) Publish();
  EXPECT_TRUE(Look().empty());
  std::atomic<uint64_t>& dropped = Dropped();
  ASSERT_EQ(dropped.load(), 1u);
  dropped = 2;
  EXPECT_TRUE(Look(milliseconds(500)).empty());
  dropped = 1;
  const auto events = Look(milliseconds(500));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, EventKind::kSubscriberStalled);
}

TEST_F(TroubleWatchTest, ASubscriberThatIsTakenOffIsNotStalledAnyMore) {
  JoinBoth(shm::WhenFull::kWait);
  for (int i = 0; i < 2; ++i) Publish();
  EXPECT_TRUE(Look().empty());
  EXPECT_EQ(Look(seconds(2)).size(), 1u);
  const ChannelStats channel = instance_.channels.Stats()[0];
  const SubscriberStats& viewer = channel.subscribers[0];
  EXPECT_EQ(watch_.StalledFor(channel.index, viewer.index, viewer.epoch), seconds(2));
  ASSERT_TRUE(instance_.channels.DetachSubscriber({"frames", viewer.index, viewer.epoch}).ok());
  const auto over = Look(seconds(1));
  ASSERT_EQ(over.size(), 1u);
  EXPECT_EQ(over[0].kind, EventKind::kSubscriberRecovered);
  EXPECT_NE(over[0].detail.find("it was detached, after it had taken nothing for 3000 ms"),
            std::string::npos)
      << over[0].detail;
  EXPECT_EQ(watch_.StalledFor(channel.index, viewer.index, viewer.epoch), seconds(0));
  EXPECT_TRUE(Look(seconds(1)).empty());
}

TEST_F(TroubleWatchTest, AStallEndsWithItsSubscriberOrItsChannel) {
  for (const bool dies : {true, false}) {
    JoinBoth(shm::WhenFull::kWait);
    for (int i = 0; i < 2; ++i) Publish();
    EXPECT_TRUE(Look().empty());
    EXPECT_EQ(Look(seconds(1)).size(), 1u);
    {
      MutexLock lock(instance_.core.mutex);
      shm::ChannelRegistry& registry = instance_.core.registry;
      const uint32_t channel = registry.Find("frames")->index;
      const uint32_t index = in_->info().index;
      const shm::Status done =
          dies ? registry.LeaveSubscriber(channel, index, viewer_->id()) : registry.Close("frames");
      ASSERT_TRUE(done.ok()) << done.message();
      if (dies) instance_.core.recovery.DrainSubscriber(channel, index);
    }
    const auto over = Look(milliseconds(100));
    ASSERT_EQ(over.size(), 1u);
    EXPECT_EQ(over[0].kind, EventKind::kSubscriberRecovered);
    EXPECT_NE(over[0].detail.find(dies ? "it left or died" : "its channel was deleted"),
              std::string::npos)
        << over[0].detail;
    if (!dies) continue;
    ASSERT_TRUE(instance_.channels.Delete("frames", true, false, "").ok());
  }
}

TEST_F(TroubleWatchTest, ASubscriberOfADeletedChannelIsNobodysTrouble) {
  JoinBoth(shm::WhenFull::kWait);
  for (int i = 0; i < 2; ++i) Publish();
  EXPECT_TRUE(Look().empty());
  {
    MutexLock lock(instance_.core.mutex);
    ASSERT_TRUE(instance_.core.registry.Close("frames").ok());
  }
  EXPECT_TRUE(Look(seconds(5)).empty());
}

}  // namespace
}  // namespace zerocp
