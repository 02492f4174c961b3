// A pool that is created, grown, drained and deleted in a loop under four clients that stream over
// another one and loan from this: no client is disturbed, each audit is clean, and the memory is
// the system's again. The clients are this program again, `--produce` and `--consume`.
// $ZEROCP_CHURN_SECONDS says how long; 4 unless it is set.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <zerocp/zerocp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kWatchdog{60};
constexpr size_t kMessageBytes = 1024;

std::atomic<bool> g_stop{false};

int Fail(const char* what, const std::string& message) {
  std::fprintf(stderr, "%s: %s\n", what, message.c_str());
  return 1;
}

// What a client does with the pool that comes and goes. Keeps a few loans over several calls, each
// full of bytes that nobody else writes.
class ChurnUser {
 public:
  explicit ChurnUser(Client& client) : client_(client) {}

  // 0, or the client's exit code.
  int Step() {
    Slot& slot = slots_[++steps_ % slots_.size()];
    if (slot.loan) {
      for (std::byte byte : slot.loan.data())
        if (byte != slot.fill) return Fail("churn", "a loaned chunk was written by somebody else");
      if (steps_ % 3 == 0) return ShareAndOpen(std::move(slot.loan));
      slot.loan = Loan();
    }
    auto loan = client_.NewLoan("churn", kMessageBytes);
    if (loan.code() == Code::kNotFound || loan.code() == Code::kExhausted) return 0;
    if (!loan) return Fail("loan of churn", loan.message());
    slot.fill = static_cast<std::byte>(steps_);
    std::memset(loan->data().data(), static_cast<int>(slot.fill), loan->data().size());
    slot.loan = std::move(*loan);
    return 0;
  }

 private:
  struct Slot {
    Loan loan;
    std::byte fill{};
  };
  // What is held can be opened, whether its pool is being deleted or not.
  int ShareAndOpen(Loan loan) {
    auto sample = std::move(loan).Share();
    if (!sample) return Fail("share", sample.message());
    auto handle = sample->handle();
    if (!handle) return Fail("handle", handle.message());
    auto opened = client_.Open(*handle);
    if (!opened) return Fail("open", opened.message());
    return opened->data().data() == sample->data().data() ? 0 : Fail("open", "another chunk");
  }

  Client& client_;
  std::array<Slot, 3> slots_;
  uint64_t steps_ = 0;
};

int Produce(const std::string& runtime_dir, const std::string& channel) {
  signal(SIGTERM, [](int) { g_stop = true; });
  auto client = Client::Connect({.name = "producer", .runtime_dir = runtime_dir});
  if (!client) return Fail("connect", client.message());
  auto publisher = client->JoinAsPublisher(channel);
  if (!publisher) return Fail("join", publisher.message());
  if (auto there = publisher->WaitForSubscribers(1); !there) return Fail("wait", there.message());
  ChurnUser user(*client);
  for (uint64_t number = 1; !g_stop; ++number) {
    auto loan = publisher->NewLoan(kMessageBytes, std::nullopt);
    if (!loan) return Fail("loan", loan.message());
    std::memcpy(loan->data().data(), &number, sizeof(number));
    if (auto sent = publisher->Publish(*loan); !sent) return Fail("publish", sent.message());
    if (const int failed = user.Step()) return failed;
  }
  return 0;
}

int Consume(const std::string& runtime_dir, const std::string& channel) {
  auto client = Client::Connect({.name = "consumer", .runtime_dir = runtime_dir});
  if (!client) return Fail("connect", client.message());
  auto subscriber = client->JoinAsSubscriber(channel);
  if (!subscriber) return Fail("join", subscriber.message());
  ChurnUser user(*client);
  for (uint64_t expected = 1;;) {
    auto sample = subscriber->Wait(milliseconds(20));
    if (sample.code() == Code::kEndOfStream) return 0;
    if (!sample && sample.code() != Code::kTimeout) return Fail("take", sample.message());
    if (sample) {
      uint64_t number = 0;
      std::memcpy(&number, sample->data().data(), sizeof(number));
      if (number != expected || sample->sequence() != expected)
        return Fail("take", "got " + std::to_string(number) + ", not " + std::to_string(expected));
      ++expected;
    }
    if (const int failed = user.Step()) return failed;
  }
}

class PoolChurnTest : public ::testing::Test {
 protected:
  PoolChurnTest() {
    auto channel = grpc::CreateChannel("unix:" + daemon_.socket("admin.sock"),
                                       grpc::InsecureChannelCredentials());
    admin_ = v1::AdminService::NewStub(channel);
    observer_ = v1::ObserverService::NewStub(channel);
  }
  std::unique_ptr<testing::ChildProcess> Start(const std::string& role,
                                               const std::string& channel) {
    errors_.push_back(dir_.path() + "/" + role + channel);
    return std::make_unique<testing::ChildProcess>(
        testing::ChildOptions{.command = {std::filesystem::read_symlink("/proc/self/exe"), role,
                                          daemon_.runtime_dir(), channel},
                              .error = errors_.back()});
  }
  // Until `done`; false, and a failure, if that does not come.
  template <class Condition>
  bool Await(const char* what, Condition done) {
    const auto limit = Clock::now() + kWatchdog;
    while (!done()) {
      if (Clock::now() > limit || HasFailure()) {
        ADD_FAILURE() << "no " << what << "\n" << daemon_.Log();
        return false;
      }
      std::this_thread::sleep_for(milliseconds(1));
    }
    return true;
  }

