// TerminateSession against real clients: those that listen, those that do not, and those that
// cannot.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

using std::chrono::milliseconds;

class TerminateTest : public ::testing::Test {
 protected:
  void TearDown() override {
    const testing::Ran audit = testing::RunCommand(daemon_.Command({"audit"}));
    EXPECT_EQ(audit.exit_code, 0) << audit.output << audit.error;
  }
  std::shared_ptr<grpc::Channel> Channel() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
    return grpc::CreateCustomChannel("unix:" + daemon_.socket("admin.sock"),
                                     grpc::InsecureChannelCredentials(), arguments);
  }
  std::vector<v1::Session> Sessions() {
    grpc::ClientContext context;
    v1::ListSessionsResponse response;
    const auto status =
        v1::ObserverService::NewStub(Channel())->ListSessions(&context, {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return {response.sessions().begin(), response.sessions().end()};
  }
  grpc::Status Terminate(const std::string& name, bool kill, int64_t* released,
                         milliseconds timeout = milliseconds(60'000)) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout);
    v1::TerminateSessionRequest request;
    request.set_name(name);
    request.set_kill(kill);
    v1::TerminateSessionResponse response;
    const auto status =
        v1::AdminService::NewStub(Channel())->TerminateSession(&context, request, &response);
    *released = response.released_chunk_count();
    return status;
  }
  Client Connect(const std::string& name) {
    auto client = Client::Connect({.name = name, .runtime_dir = daemon_.runtime_dir()});
    EXPECT_TRUE(client) << client.message();
    return std::move(*client);
  }

  testing::DaemonProcess daemon_{
      {"--pool", "frames=64x4096", "--channel", "camera=frames,queue=4", "--on-stop", "auto"}};
};

TEST_F(TerminateTest, AClientIsToldInItsWaitAndTheCallReturnsWhenItHasLetGo) {
  Client client = Connect("told");
  auto subscriber = client.JoinAsSubscriber("camera");
  auto publisher = client.JoinAsPublisher("camera");
  auto loan = publisher->NewLoan(1);
  ASSERT_TRUE(subscriber && publisher && loan);
  const std::string name = Sessions().at(0).name();
  int64_t released = 0;
  grpc::Status status;
  std::thread operator_thread([&] { status = Terminate(name, false, &released); });
  auto nothing = subscriber->Wait();
  EXPECT_EQ(nothing.code(), Code::kDetached);
  EXPECT_NE(nothing.message().find("TerminateSession"), std::string::npos) << nothing.message();
  // Other calls go on while that one waits.
  EXPECT_EQ(Sessions().at(0).state(), v1::Session::STATE_REVOKED);
  EXPECT_EQ(client.state(), Code::kDetached);
  EXPECT_EQ(client.NewLoan("frames", 1).code(), Code::kDetached);
  EXPECT_EQ(publisher->NewLoan(1).code(), Code::kDetached);
  EXPECT_EQ(publisher->Publish(*loan).code(), Code::kDetached);
  EXPECT_EQ(client.JoinAsSubscriber("camera").code(), Code::kDetached);
  *subscriber = Subscriber();
  *publisher = Publisher();
  client = Client();
  EXPECT_EQ(Sessions().size(), 1u);
  *loan = Loan();  // the last thing it had
  operator_thread.join();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(released, 1);
  EXPECT_TRUE(Sessions().empty());
}

TEST_F(TerminateTest, WhoDoesNotListenStaysRevokedEvenOverARestart) {
  Client client = Connect("deaf");
  const std::string name = Sessions().at(0).name();
  int64_t released = 0;
  const grpc::Status status = Terminate(name, false, &released, milliseconds(1500));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_NE(status.error_details().find("STILL_ATTACHED"), std::string::npos)
      << status.error_message();
  EXPECT_EQ(Sessions().at(0).state(), v1::Session::STATE_REVOKED);
  daemon_.Stop(SIGKILL);
  daemon_.Start();
  EXPECT_EQ(client.state(), Code::kDetached);  // and it has found back
  EXPECT_EQ(Sessions().at(0).state(), v1::Session::STATE_REVOKED);
  client = Client();
  EXPECT_TRUE(Sessions().empty());
  EXPECT_EQ(Terminate(name, false, &released).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Terminate("pools/p", false, &released).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(TerminateTest, ACommandThatReceivesEndsByItselfAndAStoppedOneIsKilled) {
  int64_t released = 0;
  {
    testing::ChildProcess receiver({.command = daemon_.Command({"recv", "camera"})});
    while (Sessions().empty()) std::this_thread::yield();
    EXPECT_TRUE(Terminate(Sessions().at(0).name(), false, &released).ok());
    EXPECT_LT(receiver.Wait(), 128);
  }
  testing::ChildProcess receiver({.command = daemon_.Command({"recv", "camera"})});
  while (Sessions().empty()) std::this_thread::yield();
  receiver.Signal(SIGSTOP);
  const grpc::Status status = Terminate(Sessions().at(0).name(), true, &released);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(receiver.Wait(), 128 + SIGKILL);
  EXPECT_TRUE(Sessions().empty());
}

TEST_F(TerminateTest, ADaemonThatStopsLeavesNoCallWaiting) {
  Client client = Connect("deaf");
  const std::string name = Sessions().at(0).name();
  int64_t released = 0;
  grpc::Status status;
  std::thread operator_thread([&] { status = Terminate(name, false, &released); });
  while (Sessions().at(0).state() != v1::Session::STATE_REVOKED) std::this_thread::yield();
  EXPECT_EQ(daemon_.Stop(SIGTERM), 0);
  operator_thread.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  daemon_.Start();
}

}  // namespace
}  // namespace zerocp
