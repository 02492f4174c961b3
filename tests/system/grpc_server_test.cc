// What both servers do beside answering malformed requests: the methods, pages, health, shutdown,
// and life without a free descriptor.
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "shm/session.h"
#include "tests/system/grpc_fixture.h"

namespace zerocp {
namespace {

using GrpcServerTest = RpcTest;

TEST_F(GrpcServerTest, WhatIsRightWorks) {
  const Outcome pool =
      admin.Call(kCreatePool, R"({"poolId":"audio","pool":{"chunkSizeBytes":100,"chunkCount":3}})");
  EXPECT_TRUE(Contains(pool.json, R"("name":"pools/audio")")) << pool.message << pool.json;
  EXPECT_TRUE(Contains(pool.json, R"("created":true)")) << pool.json;
  EXPECT_TRUE(Contains(admin.Call(kGetPool, R"({"name":"pools/audio"})").json,
                       R"("chunkSizeBytes":"100")"));
  EXPECT_TRUE(Contains(client.Call(kListPools).json, "pools/video"));
  EXPECT_TRUE(
      Contains(admin
                   .Call(kUpdatePool,
                         R"({"pool":{"name":"pools/audio","chunkCount":5},"validateOnly":true})")
                   .json,
               R"("chunkCount":"5")"));
  EXPECT_TRUE(
      Contains(client.Call(kGetPool, R"({"name":"pools/audio"})").json, R"("chunkCount":"3")"));
  const Outcome grows =
      admin.Call(kUpdatePool, R"({"pool":{"name":"pools/audio","autoGrow":true}})");
  EXPECT_TRUE(Contains(grows.json, R"("autoGrow":true)")) << grows.message << grows.json;
  const Outcome fixed = admin.Call(
      kUpdatePool, R"({"pool":{"name":"pools/audio","chunkCount":5},"updateMask":"autoGrow"})");
  EXPECT_TRUE(Contains(fixed.json, R"("chunkCount":"3")")) << fixed.message << fixed.json;
  const Outcome before = admin.Call(kGetPool, R"({"name":"pools/audio"})");
  const Outcome same = admin.Call(kUpdatePool, before.json);
  EXPECT_TRUE(same.ok()) << same.message;
  EXPECT_EQ(same.json, before.json);
  EXPECT_TRUE(
      admin
          .Call(kUpdatePool,
                R"({"pool":{"name":"pools/audio","maxChunkCount":5},"updateMask":"autoGrow"})")
          .ok());
  EXPECT_FALSE(Contains(fixed.json, R"("autoGrow":true)")) << fixed.json;
  const Outcome channel = admin.Call(
      kCreateChannel,
      R"({"channelId":"sound","channel":{"pool":"pools/audio","whenFull":"WHEN_FULL_WAIT"}})");
  EXPECT_TRUE(Contains(channel.json, R"("queueCapacity":16)")) << channel.message << channel.json;
  EXPECT_TRUE(Contains(client.Call(kGetChannel, R"({"name":"channels/sound"})").json,
                       R"("pool":"pools/audio")"));
  const Outcome session =
      client.Call(kCreateSession, "{" + kLayout + R"(,"clientName":"me","peerUserId":0})");
  EXPECT_TRUE(Contains(session.json, R"("attachSocket":"/run/test/attach.sock")"))
      << session.message;
  EXPECT_TRUE(Contains(session.json, R"("state":"STATE_PENDING")"));
  const Outcome stats = client.Call(kGetStats, R"({"pools":["pools/audio"]})");
  EXPECT_TRUE(Contains(stats.json, R"("chunkCount":"3","freeChunkCount":"3")")) << stats.json;
  EXPECT_FALSE(Contains(stats.json, "pools/video"));
  EXPECT_TRUE(Contains(stats.json, R"("recoveredSessionCount":"7")"));
  EXPECT_TRUE(Contains(stats.json, R"("shmName":"zerocp_test_memory_chunk")"));
  const Outcome audit = admin.Call(kAudit);
  EXPECT_TRUE(Contains(audit.json, R"("checkedChunkCount":"19")")) << audit.json;
  EXPECT_LT(audit.json.find("pools/audio"), audit.json.find("pools/video"));
  admin.Call(kCreatePool, R"({"poolId":"spare","pool":{"chunkSizeBytes":100,"chunkCount":3}})");
  const Outcome deleted = admin.Call(kDeletePool, R"({"name":"pools/spare","drain":true})");
  EXPECT_TRUE(Contains(deleted.json, R"("state":"STATE_ACTIVE")")) << deleted.message;
  EXPECT_FALSE(Contains(client.Call(kListPools).json, "pools/spare"));
  EXPECT_TRUE(admin.Call(kDeletePool, R"({"name":"pools/spare","allowMissing":true})").ok());
  const Outcome info = client.Call(kGetServerInfo);
  EXPECT_TRUE(Contains(info.json, R"("instanceName":"test")")) << info.json;
}

TEST_F(GrpcServerTest, HeldChunksAreListedInPagesWithTheirHolders) {
  {
    auto* manager = plane.instance.core.manager.get();
    auto session = std::make_shared<shm::Session>(
        std::shared_ptr<shm::MemPoolManager>(std::shared_ptr<void>(), manager), shm::kFirstSession);
    {
      MutexLock lock(plane.instance.core.mutex);
      plane.instance.core.attached.set(session->id());
    }
    std::array<shm::ChunkRef, 3> loans;
    for (shm::ChunkRef& loan : loans) {
      ASSERT_EQ(session->Loan(*manager->FindPool("video"), shm::Deadline::Now(), &loan),
                shm::Code::kOk);
    }
    const Outcome first = client.Call(kListHeldChunks, R"({"pool":"pools/video","pageSize":2})");
    EXPECT_TRUE(Contains(first.json, R"("phase":"PHASE_WRITING")")) << first.json << first.message;
    EXPECT_TRUE(Contains(first.json, R"("pool":"pools/video")"));
    EXPECT_TRUE(Contains(first.json, R"("chunkCount":"3")")) << first.json;
    const std::string mark = R"("nextPageToken":")";
    const size_t begin = first.json.find(mark) + mark.size();
    const std::string token = first.json.substr(begin, first.json.find('"', begin) - begin);
    ASSERT_FALSE(token.empty());
    const std::string next =
        R"({"pool":"pools/video","pageSize":1000,"pageToken":")" + token + "\"}";
    const Outcome second = client.Call(kListHeldChunks, next);
    EXPECT_TRUE(Contains(second.json, R"("nextPageToken":"")")) << second.json << second.message;
    EXPECT_TRUE(Contains(second.json, R"("holders":[]})")) << second.json;
    EXPECT_EQ(client.Call(kListHeldChunks, R"({"pageToken":")" + token + "\"}").reason(),
              "PAGE_TOKEN_INVALID");  // of another list
    for (const shm::ChunkRef& loan : loans) EXPECT_TRUE(session->Release(loan));
    session->Close();
    const Outcome stats = client.Call(kGetStats, R"({"pools":["pools/video"]})");
    EXPECT_TRUE(Contains(stats.json, R"("loanCount":"3")")) << stats.json;
    MutexLock lock(plane.instance.core.mutex);
    plane.instance.core.attached.reset(session->id());
  }
  const struct {
    const char* request;
    const char* reason;
  } wrong[] = {{R"({"pool":"video"})", "FIELD_INVALID"},
               {R"({"holder":"me"})", "FIELD_INVALID"},
               {R"({"pageSize":-1})", "FIELD_INVALID"},
               {R"({"pageToken":"x"})", "PAGE_TOKEN_INVALID"},
               {R"({"pool":"pools/none"})", "POOL_NOT_FOUND"},
               {R"({"holder":"channels/none"})", "CHANNEL_NOT_FOUND"},
               {R"({"holder":"channels/"})", "FIELD_INVALID"},
               {R"({"holder":"sessions/none"})", "SESSION_NOT_FOUND"}};
  for (const auto& w : wrong)
    EXPECT_EQ(client.Call(kListHeldChunks, w.request).reason(), w.reason) << w.request;
}

