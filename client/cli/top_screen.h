// What `zerocp top` shows, as lines: without a terminal.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "client/cli/table.h"
#include "zerocp/v1/observer_service.pb.h"

namespace zerocp::cli {

struct TopView {
  v1::GetServerInfoResponse info;
  v1::Stats now;
  v1::Stats before;  // for rates; without a time: there are none yet
  std::vector<v1::HolderSummary> holders;
  std::string trouble;  // why the numbers are old; empty: they are not
  double interval_s = 1;
  bool paused = false;
};

// Exactly `height` lines, none longer than `width`: what it is, pools, channels with the slowest
// subscriber (those that are stalled first), holders (the oldest first), the keys. Where there is
// no room, the last line of a part says how many are left out. REQUIRES: at least 40 by 10.
std::vector<Table::Line> TopScreen(const TopView& view, size_t width, size_t height);

}  // namespace zerocp::cli
