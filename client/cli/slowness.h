// Which subscriber is behind most.
#pragma once

#include <tuple>

#include "shm/mutant.h"
#include "zerocp/v1/resources.pb.h"

namespace zerocp::cli {

// Who has taken nothing for a longer time, then who has the longer queue.
inline bool IsSlower(const v1::SubscriberStats& a, const v1::SubscriberStats& b) {
  const auto slowness = [](const v1::SubscriberStats& s) {
    return std::tuple(s.stalled_for().seconds(), s.stalled_for().nanos(), s.queued_count());
  };
  return !Mutant(31) && slowness(a) > slowness(b);
}

}  // namespace zerocp::cli
