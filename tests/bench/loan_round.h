// How fast chunks are loaned and released, for works that look at it while something else happens.
#pragma once

#include <zerocp/zerocp.h>

#include <chrono>
#include <string>
#include <vector>

#include "tests/bench/must.h"
#include "tests/bench/report.h"

namespace zerocp::bench {

inline constexpr size_t kLoanRoundBytes = 1024;

// Nanoseconds of a loan and its release, of the median batch of 1,000, after 400 ms.
inline double LoanRound(Client& client, const std::string& pool) {
  using Clock = std::chrono::steady_clock;
  constexpr int kBatch = 1000;
  std::vector<double> batches;
  for (const auto end = Clock::now() + std::chrono::milliseconds(400); Clock::now() < end;) {
    const auto start = Clock::now();
    for (int i = 0; i < kBatch; ++i) (void)Must(client.NewLoan(pool, kLoanRoundBytes), "loan");
    batches.push_back(std::chrono::duration<double, std::nano>(Clock::now() - start).count() /
                      kBatch);
  }
  return Quantile(batches, 0.5);
}

}  // namespace zerocp::bench
