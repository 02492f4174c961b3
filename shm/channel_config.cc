#include "shm/channel_config.h"

#include <algorithm>
#include <bit>

namespace zerocp::shm {

std::vector<Violation> Validate(const ChannelSpec& spec) {
  std::vector<Violation> found;
  if (!IsValidName(spec.name))
    found.push_back({"name", "must match [a-z]([a-z0-9-]{0,61}[a-z0-9])?"});
  if (!IsValidName(spec.pool)) found.push_back({"pool", "must be the name of a pool"});
  if (spec.queue_capacity > kMaxQueueCapacity) {
    found.push_back(
        {"queue_capacity", "must be 0, or from 1 to " + std::to_string(kMaxQueueCapacity)});
  }
  if (spec.max_held_count > kMaxChunksPerPool) {
    found.push_back(
        {"max_held_count", "must be 0, or from 1 to " + std::to_string(kMaxChunksPerPool)});
  }
  const uint32_t queue =
      std::bit_ceil(spec.queue_capacity == 0 ? kDefaultQueueCapacity
                                             : std::min(spec.queue_capacity, kMaxQueueCapacity));
  if (spec.history_count > queue) {
    found.push_back(
        {"history_count", "must be at most queue_capacity, which is " + std::to_string(queue)});
  }
  const auto is_printable = [](char c) { return c >= ' ' && c <= '~'; };
  if (spec.message_type.size() > kMessageTypeBytes ||
      !std::all_of(spec.message_type.begin(), spec.message_type.end(), is_printable)) {
    found.push_back({"message_type", "must be at most " + std::to_string(kMessageTypeBytes) +
                                         " printable ASCII characters"});
  }
  return found;
}

}  // namespace zerocp::shm
