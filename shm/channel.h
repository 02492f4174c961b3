// Channels as they lie in the management segment: typed views over a channel's and a lane's bytes.
//
// A channel is a ChannelHeader, its SubscriberEntry array and kLaneEntries LaneEntry; each
// publisher has a lane of its own: Lane, one Cursor per subscriber index, and a ring of cells. Only
// the daemon writes the channel's tables (channel_registry.h); publisher_port.h and
// subscriber_port.h move messages.
#pragma once

#include <atomic>
#include <cstdint>

#include "shm/encoding.h"
#include "shm/layout.h"

namespace zerocp::shm {

// What fixes the size of a channel's structures. From the daemon's private memory, or its reply.
struct ChannelGeometry {
  uint64_t region_offset = 0;
  uint32_t queue_capacity = 0;  // power of two
  uint16_t max_subscriber_count = 0;

  uint64_t region_bytes() const {
    return sizeof(ChannelHeader) + uint64_t{max_subscriber_count} * sizeof(SubscriberEntry) +
           uint64_t{kLaneEntries} * sizeof(LaneEntry);
  }
  uint64_t lane_bytes() const {
    return sizeof(Lane) + uint64_t{max_subscriber_count} * sizeof(Cursor) +
           uint64_t{queue_capacity} * sizeof(uint64_t);
  }
};

struct ChannelView {
  ChannelHeader* header = nullptr;
  SubscriberEntry* subscribers = nullptr;
  LaneEntry* lanes = nullptr;
  ChannelGeometry geometry;

  static ChannelView At(std::byte* region, const ChannelGeometry& geometry) {
    ChannelView view;
    view.geometry = geometry;
    view.header = reinterpret_cast<ChannelHeader*>(region);
    view.subscribers = reinterpret_cast<SubscriberEntry*>(view.header + 1);
    view.lanes = reinterpret_cast<LaneEntry*>(view.subscribers + geometry.max_subscriber_count);
    return view;
  }
};

struct LaneView {
  Lane* lane = nullptr;
  Cursor* cursors = nullptr;
  std::atomic<uint64_t>* cells = nullptr;
  uint32_t capacity = 0;

  static LaneView At(std::byte* bytes, const ChannelGeometry& geometry) {
    LaneView view;
    view.lane = reinterpret_cast<Lane*>(bytes);
    view.cursors = reinterpret_cast<Cursor*>(view.lane + 1);
    view.cells =
        reinterpret_cast<std::atomic<uint64_t>*>(view.cursors + geometry.max_subscriber_count);
    view.capacity = geometry.queue_capacity;
    return view;
  }
  std::atomic<uint64_t>& cell(uint64_t position) const { return cells[position & (capacity - 1)]; }
};

}  // namespace zerocp::shm
