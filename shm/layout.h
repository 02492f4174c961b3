// The bytes of the two segments. shm/README.md is the normative text; every number in it is
// asserted here.
//
// What. The management segment: super block, pool table, session table, channel table, then extents
// (pool regions, channels, lanes) that the daemon hands out in pages. The chunk segment: per pool
// an array of chunk headers and an array of payloads, in extents too. Offsets and indices only,
// never a pointer, because every process maps the segments elsewhere.
//
// Invariants. L1: `magic` is stored last, so a super block with it is complete; until then
// kUnfinishedMagic stands there, stored first. L2: every field is
// an atomic, or constant once its entry's state says so; a reader that comes too early may see a
// label half-written, never an offset. L3: all-zero bytes are a valid empty state of every
// structure, so fresh pages need no initialisation.
//
// Threads and processes. The daemon writes super block, pool table, session and channel table;
// clients write what is marked (C). A hostile client can write anything: the daemon copies, checks,
// then uses, and takes its own geometry from private memory.
//
// Crash. A daemon killed while it creates an instance leaves an empty management segment or
// kUnfinishedMagic: the next start begins anew.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace zerocp::shm {

inline constexpr uint64_t kMagic = 0x3170636f72657a00;            // "\0zerocp1", little endian
inline constexpr uint64_t kUnfinishedMagic = 0x3070636f72657a00;  // "\0zerocp0": being created
inline constexpr uint32_t kLayoutVersion = 6;

inline constexpr uint32_t kMaxPools = 16;
inline constexpr uint32_t kMaxChunksPerPool = 1u << 24;
inline constexpr uint64_t kMinChunkSizeBytes = 64;
inline constexpr uint64_t kMaxChunkSizeBytes = uint64_t{4} << 30;
inline constexpr uint32_t kMinAlignmentBytes = 64;
inline constexpr uint32_t kMaxAlignmentBytes = 4096;  // more than a page no mapping promises
inline constexpr uint32_t kOpenSlots = 8;  // of a record's slots, those for openers of a handle
inline constexpr uint32_t kMinHolders = 12;
inline constexpr uint32_t kMaxHolders = 1016;
inline constexpr uint32_t kDefaultHolders = 24;
inline constexpr uint32_t kDefaultSessionCapacity = 4096;
inline constexpr uint32_t kMaxSessionCapacity = 16381;
inline constexpr uint32_t kMaxChannels = 1024;
inline constexpr uint32_t kMaxSubscribers = 64;  // one bit each in ChannelHeader::waiters
inline constexpr uint32_t kMaxPublishers = 32;   // per channel, at once
inline constexpr uint32_t kLaneEntries =
    2 * kMaxPublishers;  // closed lanes wait here to be emptied
inline constexpr uint32_t kMaxQueueCapacity = 65536;
inline constexpr uint32_t kDefaultQueueCapacity = 16;
inline constexpr size_t kNameBytes = 64;  // names are at most 63 characters and a NUL
inline constexpr size_t kMessageTypeBytes = 128;
inline constexpr size_t kUserHeaderBytes = 64;
inline constexpr size_t kLine = 64;  // bytes that move between cores together
inline constexpr uint64_t kExtentAlign =
    65536;  // a multiple of every page size Linux uses with tmpfs

// Session ids are 14 bits: 0 is nobody, 1 the daemon, 16383 is never given out.
inline constexpr uint16_t kDaemonSession = 1;
inline constexpr uint16_t kFirstSession = 2;

// What a client built with other limits would misread. Stored in the super block, compared at
// attach.
constexpr uint32_t LimitsHash() {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a, 64 bit, folded
  for (uint64_t value : {uint64_t{kMaxPools}, uint64_t{kMaxChunksPerPool}, uint64_t{kOpenSlots},
                         uint64_t{kMaxChannels}, uint64_t{kMaxSubscribers}, uint64_t{kLaneEntries},
                         uint64_t{kNameBytes}, uint64_t{kMessageTypeBytes},
                         uint64_t{kUserHeaderBytes}, uint64_t{kExtentAlign}}) {
    for (int byte = 0; byte < 8; ++byte) {
      hash = (hash ^ ((value >> (8 * byte)) & 0xff)) * 0x100000001b3;
    }
  }
  return static_cast<uint32_t>(hash ^ (hash >> 32));
}

