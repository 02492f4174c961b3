// What a run measured, and how it is told.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace zerocp::bench {

// Times of one subject at one work, in nanoseconds per operation.
struct Series {
  std::string work;
  std::string subject;
  int processes = 1;
  int64_t bytes = 0;
  std::vector<double> samples;  // one per batch (loan_release) or per round trip (ping_pong)

  // REQUIRES: samples is not empty; `fraction` from 0 to 1.
  double Quantile(double fraction) const;
};

// subject / against, of medians. Small is good for zerocp.
struct Ratio {
  std::string work;
  std::string against;
  double ratio = 0;
  double goal = 0;   // at most this
  double limit = 0;  // more than this, and something has gone wrong with the hot path
  bool holds() const { return ratio <= goal; }
};

void PrintTable(const std::vector<Series>& results, const std::vector<Ratio>& ratios);
// Returns false, with a message on stderr, if the file cannot be written.
bool WriteJson(const std::string& path, const std::vector<Series>& results,
               const std::vector<Ratio>& ratios);

}  // namespace zerocp::bench
