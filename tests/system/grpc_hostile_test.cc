// What anybody may do to a listener: after each the daemon answers at once, and it has as many
// descriptors, threads and bytes as before.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/grpc_listener.h"
#include "tests/system/certificates.h"
#include "tests/system/child_process.h"
#include "tests/system/daemon_process.h"
#include "tests/system/footprint.h"
#include "tests/system/grpc_fixture.h"

namespace zerocp {
namespace {

using shm::UniqueFd;
using testing::WriteFile;

const std::string kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const std::string kSettings("\0\0\0\4\0\0\0\0\0", 9);

// Waits until it holds; ctest's time limit is the watchdog.
void WaitUntil(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

UniqueFd ConnectUnix(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

UniqueFd ConnectTcp(const std::string& address_text) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port =
      htons(static_cast<uint16_t>(std::stoi(address_text.substr(address_text.rfind(':') + 1))));
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

void Send(const UniqueFd& fd, const std::string& bytes) {
  (void)!send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

// True if the other end has closed it.
bool IsClosed(const UniqueFd& fd) {
  char byte = 0;
  const ssize_t got = recv(fd.get(), &byte, 1, 0);
  return got == 0 || (got < 0 && errno == ECONNRESET);
}

class ListenerTest : public ::testing::Test {
 protected:
  void Serve(GrpcListener::Options options) {
    options.name = "test";
    UniqueFd listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(bind(listening.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    ASSERT_EQ(listen(listening.get(), 64), 0);
    listener_ = std::make_unique<GrpcListener>(std::move(options), std::move(listening),
                                               connections_, [this](int fd) {
                                                 close(fd);
                                                 ++handed_;
                                               });
  }

  const testing::TempDir dir_;
  const std::string path_ = dir_.path() + "/socket";
  std::atomic<int> handed_{0};
  GrpcConnections connections_{{.all = 1000, .per_peer = 1000}};
  std::unique_ptr<GrpcListener> listener_;
};

TEST_F(ListenerTest, HalfAPrefaceIsGivenUp) {
  Serve({.patience = std::chrono::milliseconds(50)});
  const std::string whole = kPreface + kSettings;
  for (size_t size : {size_t{0}, size_t{1}, kPreface.size(), whole.size() - 1}) {
    const UniqueFd fd = ConnectUnix(path_);
    Send(fd, whole.substr(0, size));
    EXPECT_TRUE(IsClosed(fd)) << size;
  }
  EXPECT_EQ(handed_, 0);
}

TEST_F(ListenerTest, WhatIsNotHttp2IsClosedAtOnce) {
  Serve({.patience = std::chrono::hours(1)});
  for (const std::string& bytes :
       {std::string("GET / HTTP/1.1\r\n\r\n"), kPreface + std::string(9, '\xff'),
        kPreface + std::string("\0\0\0\1\0\0\0\0\0", 9)}) {
    const UniqueFd fd = ConnectUnix(path_);
    Send(fd, bytes);
    EXPECT_TRUE(IsClosed(fd));
  }
  EXPECT_EQ(handed_, 0);
}

TEST_F(ListenerTest, AWholePrefaceIsHandedOnAlsoByteByByte) {
  Serve({.patience = std::chrono::hours(1)});
  const UniqueFd slow = ConnectUnix(path_);
  for (const char c : kPreface + kSettings) Send(slow, std::string(1, c));
  WaitUntil([&] { return handed_ == 1; });
  const UniqueFd fast = ConnectUnix(path_);
  Send(fast, kPreface + kSettings + "more");
  WaitUntil([&] { return handed_ == 2; });
}

TEST_F(ListenerTest, TheOldestThatWaitsMakesRoom) {
  Serve({.patience = std::chrono::hours(1), .max_waiting = 4});
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 8; ++i) silent.push_back(ConnectUnix(path_));
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(IsClosed(silent[i])) << i;
  Send(silent.back(), kPreface + kSettings);
  WaitUntil([&] { return handed_ == 1; });
}

// The real daemon.

class HostileTest : public ::testing::Test {
 protected:
  HostileTest() {
    const std::string log = daemon_->Log();
    const std::string mark = "TLS on ";
    const size_t begin = log.find(mark) + mark.size();
    address_ = log.substr(begin, log.find(": the certificate", begin) - begin);
  }
  std::vector<std::string> Arguments() {
    const testing::Identity server = authority_.Sign({.names = "DNS:localhost"});
    WriteFile(dir_.path() + "/cert.pem", server.certificate);
    WriteFile(dir_.path() + "/key.pem", server.key);
    WriteFile(dir_.path() + "/ca.pem", authority_.certificate());
    return {"--pool",     "video=4096x16",           "--tls-listen", "127.0.0.1:0",
            "--tls-cert", dir_.path() + "/cert.pem", "--tls-key",    dir_.path() + "/key.pem",
            "--tls-ca",   dir_.path() + "/ca.pem",   "--tls-admin",  "admin.test"};
  }
  std::string client_socket() const { return daemon_->socket("client.sock"); }
  Caller Tls() const {
    const testing::Identity client = authority_.Sign({.names = "DNS:admin.test"});
    grpc::SslCredentialsOptions options{authority_.certificate(), client.key, client.certificate};
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetSslTargetNameOverride("localhost");
    return Caller(grpc::CreateCustomChannel(address_, grpc::SslCredentials(options), arguments));
  }
  void ExpectAnswers() const {
    EXPECT_EQ(Caller(client_socket()).Call(kGetServerInfo).code, kOk);
    EXPECT_EQ(Caller(daemon_->socket("admin.sock")).Call(kAudit).code, kOk);
    EXPECT_EQ(Tls().Call(kGetServerInfo).code, kOk);
  }
  testing::Footprint Look() const { return testing::FootprintOf(daemon_->pid()); }
  // The second time leaves nothing that the first did not: caches are full then.
  void ExpectNothingLeft(const std::function<void()>& attack) {
    ExpectAnswers();
    const size_t quiet = Quiet();
    attack();
    ExpectAnswers();
    WaitUntil([&] { return Look().descriptors <= quiet; });
    testing::Footprint before;
    // gRPC's pool of threads grows to what was needed at once, and stays so; what leaks grows with
    // each attack.
    for (int attacks = 1;; ++attacks) {
      before = Look();
      attack();
      ExpectAnswers();
      WaitUntil([&] { return Look().descriptors <= quiet; });
      if (ComesBackTo(before.threads)) break;
      ASSERT_LT(attacks, 10) << Look().threads << " threads";
    }
#if !defined(__SANITIZE_ADDRESS__)  // it keeps what is freed, and finds leaks itself
    EXPECT_LE(Look().resident_bytes, before.resident_bytes + (size_t{8} << 20));
#endif
  }
  // Threads that end may take a while to do it.
  bool ComesBackTo(size_t threads) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (Look().threads > threads) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return true;
  }
  // Descriptors when no connection is left.
  size_t Quiet() const {
    size_t count = Look().descriptors;
    for (int same = 0; same < 20;) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      const size_t now = Look().descriptors;
      same = now == count ? same + 1 : 0;
      count = now;
    }
    return count;
  }

  const testing::TempDir dir_;
  const testing::TestAuthority authority_;
  const std::unique_ptr<testing::DaemonProcess> daemon_ =
      std::make_unique<testing::DaemonProcess>(Arguments());
  std::string address_;
};

TEST_F(HostileTest, AFloodOfConnections) {
  ExpectNothingLeft([this] {
    std::vector<UniqueFd> flood;
    for (int i = 0; i < 400; ++i) flood.push_back(ConnectUnix(client_socket()));
    for (int i = 0; i < 200; ++i) {
      flood.push_back(ConnectUnix(client_socket()));
      Send(flood.back(), kPreface.substr(0, 10));
    }
    ExpectAnswers();  // also meanwhile
  });
}

TEST_F(HostileTest, HalfOpenTlsHandshakes) {
  ExpectNothingLeft([this] {
    std::vector<UniqueFd> half;
    for (int i = 0; i < 100; ++i) {
      half.push_back(ConnectTcp(address_));
      Send(half.back(), std::string("\x16\x03\x01\x02\x00\x01", 6));  // of a ClientHello
    }
    ExpectAnswers();
  });
}

TEST_F(HostileTest, ConnectionsThatAreAbandonedInTheMiddle) {
  ExpectNothingLeft([this] {
    for (int i = 0; i < 100; ++i) {
      const UniqueFd fd = ConnectUnix(client_socket());
      // A HEADERS frame that never ends.
      Send(fd, kPreface + kSettings + std::string("\0\1\0\1\0\0\0\0\1xxxx", 13));
    }
  });
}

TEST_F(HostileTest, OversizedMessages) {
  ExpectNothingLeft([this] {
    const Caller caller(client_socket());
    for (int i = 0; i < 8; ++i) {
      EXPECT_EQ(
          caller.CallBytes(kGetPool, std::string((1 << 20) + 1, '\0'), std::chrono::seconds(60))
              .code,
          kResourceExhausted);
    }
  });
}

TEST_F(HostileTest, NoDescriptorIsLeft) {
  ExpectNothingLeft([this] {
    rlimit before{};
    ASSERT_EQ(prlimit(daemon_->pid(), RLIMIT_NOFILE, nullptr, &before), 0);
    rlimit none = before;
    none.rlim_cur = 0;
    ASSERT_EQ(prlimit(daemon_->pid(), RLIMIT_NOFILE, &none, nullptr), 0);
    const UniqueFd unix_waits = ConnectUnix(client_socket());
    const UniqueFd tcp_waits = ConnectTcp(address_);
    WaitUntil([&] {
      const std::string log = daemon_->Log();
      return Contains(log, "client socket: cannot accept connections") &&
             Contains(log, "tls socket: cannot accept connections");
    });
    ASSERT_EQ(prlimit(daemon_->pid(), RLIMIT_NOFILE, &before, nullptr), 0);
  });
}

TEST_F(HostileTest, ASecondDaemon) {
  ExpectNothingLeft([this] {
    const testing::Ran second = testing::RunCommand(
        {testing::BinDir() + "/zerocpd", "--runtime-dir", daemon_->runtime_dir()});
    EXPECT_EQ(second.exit_code, 3) << second.error;
  });
}

TEST(ConnectionLimitTest, OneUserHasItsShareAndNoMore) {
  GrpcConnections connections({.all = 8, .per_peer = 4});
  std::vector<UniqueFd> ends;
  const auto add = [&] {
    int pair[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ends.emplace_back(pair[0]);
    ends.emplace_back(pair[1]);
    return connections.Add(pair[0]);
  };
  for (int i = 0; i < 4; ++i) EXPECT_EQ(add(), "");
  EXPECT_EQ(add(), "uid " + std::to_string(getuid()) + " has its 4 connections");
  ends.clear();  // closed: their places are free again
  EXPECT_EQ(add(), "");
  EXPECT_EQ(connections.count(), 1u);
  const auto peer = connections.PeerOf("fd:" + std::to_string(ends[0].get()));
  ASSERT_TRUE(peer);
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_FALSE(connections.PeerOf("ipv4:127.0.0.1:1"));
  EXPECT_FALSE(connections.PeerOf("fd:x"));
}

}  // namespace
}  // namespace zerocp