TEST_F(GrpcServerTest, TheClientSocketHasNoAdminService) {
  for (const char* method : {kCreatePool, kUpdatePool, kCreateChannel, kAudit, kTerminateSession}) {
    EXPECT_EQ(client.Call(method).code, kUnimplemented) << method;
  }
  for (const char* method : {kGetServerInfo, kListPools, kListChannels, kListSessions, kGetStats}) {
    EXPECT_EQ(client.Call(method).code, kOk) << method;
  }
}

// Walks all pages of `list`; returns the names in `field`.
std::vector<std::string> Walk(const Caller& caller, const char* method, int page_size,
                              const std::string& prefix) {
  std::vector<std::string> names;
  std::string token;
  do {
    const Outcome page = caller.Call(method, R"({"pageSize":)" + std::to_string(page_size) +
                                                 R"(,"pageToken":")" + token + "\"}");
    EXPECT_EQ(page.code, kOk) << page.message;
    const std::string mark = R"("name":")" + prefix;
    int count = 0;
    for (size_t at = page.json.find(mark); at != std::string::npos;
         at = page.json.find(mark, at + 1), ++count) {
      const size_t begin = at + mark.size();
      names.push_back(page.json.substr(begin, page.json.find('"', begin) - begin));
    }
    const std::string next = R"("nextPageToken":")";
    const size_t begin = page.json.find(next) + next.size();
    token = page.json.substr(begin, page.json.find('"', begin) - begin);
    EXPECT_LE(count, page_size == 0 ? 100 : std::min(page_size, 1000));
    EXPECT_TRUE(token.empty() || count > 0);
  } while (!token.empty());
  return names;
}