//   0        8         12      16        24              40        48          56
//   | magic  | version | hash  | features | instance uuid | mgmt    | chunk     | tables ...
struct SuperBlock {
  std::atomic<uint64_t> magic;  // PAIR superblock.magic
  uint32_t layout_version;
  uint32_t limits_hash;
  uint64_t feature_bits;  // none yet: must be 0
  uint8_t instance_uuid[16];
  uint64_t management_reserved_bytes;  // address range a client must map
  uint64_t chunk_reserved_bytes;
  uint32_t session_capacity;  // entries in the session table, index = session id
  uint32_t channel_capacity;
  uint64_t pool_table_offset;
  uint64_t session_table_offset;
  uint64_t channel_table_offset;
  uint64_t extents_offset;  // first byte that pool regions, channels and lanes may use
  // The lock file of the daemon that made the segments: whoever holds it owns them.
  uint64_t lock_device;
  uint64_t lock_inode;
  char lock_path[1024];
  char instance_name[kNameBytes];
  std::atomic<uint32_t> daemon_bell;  // (C) futex word; only ever added to: a pool is to grow
  // Loans and samples that one session has at once; 0: not limited. For sessions that attach.
  std::atomic<uint32_t> max_chunks_per_session;
  uint8_t reserved[2888];
};

enum class PoolState : uint32_t {
  kEmpty = 0,
  kActive = 1,
  kDraining = 2,  // being deleted: no new loans, gone with its last chunk
};

// Whether the daemon adds chunks to a pool when a loan finds none.
enum class AutoGrow : uint8_t {
  kOff = 0,
  kOn = 1,
  kPaused = 2,  // it would, but could not just now: nobody is to wait for it
};

struct MemPool {
  // Lines 0 and 1: written by the daemon, constant while the state is kActive, but for chunk_count,
  // auto_grow and the counters.
  std::atomic<uint32_t> state;        // PoolState, stored last  PAIR pool.state
  std::atomic<uint32_t> chunk_count;  // only grows  PAIR pool.chunk_count
  uint32_t max_chunk_count;
  uint32_t alignment_bytes;
  uint64_t chunk_size_bytes;  // usable bytes of one chunk
  uint64_t stride_bytes;      // from one chunk to the next, see StrideOf
  uint64_t records_offset;    // management segment: ChunkManager[max_chunk_count]
  uint64_t hints_offset;      // management segment: free list, see free_list.h
  uint64_t headers_offset;    // chunk segment: ChunkHeader[max_chunk_count]
  uint64_t payload_offset;    // chunk segment
  uint8_t incarnation;        // 1 to 15, part of every handle
  uint8_t record_shift;       // log2 of a record's bytes: 6 to 11
  uint8_t revocable;          // 1: anyone may take cached chunks back (session.h)
  // AutoGrow. (C) kOn to kPaused by who waited in vain; else the daemon's.
  std::atomic<uint8_t> auto_grow;
  uint16_t grant_slots;  // slots [0, grant_slots) are for subscribers, the rest for openers
  uint16_t slot_count;
  uint8_t uid[16];
  int64_t create_time_ns;  // CLOCK_REALTIME
  // Added to a record's generation in handles: those of the pools that were here before are stale.
  uint32_t generation_base;
  uint8_t reserved1[4];
  // Counters since the pool was created: for people, never believed.
  std::atomic<uint64_t> loan_count;             // (C) each thread adds its own now and then
  std::atomic<uint64_t> exhausted_count;        // (C) loans refused because nothing was free
  std::atomic<uint64_t> recovered_chunk_count;  // daemon: taken back from the dead
  // Line 2: anyone may write the first two (C).
  // Chunks a thread may keep: set by the daemon, 0 by who finds nothing. 0 for good once the pool
  // is being deleted, which relies on it (pool_drain.h).
  std::atomic<uint32_t> cache_cap;
  std::atomic<uint32_t> pressure;  // 1: somebody waits for a chunk; futex word
  // serial:63 | open:1. The serial grows when a pool is created or gone, so it tells the pools of
  // one index apart. Daemon only.  PAIR pool.use
  std::atomic<uint64_t> use;
  uint8_t reserved2[48];
  // Line 3.
  char name[kNameBytes];
};

