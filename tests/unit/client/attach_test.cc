// What a client makes of a daemon that answers strangely.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "shm/attach_protocol.h"
#include "shm/unique_fd.h"
#include "tests/system/child_process.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

using shm::AttachReply;
using shm::AttachRequest;

// Takes one connection and answers its first request, without descriptors; then hangs up.
class StrangeDaemon {
 public:
  explicit StrangeDaemon(std::function<std::string(const AttachRequest&)> answer) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, (dir_.path() + "/attach.sock").c_str());
    listener_ = shm::UniqueFd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(listener_.get(), 1), 0);
    thread_ = std::thread([this, answer = std::move(answer)] {
      shm::UniqueFd peer(accept(listener_.get(), nullptr, nullptr));
      EXPECT_EQ(recv(peer.get(), &request_, sizeof(request_), 0), ssize_t{sizeof(request_)});
      const std::string packet = answer(request_);
      if (!packet.empty()) send(peer.get(), packet.data(), packet.size(), 0);
    });
  }
  ~StrangeDaemon() {
    if (thread_.joinable()) thread_.join();
  }

  Result<Client> Connect() {
    auto client = Client::Connect({.name = "tester", .runtime_dir = dir_.path()});
    thread_.join();
    return client;
  }
  const AttachRequest& request() const { return request_; }

 private:
  testing::TempDir dir_;
  shm::UniqueFd listener_;
  AttachRequest request_{};
  std::thread thread_;
};

AttachReply ReplyTo(const AttachRequest& request, shm::Code code, const char* message) {
  AttachReply reply{};
  reply.magic = shm::kAttachMagic;
  reply.version = shm::kAttachVersion;
  reply.op = request.op;
  reply.code = static_cast<int32_t>(code);
  reply.layout_version = shm::kLayoutVersion;
  std::strcpy(reply.message, message);
  return reply;
}

std::string Packet(const AttachReply& reply) {
  return std::string(reinterpret_cast<const char*>(&reply), sizeof(reply));
}

TEST(Attach, RequestSaysWhoAsksAndForWhichLayout) {
  StrangeDaemon daemon([](const AttachRequest&) { return ""; });
  EXPECT_FALSE(daemon.Connect());
  EXPECT_EQ(daemon.request().magic, shm::kAttachMagic);
  EXPECT_EQ(daemon.request().version, shm::kAttachVersion);
  EXPECT_EQ(daemon.request().op, static_cast<uint32_t>(shm::AttachOp::kAttach));
  EXPECT_EQ(daemon.request().layout_version, shm::kLayoutVersion);
  EXPECT_EQ(daemon.request().limits_hash, shm::LimitsHash());
  EXPECT_EQ(daemon.request().has_token, 0u);
  EXPECT_EQ(daemon.request().read_only, 0u);
  EXPECT_STREQ(daemon.request().name, "tester");
}

TEST(Attach, OtherLayoutIsRefusedByNameOfBothVersions) {
  StrangeDaemon daemon([](const AttachRequest& request) {
    AttachReply reply = ReplyTo(request, shm::Code::kVersionMismatch, "not mine");
    reply.layout_version = 77;
    return Packet(reply);
  });
  auto client = daemon.Connect();
  EXPECT_EQ(client.code(), Code::kVersionMismatch);
  EXPECT_NE(client.message().find("layout 77"), std::string::npos) << client.message();
  EXPECT_NE(client.message().find("layout " + std::to_string(shm::kLayoutVersion)),
            std::string::npos)
      << client.message();
}

TEST(Attach, RefusalIsPassedOn) {
  StrangeDaemon daemon([](const AttachRequest& request) {
    return Packet(ReplyTo(request, shm::Code::kLimit, "4096 sessions are attached"));
  });
  auto client = daemon.Connect();
  EXPECT_EQ(client.code(), Code::kLimit);
  EXPECT_EQ(client.message(), "4096 sessions are attached");
}

TEST(Attach, NonsenseIsUnavailableAndSaysWhat) {
  const struct {
    std::string what;
    std::function<std::string(const AttachRequest&)> answer;
  } cases[] = {
      {"hung up", [](const AttachRequest&) { return std::string(); }},
      {"packet of 3 bytes", [](const AttachRequest&) { return std::string("abc"); }},
      {"more than " + std::to_string(sizeof(AttachReply)) + " bytes",
       [](const AttachRequest& request) {
         return Packet(ReplyTo(request, shm::Code::kOk, "")) + "x";
       }},
      {"attach protocol",
       [](const AttachRequest& request) {
         AttachReply reply = ReplyTo(request, shm::Code::kOk, "");
         reply.magic ^= 1;
         return Packet(reply);
       }},
      {"attach protocol",
       [](const AttachRequest& request) {
         AttachReply reply = ReplyTo(request, shm::Code::kOk, "");
         reply.version += 1;
         return Packet(reply);
       }},
      {"attach protocol",
       [](const AttachRequest& request) {
         AttachReply reply = ReplyTo(request, shm::Code::kOk, "");
         reply.op += 1;
         return Packet(reply);
       }},
      {"sent no memory",
       [](const AttachRequest& request) { return Packet(ReplyTo(request, shm::Code::kOk, "")); }},
  };
  for (const auto& one : cases) {
    StrangeDaemon daemon(one.answer);
    auto client = daemon.Connect();
    EXPECT_EQ(client.code(), Code::kUnavailable) << one.what;
    EXPECT_NE(client.message().find(one.what), std::string::npos) << client.message();
  }
}

}  // namespace
}  // namespace zerocp
