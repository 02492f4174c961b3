// Channels: policy over shm::ChannelRegistry.
//
// Threads. All functions from any thread; each holds core.mutex for as long as it lasts.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/core.h"
#include "server/pool_manager.h"
#include "shm/channel_registry.h"

namespace zerocp {

struct ChannelInfo {
  shm::ChannelSpec spec;  // every field as it is in force
  uint32_t max_subscriber_count = 0;
  std::string etag;  // strong, quotes included; empty in a preview
};

struct CreatedChannel {
  ChannelInfo channel;
  bool created = false;  // false: it existed, or was only validated
};

struct SubscriberStats {
  uint32_t index = 0;
  uint32_t epoch = 0;
  uint16_t session = 0;
  bool detached = false;  // by an operator
  uint64_t queued_count = 0;
  uint64_t fullest_queued_count = 0;
  uint32_t queue_capacity = 0;
  uint64_t taken_count = 0;
  uint64_t missed_count = 0;
  uint64_t held_count = 0;                   // PoolWatch knows
  std::chrono::milliseconds stalled_for{0};  // TroubleWatch knows
};

struct ChannelStats {
  std::string name;
  uint32_t index = 0;
  uint32_t publisher_count = 0;
  uint64_t published_count = 0;
  uint64_t waited_count = 0;
  std::vector<SubscriberStats> subscribers;  // the longest queue first
};

// "WHEN_FULL_WAIT".
std::string_view NameOf(shm::WhenFull when_full);
// "channels/video".
std::string ChannelResource(std::string_view name);

// Names a subscriber for as long as it is one: its index in the channel, and which user of that
// index it is.
struct SubscriberName {
  std::string channel;
  uint32_t index = 0;
  uint32_t epoch = 0;
};
// "channels/video/subscribers/0-1".
std::string SubscriberResource(const SubscriberName& name);

class ChannelManager {
 public:
  // REQUIRES: `core` outlives this, and its registry has adopted what there was.
  explicit ChannelManager(Core& core) : core_(core) {}

  // FIELD_INVALID, POOL_NOT_FOUND, CHANNEL_ALREADY_EXISTS, CHANNEL_LIMIT, SEGMENT_FULL,
  // SHM_FILESYSTEM_FULL, MEMORY_LIMIT.
  absl::StatusOr<CreatedChannel> Create(const shm::ChannelSpec& wanted, CreateMode mode = {});
  // CHANNEL_NOT_FOUND.
  absl::StatusOr<ChannelInfo> Get(std::string_view name);
  // At most `limit`, in name order, those after the name `after`.
  std::vector<ChannelInfo> List(std::string_view after = {}, size_t limit = SIZE_MAX);
  // Takes the name away; the channel itself goes with its last member. With `even_if_in_use` its
  // members are told, else CHANNEL_IN_USE. CHANNEL_NOT_FOUND unless `allow_missing`. ETAG_MISMATCH
  // if `etag` is not empty and not the channel's.
  absl::Status Delete(std::string_view name, bool even_if_in_use, bool allow_missing,
                      std::string_view etag = {});
  struct Detached {
    uint64_t queued_count = 0;  // messages that waited for it
    bool before = false;        // it was taken off already
  };
  // Takes a subscriber off its channel. SUBSCRIBER_NOT_FOUND.
  absl::StatusOr<Detached> DetachSubscriber(const SubscriberName& name);
  // In name order.
  std::vector<ChannelStats> Stats();
  // Checks every invariant of pools and channels; long for large pools.
  shm::AuditReport Audit();
  // The spec with each default filled in.
  static shm::ChannelSpec WithDefaults(shm::ChannelSpec spec);
  // A field in which a channel is not as it is wanted; none can change.
  struct Difference {
    const char* field;
    std::string wanted, actual;
  };
  // In field order. A `queue_capacity` left 0 agrees.
  static std::vector<Difference> Differences(const shm::ChannelSpec& wanted,
                                             const shm::ChannelSpec& actual);

 private:
  absl::Status CheckSpace(const ChannelInfo& channel) ZEROCP_REQUIRES(core_.mutex);

  Core& core_;
};

}  // namespace zerocp
