// Attaching with a token that came over gRPC.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "shm/layout.h"
#include "tests/system/daemon_process.h"
#include "zerocp/v1/session_service.grpc.pb.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

using Token = std::array<uint8_t, ZEROCP_TOKEN_BYTES>;

TEST(Token, AttachesOnceOnTheSocketThatCreateSessionNames) {
  testing::DaemonProcess daemon({"--pool", "frames=4KiBx4"});
  auto stub = v1::SessionService::NewStub(grpc::CreateChannel(
      "unix:" + daemon.socket("client.sock"), grpc::InsecureChannelCredentials()));
  v1::CreateSessionRequest request;
  request.set_client_name("by-token");
  request.set_layout_version(shm::kLayoutVersion);
  request.set_payload_access(v1::PAYLOAD_ACCESS_READ_WRITE);
  v1::CreateSessionResponse response;
  grpc::ClientContext context;
  const grpc::Status status = stub->CreateSession(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.handshake_token().size(), size_t{ZEROCP_TOKEN_BYTES});
  Token token;
  std::copy(response.handshake_token().begin(), response.handshake_token().end(), token.begin());

  Token wrong = token;
  wrong[31] ^= 1;
  EXPECT_EQ(Client::Attach(wrong, response.attach_socket()).code(), Code::kDenied);
  auto client = Client::Attach(token, response.attach_socket());
  ASSERT_TRUE(client) << client.message();
  EXPECT_TRUE(client->NewLoan("frames", 1));
  EXPECT_EQ(Client::Attach(token, response.attach_socket()).code(), Code::kDenied);
}

TEST(Token, IsReadOnlyUnlessReadWriteIsAskedForWhateverTheClientWants) {
  testing::DaemonProcess daemon({"--pool", "frames=4KiBx4", "--channel", "feed=frames"});
  auto stub = v1::SessionService::NewStub(grpc::CreateChannel(
      "unix:" + daemon.socket("client.sock"), grpc::InsecureChannelCredentials()));
  v1::CreateSessionRequest request;
  request.set_layout_version(shm::kLayoutVersion);
  v1::CreateSessionResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub->CreateSession(&context, request, &response).ok());
  EXPECT_EQ(response.session().payload_access(), v1::PAYLOAD_ACCESS_READ_ONLY);
  Token token;
  std::copy(response.handshake_token().begin(), response.handshake_token().end(), token.begin());
  auto client = Client::Attach(token, response.attach_socket(), {.read_only = false});
  ASSERT_TRUE(client) << client.message();
  auto loan = client->NewLoan("frames", 1);
  EXPECT_EQ(loan.code(), Code::kDenied);
  EXPECT_NE(loan.message().find("PAYLOAD_ACCESS_READ_WRITE"), std::string::npos) << loan.message();
  EXPECT_EQ(client->JoinAsPublisher("feed").code(), Code::kDenied);
  EXPECT_TRUE(client->JoinAsSubscriber("feed"));
}

}  // namespace
}  // namespace zerocp
