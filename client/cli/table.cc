#include "client/cli/table.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <iterator>
#include <string_view>
#include <utility>

namespace zerocp::cli {
namespace {

// Columns that a text in UTF-8 takes; each character is taken for one.
size_t WidthOf(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

bool WantsColour() {
  static const bool wanted = [] {
    const char* const off = std::getenv("NO_COLOR");
    const char* const term = std::getenv("TERM");
    return isatty(STDOUT_FILENO) == 1 && (off == nullptr || *off == 0) && term != nullptr &&
           std::string_view(term) != "dumb";
  }();
  return wanted;
}

std::string Coloured(Tone tone, const std::string& text) {
  constexpr const char* kCodes[] = {"", "32", "33", "31", "1"};
  if (tone == Tone::kPlain || !WantsColour()) return text;
  return std::string("\033[") + kCodes[static_cast<int>(tone)] + "m" + text + "\033[0m";
}

Table::Table(std::vector<std::string> headings) {
  for (std::string& heading : headings) {
    right_.push_back(heading.starts_with('>'));
    if (right_.back()) heading.erase(0, 1);
  }
  rows_.push_back({std::move(headings), Tone::kHeading});
}

std::vector<Table::Line> Table::Lines() const {
  std::vector<size_t> widths(right_.size(), 0);
  for (const Row& row : rows_) {
    for (size_t column = 0; column < row.cells.size(); ++column)
      widths[column] = std::max(widths[column], WidthOf(row.cells[column]));
  }
  std::vector<Line> lines;
  for (const Row& row : rows_) {
    std::string line;
    for (size_t column = 0; column < row.cells.size(); ++column) {
      const std::string& cell = row.cells[column];
      const std::string padding(widths[column] - WidthOf(cell), ' ');
      if (column > 0) line += "  ";
      line += right_[column] ? padding + cell : cell + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    lines.push_back({std::move(line), row.tone});
  }
  return lines;
}

std::string Table::ToString() const {
  std::string text;
  for (const Line& line : Lines()) text += Coloured(line.tone, line.text) + '\n';
  return text;
}

std::string FormatBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  int64_t scale = 1;
  while (unit + 1 < std::size(kUnits) && bytes / scale >= 1024) {
    scale *= 1024;
    ++unit;
  }
  std::string text = std::to_string(bytes / scale);
  if (bytes % scale != 0) text += "." + std::to_string(bytes % scale * 10 / scale);
  return text + " " + kUnits[unit];
}

}  // namespace zerocp::cli
