// Columns for people.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace zerocp::cli {

// How a line is coloured, where colour is wanted; what is worse is greater.
enum class Tone { kPlain, kGood, kWarning, kBad, kHeading };

// Colour only on a terminal, and not under $NO_COLOR or TERM=dumb.
bool WantsColour();
// `text` in the tone's colour, if colour is wanted.
std::string Coloured(Tone tone, const std::string& text);

class Table {
 public:
  // A heading that starts with '>' has its column aligned to the right.
  explicit Table(std::vector<std::string> headings);
  // REQUIRES: as many cells as headings.
  void Add(std::vector<std::string> cells, Tone tone = Tone::kPlain) {
    rows_.push_back({std::move(cells), tone});
  }
  // A line each, the headings first.
  struct Line {
    std::string text;
    Tone tone;
  };
  std::vector<Line> Lines() const;
  // The same with an end of line each.
  std::string ToString() const;

 private:
  struct Row {
    std::vector<std::string> cells;
    Tone tone;
  };
  std::vector<bool> right_;
  std::vector<Row> rows_;
};

// In the largest unit that leaves a whole number: "64 KiB"; "1.5 GiB" (rounded down) if it is not
// exact.
std::string FormatBytes(int64_t bytes);

}  // namespace zerocp::cli