TEST_F(GrpcServerTest, PagesTogetherAreTheWholeList) {
  for (int i = 0; i < 205; ++i) {
    ASSERT_TRUE(plane.instance.channels.Create({"c" + std::to_string(i), "video", 1, ""}).ok());
    ASSERT_TRUE(
        plane.sessions.Create("s", static_cast<int32_t>(shm::kLayoutVersion), {}, false).ok());
  }
  for (int page_size : {0, 1, 7, 103, 206, 2000}) {
    std::vector<std::string> channels = Walk(client, kListChannels, page_size, "channels/");
    EXPECT_EQ(channels.size(), 206u) << page_size;
    EXPECT_TRUE(std::is_sorted(channels.begin(), channels.end()));
    std::vector<std::string> sessions = Walk(client, kListSessions, page_size, "sessions/");
    EXPECT_EQ(sessions.size(), 205u) << page_size;
    std::sort(sessions.begin(), sessions.end());
    EXPECT_EQ(std::unique(sessions.begin(), sessions.end()), sessions.end());
  }
}

// "SERVING", "NOT_SERVING", or "5", NOT_FOUND, for a service that is not there.
std::string HealthOf(const Caller& caller, const std::string& service) {
  const Outcome outcome = caller.Call(kHealthCheck, R"({"service":")" + service + "\"}");
  if (!outcome.ok()) return std::to_string(outcome.code);
  return Contains(outcome.json, "\"NOT_SERVING\"") ? "NOT_SERVING"
         : Contains(outcome.json, "\"SERVING\"")   ? "SERVING"
                                                   : outcome.json;
}

TEST_F(GrpcServerTest, HealthIsPerService) {
  for (const char* service : {"", "zerocp.v1.ObserverService", "zerocp.v1.SessionService"}) {
    EXPECT_EQ(HealthOf(admin, service), "SERVING") << service;
    EXPECT_EQ(HealthOf(client, service), "SERVING") << service;
  }
  EXPECT_EQ(HealthOf(admin, "zerocp.v1.AdminService"), "SERVING");
  EXPECT_EQ(HealthOf(client, "zerocp.v1.AdminService"), std::to_string(kNotFound));
}

TEST(GrpcServerStart, UntilItIsReadyItLivesAndCallsWait) {
  ControlPlane plane(/*ready=*/false);
  const Caller admin = plane.Admin();
  EXPECT_EQ(HealthOf(admin, ""), "SERVING");
  for (const char* service :
       {"zerocp.v1.AdminService", "zerocp.v1.ObserverService", "zerocp.v1.SessionService"})
    EXPECT_EQ(HealthOf(admin, service), "NOT_SERVING") << service;
  constexpr std::chrono::milliseconds kShort{50};
  EXPECT_EQ(admin.Call(kListPools, "{}", kShort).code, kDeadlineExceeded);
  EXPECT_EQ(admin.Call(kGetServerInfo, "{}", kShort).code, kDeadlineExceeded);
  auto waiting = std::async(std::launch::async, [&] { return admin.Call(kListPools); });
  plane.server->SetReady();
  EXPECT_TRUE(waiting.get().ok());
  EXPECT_EQ(HealthOf(admin, "zerocp.v1.AdminService"), "SERVING");
}

