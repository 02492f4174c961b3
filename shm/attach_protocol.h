// The attach protocol: how a local process gets the two descriptors, and joins and leaves channels.
//
// A SOCK_SEQPACKET Unix socket; each request is one packet of exactly sizeof(AttachRequest),
// answered by one of exactly sizeof(AttachReply). All numbers little endian (this build refuses
// other machines); all reserved bytes zero, and checked. The first request is kAttach; the reply
// carries the two descriptors (management, chunk) by SCM_RIGHTS; that of the chunk segment was
// opened for reading only if the session is read-only. The connection then stays open for as long
// as the process may touch the segments: its end is how the daemon notices. kDetach says that it no
// longer will. Requests are answered in order. A malformed packet ends the connection after a
// kInvalid reply.
//
// kReconnect takes kAttach's place for a process whose connection ended, in a daemon's restart
// above all, and which still maps the segments: with the session id and the cookie that its kAttach
// brought it has its session back, with everything in it. Only the process that attached can: the
// daemon compares process id, start time and user as the kernel tells them. A request that was
// under way when the connection ended may have been carried out or not: the client finds its
// session's entries in the channels' tables and leaves those that it was not told of.
//
// Refusals of tokens all look the same to the client, and so do those of cookies (kInstanceLost);
// the daemon's log says more.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "shm/channel_registry.h"
#include "shm/layout.h"
#include "shm/status.h"

namespace zerocp::shm {

static_assert(std::endian::native == std::endian::little);

inline constexpr uint32_t kAttachMagic = 0x41435a01;  // "\1ZCA"
inline constexpr uint32_t kAttachVersion = 2;
inline constexpr size_t kTokenBytes = 32;
inline constexpr size_t kCookieBytes = 16;

enum class AttachOp : uint32_t {
  kAttach = 1,
  kJoinPublisher = 2,
  kJoinSubscriber = 3,
  kLeavePublisher = 4,
  kLeaveSubscriber = 5,
  kDetach = 6,
  kReconnect = 7,
};

struct AttachRequest {
  uint32_t magic;
  uint32_t version;         // kAttachVersion
  uint32_t op;              // AttachOp
  uint32_t layout_version;  // kAttach, kReconnect: the client's kLayoutVersion; else 0
  uint32_t limits_hash;     // kAttach, kReconnect: the client's LimitsHash(); else 0
  uint32_t has_token;       // kAttach: 0, the kernel vouches for the peer; 1, `token` is redeemed
  uint8_t token[kTokenBytes];
  char name[kNameBytes];                 // kAttach: label of the client; kJoin...: the channel
  char message_type[kMessageTypeBytes];  // kJoin...: empty: not checked
  uint32_t channel;                      // kLeave...: index in the channel table
  uint32_t index;                        // kLeave...: of the lane or of the subscriber
  uint32_t read_only;                    // kAttach: 1, no right to write payloads is wanted
  uint32_t session;                      // kReconnect
  uint8_t cookie[kCookieBytes];          // kReconnect
  uint32_t queue_capacity;               // kJoinSubscriber: 0: the channel's
  uint32_t lossy;                        // kJoinSubscriber: 1: served by dropping
};

struct AttachReply {
  uint32_t magic;
  uint32_t version;
  uint32_t op;   // as in the request
  int32_t code;  // Code; the rest is only set if kOk, but for `message` and layout_version
  uint32_t layout_version;
  uint32_t session;  // kAttach, kReconnect: this process's session id
  uint64_t management_reserved_bytes;
  uint64_t chunk_reserved_bytes;
  uint8_t instance_uuid[16];
  // kJoin...: JoinInfo.
  uint32_t channel;
  uint32_t pool;
  uint64_t region_offset;
  uint32_t queue_capacity;
  uint32_t max_subscriber_count;
  uint32_t index;
  uint32_t epoch;
  uint64_t lane_offset;
  uint64_t ended_lanes;
  uint32_t read_only;            // kAttach: 1, the chunk segment's descriptor is for reading only
  uint32_t max_held_count;       // kJoinSubscriber
  uint8_t cookie[kCookieBytes];  // kAttach: for a kReconnect; secret
  uint32_t own_queue_capacity;
  uint32_t lossy;
  char message[244];       // what happened, for people; NUL terminated
  uint32_t history_count;  // kJoin...
};

static_assert(sizeof(AttachRequest) == 288 && sizeof(AttachReply) == 384);

inline void WriteJoinInfo(const JoinInfo& info, AttachReply* reply) {
  reply->channel = info.channel;
  reply->pool = info.pool;
  reply->region_offset = info.geometry.region_offset;
  reply->queue_capacity = info.geometry.queue_capacity;
  reply->max_subscriber_count = info.geometry.max_subscriber_count;
  reply->index = info.index;
  reply->epoch = info.epoch;
  reply->lane_offset = info.lane_offset;
  reply->ended_lanes = info.ended_lanes;
  reply->own_queue_capacity = info.queue_capacity;
  reply->lossy = info.lossy ? 1 : 0;
  reply->max_held_count = info.max_held_count;
  reply->history_count = info.history_count;
}

inline JoinInfo ReadJoinInfo(const AttachReply& reply) {
  return {reply.channel,
          reply.pool,
          {reply.region_offset, reply.queue_capacity,
           static_cast<uint16_t>(reply.max_subscriber_count)},
          reply.index,
          reply.epoch,
          reply.lane_offset,
          reply.ended_lanes,
          reply.own_queue_capacity,
          reply.lossy != 0,
          reply.max_held_count,
          reply.history_count};
}

}  // namespace zerocp::shm
