// Columns for people.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace zerocp::cli {

class Table {
 public:
  // A heading that starts with '>' has its column aligned to the right.
  explicit Table(std::vector<std::string> headings);
  // REQUIRES: as many cells as headings.
  void Add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // Lines with an end of line each, the headings first.
  std::string ToString() const;

 private:
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

// In the largest unit that leaves a whole number: "64 KiB"; "1.5 GiB" (rounded down) if it is not
// exact.
std::string FormatBytes(int64_t bytes);

}  // namespace zerocp::cli
