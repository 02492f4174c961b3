// Pools that grow by themselves, from the command line to the client's loan.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <string>
#include <utility>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/zerocp.h"

namespace zerocp {
namespace {

class AutoGrowTest : public ::testing::Test {
 protected:
  // Loans until it is refused. Waits for `patience` each time.
  Result<Loan> LoanAll(std::chrono::nanoseconds patience) {
    for (;;) {
      auto loan = client_.NewLoan("frames", 1, patience);
      if (!loan) return loan;
      loans_.push_back(std::move(*loan));
    }
  }
  static bool Says(const std::string& text, const std::string& wanted) {
    return text.find(wanted) != std::string::npos;
  }

  testing::DaemonProcess daemon_{{"--pool", "frames=64KiBx4,max=16,auto-grow"}};
  Client client_ = std::move(*Client::Connect({.runtime_dir = daemon_.runtime_dir()}));
  std::vector<Loan> loans_;
};

TEST_F(AutoGrowTest, LoansSucceedUntilThePoolHasItsMost) {
  const auto refused = LoanAll(std::chrono::seconds(1));
  EXPECT_EQ(refused.code(), Code::kExhausted);
  EXPECT_TRUE(Says(refused.message(), "has its max_chunk_count")) << refused.message();
  EXPECT_EQ(loans_.size(), 16u);
  const testing::Ran pools = testing::RunCommand(daemon_.Command({"pools"}));
  EXPECT_TRUE(Says(pools.output, "AUTO GROW")) << pools.output;
  EXPECT_TRUE(Says(daemon_.Log(), "pool frames grown by itself: 5 chunks, 4 before"))
      << daemon_.Log();
  loans_.clear();
  EXPECT_EQ(testing::RunCommand(daemon_.Command({"audit"})).exit_code, 0);
}

TEST_F(AutoGrowTest, WithoutADaemonTheMessageSaysSoAndTheNextDaemonGrowsIt) {
  daemon_.Stop(SIGKILL);
  const auto refused = LoanAll(std::chrono::nanoseconds(0));
  EXPECT_EQ(refused.code(), Code::kExhausted);
  EXPECT_TRUE(Says(refused.message(), "the daemon is busy or does not answer"))
      << refused.message();
  EXPECT_EQ(loans_.size(), 4u);
  daemon_.Start();
  auto loan = client_.NewLoan("frames", 1, std::nullopt);
  EXPECT_TRUE(loan) << loan.message();
}

}  // namespace
}  // namespace zerocp
