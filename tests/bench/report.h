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
  // One per round trip (ping_pong) or batch (loan_release), or the median of a round's batches.
  std::vector<double> samples;

  void Append(const Series& more) {
    samples.insert(samples.end(), more.samples.begin(), more.samples.end());
  }
};
// A work's two series: as many samples of both, in the order in which they were taken.
struct Pair {
  Series subject;
  Series against;
};

// REQUIRES: `samples` is not empty; `fraction` from 0 to 1.
double Quantile(std::vector<double> samples, double fraction);

// subject / against. Small is good for zerocp. The two take turns, so each sample has a neighbour
// in time, and what is told is the median of their ratios, with the quartiles: a machine that is
// faster for a while is so for both.
struct Ratio {
  std::string work;
  std::string against;
  double ratio = 0;
  double lower = 0;
  double upper = 0;
  double goal = 0;   // at most this
  double limit = 0;  // more than this, and something has gone wrong with the hot path
  bool holds() const { return ratio <= goal; }
};

Ratio Compare(const Pair& pair, double goal, double limit);

void PrintTable(const std::vector<Series>& results, const std::vector<Ratio>& ratios);
// Returns false, with a message on stderr, if the file cannot be written.
bool WriteJson(const std::string& path, const std::vector<Series>& results,
               const std::vector<Ratio>& ratios);

}  // namespace zerocp::bench
