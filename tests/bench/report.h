// What a run measured, and how it is told.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/bench/subject.h"

namespace zerocp::bench {

// One subject's times at one work, in nanoseconds per operation.
struct Series {
  std::string work;
  std::string subject;
  int processes = 1;
  int64_t bytes = 0;
  std::string missing = {};                      // why there are no rounds
  std::vector<std::vector<double>> rounds = {};  // none of them empty

  std::vector<double> All() const;
};

// REQUIRES: `samples` is not empty; `fraction` from 0 to 1.
double Quantile(std::vector<double> samples, double fraction);

// How a work's first subject, zerocp, is to stand beside another one of it.
struct Goal {
  std::string against;
  double goal = 0;        // of the ratio, at most
  double limit = 0;       // of --quick; 0: twice the goal
  double quantile = 0.5;  // of the times of a round
};

// zerocp / against: small is good. The subjects take turns, so each round has a neighbour in time,
// and what is told is the median of their ratios, with the quartiles: a machine that is faster for
// a while is so for both.
struct Ratio {
  std::string work;
  std::string against;
  double ratio = 0;
  double lower = 0;
  double upper = 0;
  double goal = 0;   // at most this; 0: there is none
  double limit = 0;  // more than this, and something has gone wrong; 0: there is none
  bool holds() const { return goal == 0 || ratio <= goal; }
  bool beyond() const { return limit != 0 && ratio > limit; }
};

// REQUIRES: as many rounds of both.
Ratio Compare(const Series& subject, const Series& against, const Goal& goal);

struct Report {
  std::vector<Peer> peers;
  std::vector<Series> results;
  std::vector<Ratio> ratios;
  std::vector<MemoryRow> memory;
};

void PrintTable(const Report& report);
// Returns false, with a message on stderr, if the file cannot be written.
bool WriteJson(const std::string& path, const Report& report);

}  // namespace zerocp::bench
