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

// A living subscriber that was stopped (ChannelRegistry::StopSubscriber) may still be in the middle
// of one take: that of the message at its cursor. So its publisher keeps that one message for it,
// takes back those behind it, and says both in `given_up`, which the daemon, too, claims before it
// drains for a subscriber that has left or died since. Whoever is first decides.

// Claims what waits for the stopped subscriber of `epoch`, from `position` on. False: it is
// claimed.
inline bool ClaimStopped(Cursor& cursor, uint32_t epoch, uint64_t position) {
  // STEP given_up.claim
  uint64_t before = cursor.given_up.load(std::memory_order_acquire);
  return CursorEpoch(before) != epoch && cursor.given_up.compare_exchange_strong(
                                             before, CursorWith(0, epoch, position),
                                             std::memory_order_acq_rel);  // PAIR cursor.given_up
}
// True if the publisher has taken back what waited for the subscriber of `epoch`, but for the
// message at `*position`, which is `kept_cell`.
inline bool IsGivenUp(const Cursor& cursor, uint32_t epoch, uint64_t* position) {
  // STEP given_up.look
  const uint64_t given_up = cursor.given_up.load(std::memory_order_acquire);
  *position = CursorPosition(given_up);
  return epoch != 0 && CursorEpoch(given_up) == epoch && *position != kPositionMask;
}

}  // namespace zerocp::shm
