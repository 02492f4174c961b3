// What channels and subscribers are wanted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shm/layout.h"
#include "shm/mem_pool_config.h"

namespace zerocp::shm {

struct ChannelSpec {
  std::string name;             // as for pools
  std::string pool;             // name of an existing pool
  uint32_t queue_capacity = 0;  // 1 to kMaxQueueCapacity, rounded up to a power of two; 0: 16
  std::string message_type;     // at most kMessageTypeBytes characters
  WhenFull when_full = WhenFull::kWait;
  uint32_t max_held_count = 0;  // samples one subscriber may hold at once; 0: not limited
  uint32_t history_count = 0;   // last messages of a publisher that it keeps; at most the queue's
};
// Everything that is wrong with `spec`, in field order; empty if nothing is.
std::vector<Violation> Validate(const ChannelSpec& spec);

// What a subscriber asks for.
struct SubscriberSpec {
  uint32_t queue_capacity = 0;  // 1 to the channel's; 0: the channel's
  bool lossy = false;           // served by dropping on a waiting channel too
};

}  // namespace zerocp::shm