enum class SessionState : uint32_t {
  kFree = 0,
  kAttached = 1,
  kDead = 2,
  kOrphaned = 3,
  kRevoked = 4,  // an operator ended it: its process is to begin nothing and to detach
};

// A mirror for clients and tools; the daemon's own table is private.
struct SessionEntry {
  std::atomic<uint32_t> state;  // SessionState
  uint32_t reserved1;
  int32_t pid;
  uint32_t uid;
  uint64_t start_time;  // of the process, clock ticks since boot, as in /proc/<pid>/stat
  std::atomic<uint32_t>
      cache_thread_count;                // (C) threads of this session that keep chunks in a cache
  std::atomic<uint32_t> joined_barrier;  // (C) 1: Barrier (settle.h) reaches its process
  char name[kNameBytes];
  // (C) By pool index: low 16 bits of the serial of the pool that this session knows last, stored
  // before it reads the pool's entry.
  std::atomic<uint16_t> known_serials[kMaxPools];
};

// First 16 bytes of a chunk's record; `slot_count` holder slots of 16 bits follow.
struct ChunkManager {
  std::atomic<uint64_t> word;        // (C) kind:2 | owner:14 | stamp:47 | recalled:1
  std::atomic<uint32_t> generation;  // (C) +1 by the exclusive owner in each share
  std::atomic<uint32_t> label;       // (C) by the owner; cached: anyone may take it back

  std::atomic<uint16_t>* slots() { return reinterpret_cast<std::atomic<uint16_t>*>(this + 1); }
};

// One per chunk, in an array before the payloads, so that aligned chunks stay aligned. (C)
struct ChunkHeader {
  std::atomic<uint64_t> size_bytes;  // bytes the publisher filled
  // Of a shared message, per publisher, from 1; 0 if never published. Who takes one that was moved
  // counts for himself, and stores it when he shares the chunk, if he may.
  std::atomic<uint64_t> sequence;
  uint8_t reserved[48];
  std::byte user[kUserHeaderBytes];  // the publisher's own: shape, time stamp, trace id
};

enum class ChannelState : uint32_t { kFree = 0, kOpen = 1, kClosed = 2 };

// What a publisher meets when a subscriber's queue is full.
enum class WhenFull : uint8_t { kWait = 0, kDropOldest = 1 };

// A line of the channel table.
struct ChannelEntry {
  std::atomic<uint32_t> state;  // ChannelState, stored last  PAIR channel.state
  uint32_t queue_capacity;      // power of two
  uint16_t max_subscriber_count;
  uint8_t pool;
  uint8_t when_full;        // WhenFull
  uint32_t max_held_count;  // samples one subscriber may hold at once; 0: not limited
  uint64_t region_offset;   // management segment: ChannelHeader and what follows it
  uint8_t uid[16];
  int64_t create_time_ns;
  char name[kNameBytes];
  char message_type[kMessageTypeBytes];  // padded with NULs
  uint32_t history_count;  // messages of each publisher that are kept for late joiners
  uint8_t reserved2[12];
};

