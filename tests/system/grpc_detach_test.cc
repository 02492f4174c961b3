// DetachSubscriber and DeleteChannel against real members, which use the C++ interface.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "tests/system/daemon_process.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

using std::chrono::seconds;

class DetachTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto client = Client::Connect({.name = "both ends", .runtime_dir = daemon_.runtime_dir()});
    ASSERT_TRUE(client) << client.message();
    client_ = std::move(*client);
  }
  void TearDown() override {
    const testing::Ran audit = testing::RunCommand(daemon_.Command({"audit"}));
    EXPECT_EQ(audit.exit_code, 0) << audit.output << audit.error;
  }
  // One RPC on admin.sock: `call(stub, context)`.
  template <class Service, class Call>
  grpc::Status Ask(Call call) {
    const auto stub = Service::NewStub(grpc::CreateChannel("unix:" + daemon_.socket("admin.sock"),
                                                           grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + seconds(60));
    return call(*stub, &context);
  }
  grpc::Status Delete(bool even_if_in_use) {
    v1::DeleteChannelRequest request;
    request.set_name("channels/camera");
    request.set_even_if_in_use(even_if_in_use);
    v1::DeleteChannelResponse response;
    return Ask<v1::AdminService>([&](auto& stub, grpc::ClientContext* context) {
      return stub.DeleteChannel(context, request, &response);
    });
  }
  static bool Send(Publisher& publisher, std::chrono::nanoseconds wait = {}) {
    auto loan = publisher.NewLoan(1);
    return loan && publisher.Publish(*loan, wait);
  }

  testing::DaemonProcess daemon_{
      {"--pool", "frames=4KiBx32", "--channel", "camera=frames,queue=4"}};
  Client client_;
};

TEST_F(DetachTest, ASubscriberThatDoesNotTakeIsTakenOffByTheNameThatStatisticsGive) {
  auto slow = client_.JoinAsSubscriber("camera");
  auto publisher = client_.JoinAsPublisher("camera");
  ASSERT_TRUE(slow && publisher);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Send(*publisher));
  EXPECT_FALSE(Send(*publisher));  // its queue is full

  v1::GetStatsResponse stats;
  ASSERT_TRUE(Ask<v1::ObserverService>([&](auto& stub, grpc::ClientContext* context) {
                return stub.GetStats(context, {}, &stats);
              }).ok());
  const v1::SubscriberStats& named = stats.stats().channels(0).subscribers(0);
  EXPECT_EQ(named.queued_count(), 4);
  v1::DetachSubscriberRequest request;
  request.set_name(named.subscriber());
  v1::DetachSubscriberResponse response;
  ASSERT_TRUE(Ask<v1::AdminService>([&](auto& stub, grpc::ClientContext* context) {
                return stub.DetachSubscriber(context, request, &response);
              }).ok())
      << named.subscriber();
  EXPECT_EQ(response.queued_count(), 4);

  EXPECT_TRUE(Send(*publisher, seconds(60)));  // nobody holds it up
  auto told = slow->Wait(seconds(60));
  EXPECT_EQ(told.code(), Code::kDetached);
  EXPECT_NE(told.message().find("operator"), std::string::npos) << told.message();
  auto again = client_.JoinAsSubscriber("camera");
  ASSERT_TRUE(again) << again.message();
  ASSERT_TRUE(Send(*publisher));
  EXPECT_TRUE(again->Wait(seconds(60)));
}

TEST_F(DetachTest, APublisherThatWaitsForAChunkGetsThoseThatWaitedForTheDetachedOne) {
  ASSERT_EQ(testing::RunCommand(daemon_.Command({"pools", "create", "few", "4KiB", "3"})).exit_code,
            0);
  ASSERT_EQ(testing::RunCommand(daemon_.Command({"channels", "create", "scarce", "--pool", "few",
                                                 "--when-full", "wait"}))
                .exit_code,
            0);
  auto slow = client_.JoinAsSubscriber("scarce");
  auto publisher = client_.JoinAsPublisher("scarce");
  ASSERT_TRUE(slow && publisher);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Send(*publisher));
  EXPECT_EQ(publisher->NewLoan(1).code(), Code::kExhausted);

  std::thread waits([&] {
    auto loan = publisher->NewLoan(1, seconds(60));
    EXPECT_TRUE(loan) << loan.message();
  });
  const testing::Ran detached = testing::RunCommand(
      daemon_.Command({"subscribers", "detach", "channels/scarce/subscribers/0-1"}));
  waits.join();
  EXPECT_EQ(detached.exit_code, 0) << detached.error;
  EXPECT_EQ(slow->Wait(seconds(60)).code(), Code::kDetached);
}

TEST_F(DetachTest, ADeletedChannelIsTakenToItsEndAndItsNameIsFree) {
  auto subscriber = client_.JoinAsSubscriber("camera");
  auto publisher = client_.JoinAsPublisher("camera");
  ASSERT_TRUE(subscriber && publisher);
  ASSERT_TRUE(Send(*publisher));
  auto looper = client_.JoinAsSubscriber("camera");  // sleeps on a descriptor
  auto fd = looper->fd();
  ASSERT_TRUE(fd) << fd.message();
  while (looper->TryTake().code() != Code::kTimeout) continue;
  EXPECT_EQ(Delete(false).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  ASSERT_TRUE(Delete(true).ok());

  pollfd readable{*fd, POLLIN, 0};
  ASSERT_EQ(poll(&readable, 1, 60'000), 1);
  auto ended = looper->TryTake();
  while (ended.code() == Code::kTimeout && poll(&readable, 1, 60'000) == 1)
    ended = looper->TryTake();
  EXPECT_EQ(ended.code(), Code::kChannelDeleted);
  EXPECT_TRUE(subscriber->Wait(seconds(60)));  // what was published before
  EXPECT_EQ(subscriber->Wait(seconds(60)).code(), Code::kChannelDeleted);
  auto loan = publisher->NewLoan(1);
  ASSERT_TRUE(loan) << loan.message();
  EXPECT_EQ(publisher->Publish(*loan, seconds(60)).code(), Code::kChannelDeleted);
  EXPECT_EQ(client_.JoinAsSubscriber("camera").code(), Code::kNotFound);
}

}  // namespace
}  // namespace zerocp