TEST_F(GrpcServerTest, ShutdownEndsTheRunningCallAndRefusesTheWaitingOnes) {
  std::promise<void> started, go_on;
  plane.sessions.before_create = [&] {
    started.set_value();
    go_on.get_future().wait();
    return absl::OkStatus();
  };
  auto running = std::async(std::launch::async,
                            [&] { return client.Call(kCreateSession, "{" + kLayout + "}"); });
  started.get_future().wait();
  std::thread stopper([&] { plane.server->Shutdown(std::chrono::seconds(10)); });
  Outcome waiting;
  do {
    waiting = client.Call(kListPools, "{}", std::chrono::milliseconds(100));
  } while (waiting.code == kDeadlineExceeded);
  EXPECT_EQ(waiting.code, kUnavailable) << waiting.message;
  EXPECT_EQ(waiting.reason(), "SERVER_DRAINING");
  EXPECT_EQ(waiting.details_size, 3);
  // It lives, and is not ready.
  EXPECT_EQ(HealthOf(client, ""), "SERVING");
  for (const char* service : {"zerocp.v1.ObserverService", "zerocp.v1.SessionService"})
    EXPECT_EQ(HealthOf(client, service), "NOT_SERVING") << service;
  go_on.set_value();
  EXPECT_TRUE(running.get().ok());
  stopper.join();
  EXPECT_EQ(client.Call(kListPools, "{}", std::chrono::milliseconds(100)).ok(), false);
}

// Holds whoever reserves memory for a pool, from HasBegun until Release.
class Reservation {
 public:
  explicit Reservation(TestInstance& instance) : instance_(instance) {
    instance_.on_reserve = [this] {
      begun_.set_value();
      released_.get_future().wait();
    };
  }
  ~Reservation() { instance_.on_reserve = {}; }
  void WaitUntilBegun() { begun_.get_future().wait(); }
  void Release() { released_.set_value(); }

 private:
  TestInstance& instance_;
  std::promise<void> begun_, released_;
};

constexpr char kNewChannel[] =
    R"({"channelId":"new","channel":{"pool":"pools/video","whenFull":2}})";
constexpr char kLarge[] = R"({"poolId":"large","pool":{"chunkSizeBytes":4096,"chunkCount":64}})";

TEST_F(GrpcServerTest, APoolIsSeenWhileItsMemoryIsReservedAndHoldsUpNoOtherCall) {
  Reservation reservation(plane.instance);
  auto creation = std::async(std::launch::async, [&] { return admin.Call(kCreatePool, kLarge); });
  reservation.WaitUntilBegun();
  EXPECT_TRUE(Contains(client.Call(kListPools).json, "STATE_CREATING"));
  EXPECT_TRUE(Contains(client.Call(kGetPool, R"({"name":"pools/large"})").json, "STATE_CREATING"));
  for (const Outcome& outcome :
       {admin.Call(kCreatePool, kLarge),
        admin.Call(kUpdatePool, R"({"pool":{"name":"pools/large","chunkCount":65}})"),
        admin.Call(kDeletePool, R"({"name":"pools/large"})")}) {
    EXPECT_EQ(outcome.code, kAborted) << outcome.message;
    EXPECT_EQ(outcome.reason(), "OPERATION_IN_PROGRESS");
    EXPECT_EQ(outcome.info.metadata().at("resource"), "pools/large");
    EXPECT_EQ(outcome.details_size, 3);  // with a RetryInfo
  }
  EXPECT_TRUE(admin.Call(kAudit).ok());
  EXPECT_TRUE(client.Call(kGetStats).ok());
  EXPECT_TRUE(admin.Call(kCreateChannel, kNewChannel).ok());
  EXPECT_TRUE(admin.Call(kDeleteChannel, R"({"name":"channels/new"})").ok());
  reservation.Release();
  EXPECT_TRUE(creation.get().ok());
  EXPECT_FALSE(Contains(client.Call(kListPools).json, "STATE_CREATING"));
  EXPECT_EQ(plane.instance.pools.List().size(), 2u);
}