// ChannelHeader, SubscriberEntry[max_subscriber_count], LaneEntry[kLaneEntries].
struct ChannelHeader {
  // Line 0: daemon only. Read by every publish and every empty take.
  std::atomic<uint32_t> state;  // ChannelState
  std::atomic<uint32_t>
      subscriber_stamp;              // +1 after each change of a SubscriberEntry  PAIR sub.stamp
  std::atomic<uint32_t> lane_stamp;  // +1 after each change of a LaneEntry  PAIR lane.stamp
  uint8_t reserved0[52];
  // Line 1.
  std::atomic<uint64_t> waiters;  // (C) bit k: subscriber k sleeps, or is about to
  uint8_t reserved1[56];
};

struct SubscriberEntry {
  std::atomic<uint32_t> epoch;           // open:1 | epoch:14, see encoding.h; daemon only
  std::atomic<uint16_t> session;         // daemon only
  std::atomic<uint16_t> lossy;           // 1: served by dropping; daemon only
  std::atomic<uint32_t> lane_ack;        // (C) lane_stamp whose lanes this subscriber knows
  std::atomic<uint32_t> bell;            // (C) futex word; only ever added to
  std::atomic<uint32_t> left_epoch;      // (C) the epoch whose subscriber left without the daemon
  std::atomic<uint32_t> queue_capacity;  // of its own, 1 to the channel's; daemon only
  std::atomic<uint32_t> stopped_epoch;   // daemon only: the epoch whose subscriber it told to leave
  uint8_t reserved1[36];
};

enum class LaneState : uint16_t {
  kFree = 0,
  kOpen = 1,     // its publisher is attached
  kClosed = 2,   // its publisher left in order; what is queued stays deliverable
  kDead = 3,     // its publisher died; what was queued was delivered
  kRetired = 4,  // empty; the memory waits until every subscriber has stopped looking
};

struct LaneEntry {                // daemon only
  std::atomic<uint16_t> state;    // LaneState
  std::atomic<uint16_t> session;  // the publisher's
  std::atomic<uint32_t> epoch;    // +1 at each use of the entry
  std::atomic<uint64_t> offset;   // management segment: Lane
};

// A publisher's broadcast ring: Lane, Cursor[max_subscriber_count], cells[queue_capacity].
struct Lane {
  // Line 0: the publisher.
  std::atomic<uint64_t>
      tail;  // (C) messages published; low 48 bits are the position  PAIR lane.tail
  std::atomic<uint64_t> waited;  // (C) publishes that met a full queue
  uint8_t reserved0[48];
  // Line 1.
  std::atomic<uint32_t> publisher_waits;  // (C) free cells that a sleeping publisher wants; else 0
  std::atomic<uint32_t> publisher_bell;   // (C) futex word; only ever added to
  std::atomic<uint32_t> left;             // (C) 1: the publisher left without the daemon
  uint8_t reserved1[52];
};

struct Cursor {
  std::atomic<uint64_t> word;  // (C) S:1 | D:1 | epoch:14 | position:48  PAIR cursor.word
  std::atomic<uint64_t>
      daemon_claim;  // daemon only: what it is taking in a dead subscriber's place
  std::atomic<uint64_t> subscriber_claim;  // (C) what a lossy subscriber is taking
  // (C) The publisher's, for the epoch it serves: positions from `start` on, of which it has
  // dropped so many. What is taken is position - start - dropped.
  std::atomic<uint64_t> start;          // stored before the epoch  PAIR cursor.word
  std::atomic<uint64_t> dropped;        // stored before the drop  PAIR cursor.dropped
  std::atomic<uint32_t> stopped_epoch;  // daemon only: the subscriber of this epoch takes no more
  // (C) The publisher's: the subscriber epoch that `start` and `dropped` are of; 0: nobody's. Stays
  // when service has ended, so that what was taken can still be counted.
  std::atomic<uint32_t> start_epoch;
  // Of a stopped subscriber: 0:2 | epoch:14 | position:48, by compare-exchange. The publisher has
  // taken back what is behind that position; kPositionMask: the daemon goes by the cursor.
  std::atomic<uint64_t> given_up;   // (C) PAIR cursor.given_up
  std::atomic<uint64_t> kept_cell;  // (C) the cell that was at that position, stored before
};

