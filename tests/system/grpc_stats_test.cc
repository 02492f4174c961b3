// WatchStats over real sockets: the first numbers and those that follow, slow watchers, what is
// refused, and the server's end.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <csignal>
#include <deque>
#include <future>
#include <memory>
#include <set>
#include <string>

#include "server/grpc_watchers.h"
#include "tests/system/daemon_process.h"
#include "tests/system/grpc_fixture.h"
#include "tests/system/grpc_stream.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Response = v1::WatchStatsResponse;

v1::WatchStatsRequest Request(milliseconds interval, int32_t max_updates = 0) {
  v1::WatchStatsRequest request;
  request.mutable_interval()->set_seconds(interval.count() / 1000);
  request.mutable_interval()->set_nanos(static_cast<int32_t>(interval.count() % 1000) * 1'000'000);
  request.set_max_updates(max_updates);
  return request;
}

constexpr milliseconds kOften{100};

class Watch : public Stream<Response> {
 public:
  Watch(v1::ObserverService::Stub& stub, const v1::WatchStatsRequest& request)
      : Stream([&](grpc::ClientContext* context) { return stub.WatchStats(context, request); }) {}
};

class GrpcStatsTest : public RpcTest {
 protected:
  const std::unique_ptr<v1::ObserverService::Stub> stub = Connect(plane.client_socket());
};

TEST_F(GrpcStatsTest, TheFirstNumbersComeAtOnceAndAreThoseOfGetStats) {
  Watch watch(*stub, Request(std::chrono::hours(1)));
  Response update;
  ASSERT_TRUE(watch.Read(&update));
  grpc::ClientContext context;
  v1::GetStatsResponse now;
  ASSERT_TRUE(stub->GetStats(&context, {}, &now).ok());
  EXPECT_EQ(update.stats().pools_size(), 1);
  EXPECT_EQ(update.stats().pools(0).chunk_count(), 16);
  EXPECT_EQ(update.skipped_update_count(), 0);
  for (v1::Stats* stats : {update.mutable_stats(), now.mutable_stats()}) {
    stats->clear_read_time();
    for (v1::Segment& segment : *stats->mutable_segments()) segment.clear_free_size_bytes();
  }
  EXPECT_EQ(update.stats().DebugString(), now.stats().DebugString());
}

TEST_F(GrpcStatsTest, TheNumbersComeAnewEveryIntervalUntilThereWereEnough) {
  constexpr milliseconds kInterval{150};
  constexpr int kUpdates = 4;
  const auto start = steady_clock::now();
  Watch watch(*stub, Request(kInterval, kUpdates));
  Response update;
  ASSERT_TRUE(watch.Read(&update));
  EXPECT_EQ(update.stats().pools_size(), 1);
  ASSERT_TRUE(plane.instance.pools.Create(Spec("second", 4096, 8)).ok());
  for (int i = 1; i < kUpdates; ++i) ASSERT_TRUE(watch.Read(&update));
  EXPECT_EQ(update.stats().pools_size(), 2);
  EXPECT_GE(steady_clock::now() - start, (kUpdates - 1) * kInterval);
  EXPECT_FALSE(watch.Read(&update));
  EXPECT_TRUE(watch.Finish().ok());
}

TEST_F(GrpcStatsTest, OnlyThePoolsNamedAreShownAndTheEndOfOneEndsTheStream) {
  for (const char* name : {"audio", "spare"})
    ASSERT_TRUE(plane.instance.pools.Create(Spec(name, 4096, 8)).ok());
  v1::WatchStatsRequest request = Request(kOften);
  for (const char* name : {"pools/video", "pools/audio", "pools/video"}) request.add_pools(name);
  Watch watch(*stub, request);
  Response update;
  ASSERT_TRUE(watch.Read(&update));
  ASSERT_EQ(update.stats().pools_size(), 2);
  EXPECT_EQ(update.stats().pools(0).pool(), "pools/audio");
  EXPECT_EQ(update.stats().pools(1).pool(), "pools/video");
  EXPECT_EQ(update.stats().channels_size(), 1);
  ASSERT_TRUE(admin.Call("zerocp.v1.AdminService/DeletePool", R"({"name":"pools/audio"})").ok());
  while (watch.Read(&update)) EXPECT_EQ(update.stats().pools_size(), 2);
  const grpc::Status status = watch.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonIn(status), "POOL_NOT_FOUND");
}

