// The whole terminal, by curses.
#pragma once

#include <chrono>
#include <memory>

#include "client/cli/table.h"
#include "client/cli/top_screen.h"

namespace zerocp::cli {

// One at a time, after CatchStopSignals. The terminal is as it was when this object has gone, and
// when a signal that can be caught ends the process.
class Terminal {
 public:
  // REQUIRES: standard input and output are terminals. nullptr: the reason is printed.
  static std::unique_ptr<Terminal> Open();
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void Draw(const TopView& view) const;
  // The key that was pressed within this time; kNoKey: none. Not of those that are characters: the
  // terminal has another size.
  static int Key(std::chrono::milliseconds wait);
  static constexpr int kNoKey = -1;

 private:
  Terminal();
  bool coloured_ = false;
};

}  // namespace zerocp::cli