TEST_F(GrpcServerTest, NoChannelChangesWhileTheConfigurationDoes) {
  Reservation reservation(plane.instance);
  auto change = std::async(std::launch::async, [&] {
    return admin.Call(kApplyConfig,
                      R"({"config":{"pools":[{"name":"pools/large","chunkSizeBytes":4096,
                          "chunkCount":64}]},"allowDeletion":true})");
  });
  reservation.WaitUntilBegun();
  for (const Outcome& outcome : {admin.Call(kCreateChannel, kNewChannel),
                                 admin.Call(kDeleteChannel, R"({"name":"channels/frames"})")}) {
    EXPECT_EQ(outcome.code, kAborted) << outcome.message;
    EXPECT_EQ(outcome.reason(), "OPERATION_IN_PROGRESS");
    EXPECT_EQ(outcome.info.metadata().at("resource"), "config");
  }
  EXPECT_TRUE(client.Call(kCreateSession, "{" + kLayout + "}").ok());
  reservation.Release();
  EXPECT_TRUE(change.get().ok());
  EXPECT_EQ(admin.Call(kDeleteChannel, R"({"name":"channels/frames"})").reason(),
            "CHANNEL_NOT_FOUND");
}

TEST_F(GrpcServerTest, AGrowingPoolHoldsUpNoOtherCall) {
  Reservation reservation(plane.instance);
  auto growth = std::async(std::launch::async, [&] {
    return admin.Call(kUpdatePool, R"({"pool":{"name":"pools/video","chunkCount":17}})");
  });
  reservation.WaitUntilBegun();
  EXPECT_TRUE(admin.Call(kAudit).ok());
  EXPECT_TRUE(Contains(client.Call(kGetStats).json, "\"chunkCount\":\"16\""))
      << client.Call(kGetStats).json;
  reservation.Release();
  EXPECT_TRUE(growth.get().ok());
  EXPECT_EQ(plane.instance.pools.Get("video")->spec.chunk_count, 17u);
}

TEST_F(GrpcServerTest, AStopEndsAReservationAndNothingIsLeftOfIt) {
  const uint64_t before = plane.instance.pools.Memory().chunk.used_bytes;
  Reservation reservation(plane.instance);
  auto creation = std::async(std::launch::async, [&] { return admin.Call(kCreatePool, kLarge); });
  reservation.WaitUntilBegun();
  std::thread stopper([&] { plane.server->Shutdown(std::chrono::seconds(10)); });
  // Who waits for the worker is refused once it is told to stop, which is after reservations are.
  while (admin.Call(kDeletePool, R"({"name":"pools/none"})", std::chrono::milliseconds(100)).code ==
         kDeadlineExceeded) {
  }
  reservation.Release();
  stopper.join();
  const Outcome outcome = creation.get();
  EXPECT_EQ(outcome.code, kUnavailable) << outcome.message;
  EXPECT_EQ(outcome.reason(), "SERVER_DRAINING");
  EXPECT_EQ(plane.instance.pools.List().size(), 1u);
  EXPECT_EQ(plane.instance.pools.Memory().chunk.used_bytes, before);
}

// Fulfils a promise at the first log line that contains a text.
class LogWatch : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit LogWatch(std::string text) : text_(std::move(text)) {}
  void Wait() { seen_.get_future().wait(); }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (done_ || !Contains(std::string(message.payload.data(), message.payload.size()), text_))
      return;
    done_ = true;
    seen_.set_value();
  }
  void flush_() override {}

 private:
  const std::string text_;
  bool done_ = false;
  std::promise<void> seen_;
};

TEST_F(GrpcServerTest, WithoutAFreeDescriptorConnectionsWaitAndAreServedLater) {
  ASSERT_TRUE(admin.Call(kGetServerInfo).ok());
  auto starved = std::make_shared<LogWatch>("cannot accept");
  auto recovered = std::make_shared<LogWatch>("accepts connections again");
  for (auto& watch : {starved, recovered}) spdlog::default_logger()->sinks().push_back(watch);

  shm::UniqueFd waiting(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  plane.client_socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  ASSERT_EQ(connect(waiting.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  starved->Wait();
  EXPECT_TRUE(admin.Call(kGetServerInfo).ok());  // connections that are there are served
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  recovered->Wait();
  EXPECT_TRUE(client.Call(kGetServerInfo).ok());
  for (int i = 0; i < 2; ++i) spdlog::default_logger()->sinks().pop_back();
}

}  // namespace
}  // namespace zerocp