TEST_F(GrpcStatsTest, WatchersShareTheNumbersOfATick) {
  Watch one(*stub, Request(kOften)), other(*stub, Request(kOften));
  std::set<std::string> seen;
  const auto give_up = steady_clock::now() + std::chrono::minutes(1);
  bool shared = false;
  while (!shared && steady_clock::now() < give_up) {
    for (Watch* watch : {&one, &other}) {
      Response update;
      ASSERT_TRUE(watch->Read(&update));
      shared |= !seen.insert(update.stats().read_time().SerializeAsString()).second;
    }
  }
  EXPECT_TRUE(shared);
}

TEST_F(GrpcStatsTest, AWatcherThatDoesNotReadHoldsUpNobodyAndIsToldWhatItMissed) {
  // Updates of more than its connection takes in unread.
  for (int i = 0; i < 200; ++i) {
    const std::string name = std::string(50, 'c') + std::to_string(i);
    ASSERT_TRUE(plane.instance.channels.Create({name, "video", 0, ""}).ok());
  }
  grpc::ChannelArguments narrow;
  narrow.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  narrow.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 8192);
  const auto narrow_stub = Connect(plane.client_socket(), narrow);
  Watch slow(*narrow_stub, Request(kOften)), fast(*stub, Request(kOften));
  constexpr int kTicks = 20;
  Response update;
  for (int i = 0; i < kTicks; ++i) ASSERT_TRUE(fast.Read(&update));
  // What was on its way comes first.
  int64_t skipped = 0;
  int taken = 0;
  for (; skipped == 0 && taken < kTicks; ++taken) {
    ASSERT_TRUE(slow.Read(&update));
    skipped = update.skipped_update_count();
  }
  EXPECT_GT(skipped, 0) << taken << " taken, of " << update.ByteSizeLong() << " bytes";
  // Told once; a reader that reads misses none, but for a machine that stands still.
  while (skipped > 0) {
    ASSERT_TRUE(slow.Read(&update));
    skipped = update.skipped_update_count();
  }
}

TEST_F(GrpcStatsTest, PlacesAreLimitedAndFreeAgainAfterACancellation) {
  const auto other = Connect(plane.client_socket());
  std::deque<Watch> watches;
  Response update;
  for (size_t i = 0; i < kMaxWatchers; ++i) {
    watches.emplace_back(i % 2 == 0 ? *stub : *other, Request(kOften));
    ASSERT_TRUE(watches.back().Read(&update));
  }
  const auto late = Connect(plane.client_socket());
  {
    Watch refused(*late, Request(kOften));
    EXPECT_FALSE(refused.Read(&update));
    const grpc::Status status = refused.Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(ReasonIn(status), "WATCHER_LIMIT");
  }
  watches.front().Cancel();
  const auto give_up = steady_clock::now() + std::chrono::minutes(1);
  bool admitted = false;
  while (!admitted && steady_clock::now() < give_up)
    admitted = Watch(*late, Request(kOften)).Read(&update);
  EXPECT_TRUE(admitted);
}

TEST(WatchStatsOfADaemon, SigtermEndsEveryWatcherWithAReasonAndTheDaemonIsGone) {
  testing::DaemonProcess daemon({"--pool", "frames=4KiBx32"});
  const std::unique_ptr<v1::ObserverService::Stub> stubs[] = {Connect(daemon.socket("client.sock")),
                                                              Connect(daemon.socket("admin.sock"))};
  std::deque<Watch> watches;
  Response update;
  for (size_t i = 0; i < kMaxWatchers; ++i) {
    watches.emplace_back(*stubs[i % 2],
                         Request(i % 4 < 2 ? kOften : milliseconds(std::chrono::hours(1))));
    ASSERT_TRUE(watches.back().Read(&update));
  }
  // While they read, as watchers do: what a connection still holds when its other end is closed can
  // be lost to a reader that comes later.
  std::future<int> stopped = std::async(std::launch::async, [&] { return daemon.Stop(SIGTERM); });
  for (Watch& watch : watches) {
    while (watch.Read(&update)) {
    }
    const grpc::Status status = watch.Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
    EXPECT_EQ(ReasonIn(status), "SERVER_DRAINING") << status.error_message();
  }
  EXPECT_EQ(stopped.get(), 0) << daemon.Log();
  EXPECT_TRUE(Contains(daemon.Log(), "stopped: ")) << daemon.Log();
}

}  // namespace
}  // namespace zerocp