static_assert(sizeof(SuperBlock) == 4096);
static_assert(offsetof(SuperBlock, layout_version) == 8 && offsetof(SuperBlock, limits_hash) == 12);
static_assert(offsetof(SuperBlock, feature_bits) == 16 &&
              offsetof(SuperBlock, instance_uuid) == 24);
static_assert(offsetof(SuperBlock, management_reserved_bytes) == 40);
static_assert(offsetof(SuperBlock, session_capacity) == 56);
static_assert(offsetof(SuperBlock, pool_table_offset) == 64);
static_assert(offsetof(SuperBlock, lock_device) == 96 && offsetof(SuperBlock, lock_path) == 112);
static_assert(offsetof(SuperBlock, instance_name) == 1136 &&
              offsetof(SuperBlock, daemon_bell) == 1200 &&
              offsetof(SuperBlock, max_chunks_per_session) == 1204);
static_assert(sizeof(MemPool) == 256);
static_assert(offsetof(MemPool, cache_cap) == 128 && offsetof(MemPool, name) == 192);
static_assert(offsetof(MemPool, chunk_size_bytes) == 16 && offsetof(MemPool, incarnation) == 64);
static_assert(offsetof(MemPool, use) == 136 && offsetof(MemPool, generation_base) == 96);
static_assert(sizeof(SessionEntry) == 128 && offsetof(SessionEntry, name) == 32 &&
              offsetof(SessionEntry, known_serials) == 96);
static_assert(sizeof(ChunkManager) == 16 && offsetof(ChunkManager, generation) == 8 &&
              offsetof(ChunkManager, label) == 12);
static_assert(sizeof(ChunkHeader) == 128 && offsetof(ChunkHeader, user) == 64);
static_assert(sizeof(ChannelEntry) == 256 && offsetof(ChannelEntry, name) == 48 &&
              offsetof(ChannelEntry, message_type) == 112);
static_assert(sizeof(ChannelHeader) == 128 && offsetof(ChannelHeader, waiters) == 64);
static_assert(sizeof(SubscriberEntry) == 64 && sizeof(LaneEntry) == 16);
static_assert(sizeof(Lane) == 128 && offsetof(Lane, publisher_waits) == 64 && sizeof(Cursor) == 64);
static_assert(std::atomic<uint64_t>::is_always_lock_free &&
              std::atomic<uint16_t>::is_always_lock_free &&
              std::atomic<uint8_t>::is_always_lock_free);

static_assert(offsetof(ChunkHeader, sequence) == 8 && offsetof(SubscriberEntry, lane_ack) == 8);
static_assert(offsetof(SubscriberEntry, bell) == 12 && offsetof(SubscriberEntry, left_epoch) == 16);
static_assert(offsetof(SubscriberEntry, stopped_epoch) == 24);
static_assert(offsetof(LaneEntry, epoch) == 4 && offsetof(LaneEntry, offset) == 8);
static_assert(offsetof(Lane, publisher_bell) == 68 && offsetof(Lane, left) == 72);
static_assert(offsetof(Cursor, daemon_claim) == 8 && offsetof(Cursor, subscriber_claim) == 16 &&
              offsetof(Cursor, start) == 24 && offsetof(Cursor, dropped) == 32);
static_assert(offsetof(SubscriberEntry, lossy) == 6 &&
              offsetof(SubscriberEntry, queue_capacity) == 20);
static_assert(offsetof(ChannelEntry, when_full) == 11 &&
              offsetof(ChannelEntry, max_held_count) == 12 &&
              offsetof(ChannelEntry, history_count) == 240);
static_assert(offsetof(MemPool, loan_count) == 104 && offsetof(MemPool, exhausted_count) == 112 &&
              offsetof(MemPool, recovered_chunk_count) == 120 && offsetof(Lane, waited) == 8);
