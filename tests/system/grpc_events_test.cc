// WatchEvents over real sockets: what is kept and what comes, slow and dead watchers, the limit,
// and the server's end.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <deque>
#include <memory>
#include <string>

#include "server/event_log.h"
#include "server/grpc_watchers.h"
#include "tests/system/grpc_fixture.h"
#include "tests/system/grpc_stream.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp {
namespace {

using Response = v1::WatchEventsResponse;

class Watch : public Stream<Response> {
 public:
  explicit Watch(v1::ObserverService::Stub& stub, int64_t after = 0, bool stop_at_end = false)
      : Stream([&](grpc::ClientContext* context) {
          v1::WatchEventsRequest request;
          request.set_after_sequence(after);
          request.set_stop_at_end(stop_at_end);
          return stub.WatchEvents(context, request);
        }) {}
  int64_t ReadSequence() {
    Response event;
    return Read(&event) ? event.sequence() : -1;
  }
};

class GrpcEventsTest : public RpcTest {
 protected:
  EventLog& log() { return plane.instance.core.events; }
  const std::unique_ptr<v1::ObserverService::Stub> stub = Connect(plane.client_socket());
};

TEST_F(GrpcEventsTest, WhatIsKeptComesInOrderAndTheStreamEnds) {
  Watch watch(*stub, 0, /*stop_at_end=*/true);
  Response event;
  ASSERT_TRUE(watch.Read(&event));
  EXPECT_EQ(event.sequence(), 1);
  EXPECT_EQ(event.kind(), Response::KIND_POOL_CHANGED);
  EXPECT_EQ(event.resource(), "pools/video");
  EXPECT_TRUE(Contains(event.detail(), "16 chunks of 4096 bytes")) << event.detail();
  EXPECT_GT(event.time().seconds(), 0);
  ASSERT_TRUE(watch.Read(&event));
  EXPECT_EQ(event.sequence(), 2);
  EXPECT_EQ(event.kind(), Response::KIND_CHANNEL_CHANGED);
  EXPECT_EQ(event.resource(), "channels/frames");
  EXPECT_FALSE(watch.Read(&event));
  EXPECT_TRUE(watch.Finish().ok());

  Watch rest(*stub, 1, true);
  EXPECT_EQ(rest.ReadSequence(), 2);
  EXPECT_EQ(rest.ReadSequence(), -1);
  EXPECT_TRUE(rest.Finish().ok());
}

TEST_F(GrpcEventsTest, WhatHappensReachesTheWatchersOfBothSockets) {
  const std::string client_socket = plane.client_socket();
  const std::string admin_socket =
      client_socket.substr(0, client_socket.rfind('/')) + "/admin.sock";
  const auto admin_stub = Connect(admin_socket);
  Watch one(*stub, 1), other(*admin_stub, 1);
  EXPECT_EQ(one.ReadSequence(), 2);
  EXPECT_EQ(other.ReadSequence(), 2);
  ASSERT_TRUE(admin.Call(kUpdatePool, R"({"pool":{"name":"pools/video","chunkCount":16}})").ok());
  ASSERT_TRUE(
      admin.Call("zerocp.v1.AdminService/DeleteChannel", R"({"name":"channels/frames"})").ok());
  for (Watch* watch : {&one, &other}) {
    Response event;
    ASSERT_TRUE(watch->Read(&event));
    EXPECT_EQ(event.sequence(), 3);  // growing to the size it has is no change
    EXPECT_EQ(event.kind(), Response::KIND_CHANNEL_CHANGED);
    EXPECT_TRUE(Contains(event.detail(), "deleted")) << event.detail();
  }
}

TEST_F(GrpcEventsTest, AWatcherThatDoesNotReadHoldsUpNobodyAndFindsAGap) {
  Watch slow(*stub);
  ASSERT_EQ(slow.ReadSequence(), 1);
  constexpr size_t kMany = 3 * kKeptEvents;
  for (size_t i = 0; i < kMany; ++i)
    log().Add(EventKind::kPoolChanged, "pools/video", std::string(kMaxEventText, 'x'));
  constexpr auto kLast = static_cast<int64_t>(kMany + 2);
  Watch fast(*stub, kLast - 1, true);
  EXPECT_EQ(fast.ReadSequence(), kLast);
  EXPECT_TRUE(client.Call(kGetStats).ok());

  int64_t last = 1;
  int jumps = 0;
  while (last < kLast) {
    const int64_t next = slow.ReadSequence();
    ASSERT_GT(next, last);
    jumps += next != last + 1;
    last = next;
  }
  EXPECT_GE(jumps, 1);
}

TEST_F(GrpcEventsTest, PlacesAreLimitedAndFreeAgainAfterACancellation) {
  const auto other = Connect(plane.client_socket());
  std::deque<Watch> watches;
  for (size_t i = 0; i < kMaxWatchers; ++i) {
    watches.emplace_back(i % 2 == 0 ? *stub : *other);
    ASSERT_EQ(watches.back().ReadSequence(), 1);
  }
  const auto late = Connect(plane.client_socket());
  {
    Watch refused(*late);
    EXPECT_EQ(refused.ReadSequence(), -1);
    const grpc::Status status = refused.Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(ReasonIn(status), "WATCHER_LIMIT");
  }
  watches.front().Cancel();
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  bool admitted = false;
  while (!admitted && std::chrono::steady_clock::now() < give_up)
    admitted = Watch(*late).ReadSequence() == 1;
  EXPECT_TRUE(admitted);
}

TEST_F(GrpcEventsTest, ANegativeNumberIsRefused) {
  Watch watch(*stub, -1);
  EXPECT_EQ(watch.ReadSequence(), -1);
  const grpc::Status status = watch.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonIn(status), "FIELD_INVALID");
}

TEST_F(GrpcEventsTest, ShutdownEndsWaitingWatchersWithAReasonAndDoesNotHangOnASlowOne) {
  Watch waiting(*stub, 2), slow(*stub);
  ASSERT_EQ(slow.ReadSequence(), 1);
  log().Add(EventKind::kPoolChanged, "pools/video", "now");
  ASSERT_EQ(waiting.ReadSequence(), 3);  // it is a watcher
  // As many as are kept, to one that reads none: more than its connection takes in.
  for (size_t i = 0; i < kKeptEvents; ++i)
    log().Add(EventKind::kPoolChanged, "pools/video", std::string(kMaxEventText, 'x'));
  int64_t last = 3;
  while (last < static_cast<int64_t>(kKeptEvents + 3)) last = waiting.ReadSequence();
  // Its watchdog ends the process if a stream does not end.
  plane.server->Shutdown(std::chrono::milliseconds(100));
  EXPECT_EQ(waiting.ReadSequence(), -1);
  const grpc::Status status = waiting.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonIn(status), "SERVER_DRAINING");
}

}  // namespace
}  // namespace zerocp