  v1::Stats Stats() {
    grpc::ClientContext context;
    v1::GetStatsResponse response;
    const grpc::Status status = observer_->GetStats(&context, {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.stats();
  }
  // Of the least busy channel; 0 until each has both its members.
  int64_t Published() {
    const v1::Stats stats = Stats();
    int64_t least = stats.channels_size() == 0 ? 0 : INT64_MAX;
    for (const v1::ChannelStats& channel : stats.channels()) {
      const bool complete = channel.publisher_count() == 1 && channel.subscribers_size() == 1;
      least = std::min(least, complete ? channel.published_count() : 0);
    }
    return least;
  }
  int64_t Loans() {
    const v1::Stats stats = Stats();
    for (const v1::PoolStats& pool : stats.pools())
      if (pool.pool() == "pools/churn") return pool.loan_count();
    return 0;
  }
  void Create(int64_t chunk_bytes, int64_t count, int64_t max) {
    grpc::ClientContext context;
    v1::CreatePoolRequest request;
    request.set_pool_id("churn");
    request.mutable_pool()->set_chunk_size_bytes(chunk_bytes);
    request.mutable_pool()->set_chunk_count(count);
    request.mutable_pool()->set_max_chunk_count(max);
    v1::CreatePoolResponse response;
    const grpc::Status status = admin_->CreatePool(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  void Grow(int64_t count) {
    grpc::ClientContext context;
    v1::UpdatePoolRequest request;
    request.mutable_pool()->set_name("pools/churn");
    request.mutable_pool()->set_chunk_count(count);
    v1::UpdatePoolResponse response;
    const grpc::Status status = admin_->UpdatePool(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  void Delete() {
    grpc::ClientContext context;
    v1::DeletePoolRequest request;
    request.set_name("pools/churn");
    request.set_drain(true);
    v1::DeletePoolResponse response;
    const grpc::Status status = admin_->DeletePool(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  bool Gone() {
    grpc::ClientContext context;
    v1::GetPoolRequest request;
    request.set_name("pools/churn");
    v1::GetPoolResponse response;
    return observer_->GetPool(&context, request, &response).error_code() ==
           grpc::StatusCode::NOT_FOUND;
  }
  void ExpectAuditClean() {
    grpc::ClientContext context;
    v1::AuditResponse response;
    const grpc::Status status = admin_->Audit(&context, {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    for (const auto& violation : response.violations())
      ADD_FAILURE() << violation.invariant() << ": " << violation.detail();
  }
  // Memory of both segments, in blocks.
  int64_t Blocks() {
    int64_t sum = 0;
    for (const std::string& path : daemon_.Segments()) {
      struct stat info {};
      EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
      sum += info.st_blocks;
    }
    return sum;
  }
  // One life of the pool. Every other one is of chunks that nobody takes from idle threads' caches.
  void Round(int round) {
    const int64_t published = Published();
    const int64_t count = round % 2 == 0 ? 16 : 4096;
    ASSERT_NO_FATAL_FAILURE(Create(round % 2 == 0 ? 65536 : 1024, count, count * 2));
    ASSERT_TRUE(Await("loan", [&] { return Loans() >= 64; }));
    ASSERT_NO_FATAL_FAILURE(Grow(count + count / 2));
    ASSERT_NO_FATAL_FAILURE(Delete());
    ASSERT_TRUE(Await("end of the pool", [&] { return Gone(); }));
    ASSERT_TRUE(Await("message", [&] { return Published() > published; }));
    ExpectAuditClean();
  }

  testing::DaemonProcess daemon_{{"--pool", "stable=4KiBx256", "--channel", "one=stable,queue=16",
                                  "--channel", "two=stable,queue=16"}};
  testing::TempDir dir_;
  std::vector<std::string> errors_;  // files of the clients
  std::unique_ptr<v1::AdminService::Stub> admin_;
  std::unique_ptr<v1::ObserverService::Stub> observer_;
};

TEST_F(PoolChurnTest, ClientsStreamOnWhileAPoolComesAndGoes) {
  const char* text = std::getenv("ZEROCP_CHURN_SECONDS");
  const std::chrono::seconds time(text == nullptr ? 4 : std::atoi(text));
  std::vector<std::unique_ptr<testing::ChildProcess>> producers;
  std::vector<std::unique_ptr<testing::ChildProcess>> consumers;
  for (const char* channel : {"one", "two"}) {
    consumers.push_back(Start("--consume", channel));
    producers.push_back(Start("--produce", channel));
  }
  ASSERT_TRUE(Await("stream", [&] { return Published() > 0; }));
  const int64_t blocks = Blocks();
  int rounds = 0;
  for (const auto end = Clock::now() + time; Clock::now() < end && !HasFailure(); ++rounds)
    Round(rounds);
  const int64_t published = Published();

  for (auto& producer : producers) producer->Signal(SIGTERM);
  for (auto& producer : producers) EXPECT_EQ(producer->Wait(), 0);
  for (auto& consumer : consumers) EXPECT_EQ(consumer->Wait(), 0);
  for (const std::string& path : errors_) EXPECT_EQ(testing::ReadFile(path), "");
  std::printf("%d pools in %lld s, %lld messages on the least busy channel\n", rounds,
              static_cast<long long>(time.count()), static_cast<long long>(published));
  EXPECT_GE(rounds, 2);
  ASSERT_TRUE(Await("return of the memory", [&] { return Blocks() <= blocks; }));
  ExpectAuditClean();
}

}  // namespace
}  // namespace zerocp

int main(int argc, char** argv) {
  const std::string role = argc == 4 ? argv[1] : "";
  if (role == "--produce") return zerocp::Produce(argv[2], argv[3]);
  if (role == "--consume") return zerocp::Consume(argv[2], argv[3]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