static_assert(offsetof(Cursor, stopped_epoch) == 40 && offsetof(Cursor, start_epoch) == 44 &&
              offsetof(Cursor, given_up) == 48 && offsetof(Cursor, kept_cell) == 56);
static_assert(offsetof(SessionEntry, cache_thread_count) == 24 &&
              offsetof(SessionEntry, joined_barrier) == 28 && offsetof(SessionEntry, pid) == 8);
static_assert(offsetof(MemPool, records_offset) == 32 && offsetof(MemPool, uid) == 72);
static_assert(offsetof(ChannelHeader, subscriber_stamp) == 4 &&
              offsetof(ChannelHeader, lane_stamp) == 8);
static_assert(kExtentAlign == 65536 && kLaneEntries == 64 && kOpenSlots == 8);

// The rest of the offsets and all values that README.md names.
static_assert(offsetof(SuperBlock, chunk_reserved_bytes) == 48 &&
              offsetof(SuperBlock, channel_capacity) == 60 &&
              offsetof(SuperBlock, session_table_offset) == 72 &&
              offsetof(SuperBlock, channel_table_offset) == 80 &&
              offsetof(SuperBlock, extents_offset) == 88 &&
              offsetof(SuperBlock, lock_inode) == 104);
static_assert(offsetof(MemPool, chunk_count) == 4 && offsetof(MemPool, max_chunk_count) == 8 &&
              offsetof(MemPool, alignment_bytes) == 12 && offsetof(MemPool, stride_bytes) == 24 &&
              offsetof(MemPool, hints_offset) == 40 && offsetof(MemPool, headers_offset) == 48 &&
              offsetof(MemPool, payload_offset) == 56 && offsetof(MemPool, record_shift) == 65 &&
              offsetof(MemPool, revocable) == 66 && offsetof(MemPool, auto_grow) == 67 &&
              offsetof(MemPool, grant_slots) == 68 && offsetof(MemPool, slot_count) == 70 &&
              offsetof(MemPool, create_time_ns) == 88 && offsetof(MemPool, pressure) == 132);
static_assert(offsetof(SessionEntry, uid) == 12 && offsetof(SessionEntry, start_time) == 16);
static_assert(offsetof(ChannelEntry, queue_capacity) == 4 &&
              offsetof(ChannelEntry, max_subscriber_count) == 8 &&
              offsetof(ChannelEntry, pool) == 10 && offsetof(ChannelEntry, region_offset) == 16 &&
              offsetof(ChannelEntry, uid) == 24 && offsetof(ChannelEntry, create_time_ns) == 40);
static_assert(offsetof(SubscriberEntry, session) == 4 && offsetof(LaneEntry, session) == 2);
static_assert(
    static_cast<int>(AutoGrow::kOn) == 1 && static_cast<int>(AutoGrow::kPaused) == 2 &&
    static_cast<int>(PoolState::kActive) == 1 && static_cast<int>(PoolState::kDraining) == 2 &&
    static_cast<int>(SessionState::kAttached) == 1 &&
    static_cast<int>(SessionState::kRevoked) == 4 && static_cast<int>(ChannelState::kOpen) == 1 &&
    static_cast<int>(ChannelState::kClosed) == 2 && static_cast<int>(WhenFull::kDropOldest) == 1 &&
    static_cast<int>(LaneState::kOpen) == 1 && static_cast<int>(LaneState::kClosed) == 2 &&
    static_cast<int>(LaneState::kDead) == 3 && static_cast<int>(LaneState::kRetired) == 4);

inline constexpr uint64_t kPoolTableOffset = sizeof(SuperBlock);
inline constexpr uint64_t kSessionTableOffset = kPoolTableOffset + kMaxPools * sizeof(MemPool);
static_assert(kSessionTableOffset == 8192);

}  // namespace zerocp::shm
