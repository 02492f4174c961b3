// Many sessions, one after the other and at once: what they leave behind is counted, and the daemon
// answers meanwhile.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "shm/layout.h"
#include "tests/system/daemon_process.h"
#include "tests/system/footprint.h"
#include "tests/system/shared_counts.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"
#include "zerocp/v1/session_service.grpc.pb.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kProcesses = 20;
constexpr size_t kSessionsOfProcess = 50;
constexpr size_t kSessions = kProcesses * kSessionsOfProcess;
// gRPC starts some of its own when calls crowd; a thread of each session would be a thousand.
constexpr size_t kGrpcThreads = 4;
constexpr char kPool[] = "chunks";

// False if it does not hold within the watchdog's time.
bool Eventually(const std::function<bool()>& condition) {
  for (const auto end = Clock::now() + std::chrono::seconds(30); Clock::now() < end;) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return condition();
}

class LoadTest : public ::testing::Test {
 protected:
  template <class Response, class Call>
  static Response Must(Call call) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    Response response;
    const grpc::Status status = call(&context, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  v1::CreateSessionResponse CreateSession() {
    v1::CreateSessionRequest request;
    request.set_layout_version(shm::kLayoutVersion);
    request.set_payload_access(v1::PAYLOAD_ACCESS_READ_WRITE);
    return Must<v1::CreateSessionResponse>([&](auto* context, auto* response) {
      return session_->CreateSession(context, request, response);
    });
  }
  v1::ListSessionsResponse ListSessions() {
    v1::ListSessionsRequest request;
    request.set_page_size(1000);
    return Must<v1::ListSessionsResponse>([&](auto* context, auto* response) {
      return observer_->ListSessions(context, request, response);
    });
  }
  v1::Stats GetStats() {
    return Must<v1::GetStatsResponse>([&](auto* context, auto* response) {
             return observer_->GetStats(context, {}, response);
           })
        .stats();
  }
  testing::Footprint Look() const { return testing::FootprintOf(daemon_.pid()); }

  // No session, pending or not; no chunk that is not free; no invariant broken.
  void ExpectNobodyLeft() {
    EXPECT_EQ(ListSessions().sessions_size(), 0);
    const auto audit = Must<v1::AuditResponse>(
        [&](auto* context, auto* response) { return admin_->Audit(context, {}, response); });
    EXPECT_EQ(audit.violations_size(), 0) << audit.DebugString();
    ASSERT_EQ(audit.pools_size(), 1);
    EXPECT_EQ(audit.pools(0).free_chunk_count(), audit.pools(0).chunk_count());
  }
  void BringAndKillACrowd();
  void ExpectFootprint(const testing::Footprint& before) const {
    EXPECT_TRUE(Eventually([&] { return Look().descriptors <= before.descriptors; }))
        << Look().descriptors << " descriptors, " << before.descriptors << " before";
    EXPECT_TRUE(Eventually([&] { return Look().threads <= before.threads + kGrpcThreads; }))
        << Look().threads << " threads, " << before.threads << " before";
#if !defined(__SANITIZE_ADDRESS__)  // it keeps what is freed, and finds leaks itself
    EXPECT_LE(Look().resident_bytes, before.resident_bytes + (size_t{8} << 20));
#endif
  }

  const testing::DaemonProcess daemon_{
      {"--pool", std::string(kPool) + "=64x16384", "--reserve", "1GiB"}};
  const std::shared_ptr<grpc::Channel> channel_ = grpc::CreateChannel(
      "unix:" + daemon_.socket("admin.sock"), grpc::InsecureChannelCredentials());
  const std::unique_ptr<v1::AdminService::Stub> admin_ = v1::AdminService::NewStub(channel_);
  const std::unique_ptr<v1::ObserverService::Stub> observer_ =
      v1::ObserverService::NewStub(channel_);
  const std::unique_ptr<v1::SessionService::Stub> session_ = v1::SessionService::NewStub(channel_);
};

TEST_F(LoadTest, SessionsThatComeAndGoLeaveNothingBehind) {
  const char* wanted = std::getenv("ZEROCP_LOAD_CYCLES");
  const int cycles = wanted == nullptr ? 2000 : std::atoi(wanted);
  const auto cycle = [&] {
    const v1::CreateSessionResponse created = CreateSession();
    std::array<uint8_t, ZEROCP_TOKEN_BYTES> token{};
    std::copy(created.handshake_token().begin(), created.handshake_token().end(), token.begin());
    auto client = Client::Attach(token, created.attach_socket());
    ASSERT_TRUE(client) << client.message();
    ASSERT_TRUE(client->NewLoan(kPool, 64));
  };
  for (int i = 0; i < 100 && !HasFatalFailure(); ++i) cycle();  // fills what is kept anyway
  ExpectNobodyLeft();
  const testing::Footprint before = Look();
  for (int i = 0; i < cycles && !HasFatalFailure(); ++i) cycle();
  ExpectNobodyLeft();
  ExpectFootprint(before);
}

void LoadTest::BringAndKillACrowd() {
  const int64_t recovered = GetStats().recovered_session_count() + static_cast<int64_t>(kSessions);
  const testing::SharedCounts attached;
  std::vector<std::unique_ptr<testing::ChildProcess>> crowd;
  for (size_t i = 0; i < kProcesses; ++i) {
    crowd.push_back(std::make_unique<testing::ChildProcess>(testing::ChildOptions{
        .command = {std::filesystem::read_symlink("/proc/self/exe"), "--crowd",
                    daemon_.runtime_dir(), std::to_string(attached.fd()), std::to_string(i)}}));
  }
  for (size_t i = 0; i < kProcesses; ++i)
    ASSERT_TRUE(Eventually([&] { return attached[i] == kSessionsOfProcess; })) << attached[i];

  auto begin = Clock::now();
  const v1::ListSessionsResponse list = ListSessions();
  const auto list_time = Clock::now() - begin;
  EXPECT_EQ(list.sessions_size(), static_cast<int>(kSessions));
  for (const v1::Session& session : list.sessions()) {
    EXPECT_EQ(session.state(), v1::Session::STATE_ATTACHED);
    EXPECT_EQ(session.held_chunk_count(), 1) << session.name();
  }
  begin = Clock::now();
  EXPECT_EQ(GetStats().attached_session_count(), static_cast<int>(kSessions));
  const auto stats_time = Clock::now() - begin;

  begin = Clock::now();
  for (const auto& process : crowd) process->Signal(SIGKILL);
  int answers = 0;
  EXPECT_TRUE(Eventually([&] {
    ++answers;
    return GetStats().recovered_session_count() == recovered;
  }));
  using Ms = std::chrono::duration<double, std::milli>;
  std::printf(
      "%zu sessions: ListSessions %.1f ms, GetStats %.1f ms; recovered in %.0f ms, %d "
      "answers meanwhile\n",
      kSessions, Ms(list_time).count(), Ms(stats_time).count(), Ms(Clock::now() - begin).count(),
      answers);
  ExpectNobodyLeft();
}

// The second crowd leaves nothing that the first did not: threads that gRPC keeps are there then.
TEST_F(LoadTest, AThousandSessionsAreKilledAtOnce) {
  BringAndKillACrowd();
  const testing::Footprint before = Look();
  BringAndKillACrowd();
  ExpectFootprint(before);
}

// A process with many sessions, each of which gives a chunk back and keeps another.
int Crowd(const std::string& runtime_dir, int counts_fd, size_t index) {
  const testing::SharedCounts attached(counts_fd);
  std::vector<Client> clients;
  std::vector<Loan> loans;
  for (size_t i = 0; i < kSessionsOfProcess; ++i) {
    auto client = Client::Connect({.name = "crowd", .runtime_dir = runtime_dir});
    if (!client) return std::fprintf(stderr, "%s\n", client.message().c_str()), 1;
    if (auto released = client->NewLoan(kPool, 64); !released)
      return std::fprintf(stderr, "%s\n", released.message().c_str()), 1;
    auto kept = client->NewLoan(kPool, 64);
    if (!kept) return std::fprintf(stderr, "%s\n", kept.message().c_str()), 1;
    loans.push_back(std::move(*kept));
    clients.push_back(std::move(*client));
    attached[index].store(i + 1);
  }
  for (;;) pause();
}

}  // namespace
}  // namespace zerocp

int main(int argc, char** argv) {
  if (argc == 5 && std::string(argv[1]) == "--crowd")
    return zerocp::Crowd(argv[2], std::atoi(argv[3]), static_cast<size_t>(std::atoi(argv[4])));
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
