// Loans and releases that a program does without a call into the library: what makes the library
// take them back.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <barrier>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

constexpr int kChunks = 4096;  // so many that threads keep chunks of their own

class InlinedLoan : public ::testing::Test {
 protected:
  Client Connect() {
    auto client = Client::Connect({.name = "inlining", .runtime_dir = daemon_.runtime_dir()});
    EXPECT_TRUE(client) << client.message();
    return std::move(*client);
  }
  static Publisher Join(Client& client) {
    auto publisher = client.JoinAsPublisher("ticks");
    EXPECT_TRUE(publisher) << publisher.message();
    (void)publisher->NewLoan(1);  // this thread has chunks from here on
    return std::move(*publisher);
  }
  static bool IsMapped() {
    return testing::ReadFile("/proc/self/maps").find("memory_chunk") != std::string::npos;
  }
  void ExpectAllFree() {
    const std::string stats = testing::RunCommand(daemon_.Command({"stats", "-o", "json"})).output;
    EXPECT_NE(stats.find("\"free_chunk_count\": \"" + std::to_string(kChunks) + "\""),
              std::string::npos)
        << stats;
  }

  testing::DaemonProcess daemon_{
      {"--pool", "small=64x" + std::to_string(kChunks), "--channel", "ticks=small"}};
};

TEST_F(InlinedLoan, ReleasesThatRaceWithTheCloseDetachExactlyOnce) {
  for (int round = 0; round < 200; ++round) {
    Client client = Connect();
    std::barrier start(3);
    const auto release_at_the_start = [&] {
      Loan loan = std::move(*client.NewLoan("small", 1));
      start.arrive_and_wait();
      loan = Loan();
    };
    std::thread first(release_at_the_start), second(release_at_the_start);
    start.arrive_and_wait();
    client = Client();
    first.join();
    second.join();
    ASSERT_FALSE(IsMapped()) << round;
  }
  ExpectAllFree();
}

TEST_F(InlinedLoan, TheLastReleaseDetaches) {
  Loan loan = std::move(*Join(*std::make_unique<Client>(Connect())).NewLoan(1));
  EXPECT_TRUE(IsMapped());
  loan = Loan();
  EXPECT_FALSE(IsMapped());
}

TEST_F(InlinedLoan, APublisherAndItsLoansMayMoveFromThreadToThread) {
  Client client = Connect();
  Publisher publisher = Join(client);
  std::vector<Loan> loans;
  for (int i = 0; i < 100; ++i) {
    std::thread([&] {
      loans.push_back(std::move(*publisher.NewLoan(1)));
      if (i % 2 == 1) loans.erase(loans.begin());  // another thread's
    }).join();
    auto mine = publisher.NewLoan(1);
    ASSERT_TRUE(mine) << mine.message();
    if (i % 3 == 0) loans.push_back(std::move(*mine));
  }
  loans.clear();
  publisher = Publisher();
  client = Client();
  EXPECT_FALSE(IsMapped());
  ExpectAllFree();
}

TEST_F(InlinedLoan, ChildOfAForkIsRefusedAndHarmsNothing) {
  Client client = Connect();
  Publisher publisher = Join(client);
  auto loan = publisher.NewLoan(1);
  ASSERT_TRUE(loan);
  const pid_t child = fork();
  if (child == 0) {
    const bool refused = publisher.NewLoan(1).code() == Code::kUnavailable;
    *loan = Loan();
    _exit(refused ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(publisher.Publish(*loan));
}

TEST_F(InlinedLoan, ALoanOfACacheOfAnotherVersionIsLeftToTheLibrary) {
  internal::LoanCache later;
  later.version = internal::LoanCache::kVersion + 1;
  EXPECT_EQ(internal::CacheOf(internal::LoanOf(later, 0, 1)), &internal::kNoLoanCache);
  internal::LoanCache same;
  EXPECT_EQ(internal::CacheOf(internal::LoanOf(same, 0, 1)), &same);
}

}  // namespace
}  // namespace zerocp
