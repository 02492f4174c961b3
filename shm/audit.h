// Checks every invariant of the records and queues; changes nothing, and believes no hint or
// counter.
//
// A client that is stopped between the two steps of a release shows as shared-held until it goes
// on. While clients work, a chunk in the middle of a transition can look wrong for a moment: each
// finding is looked at again, and counts only if it stays. Invariant names (also in README.md):
//   word-owner      an owned word names an attached session, or the daemon in a pool that is being
//                   deleted; a free or shared word names nobody
//   free-unheld     no grant slot of a free chunk is set
//   slot-session    every holder slot names an attached session
//   shared-held     a shared chunk has a holder
//   segment-size    both files are at least as long as what was committed
//   queue-bounds    a served cursor is at most queue_capacity behind its tail
//   queue-cell      each queued cell names an existing chunk
//   queue-label     each queued chunk is in its publisher's or its subscriber's name
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shm/channel_registry.h"
#include "shm/mem_pool_manager.h"
#include "shm/recovery.h"

namespace zerocp::shm {

struct PoolCounts {
  uint32_t pool = 0;
  uint64_t chunk_count = 0;
  uint64_t free_count = 0;
  uint64_t cached_count = 0;   // free, in private caches of clients
  uint64_t writing_count = 0;  // loaned, and neither published nor shared
  uint64_t shared_count = 0;   // published or shared by handle: queued or read
};
// Counts one record.
void Count(const ChunkManager& record, PoolCounts& counts);
// Counts by kind; a plain read of every record.
PoolCounts Count(const PoolView& pool);

struct AuditReport {
  struct Violation {
    std::string invariant;
    std::string detail;
  };
  std::vector<PoolCounts> pools;
  std::vector<Violation> violations;  // at most kMaxViolations
  uint64_t violation_count = 0;
  uint64_t checked_chunk_count = 0;
};
inline constexpr size_t kMaxViolations = 100;

AuditReport Audit(MemPoolManager& manager, ChannelRegistry& registry, const SessionSet& attached);

// Chunks that each session owns or holds now, by session id; cached ones left out.
inline constexpr size_t kSessionIds = 16384;
std::vector<uint64_t> HeldCounts(MemPoolManager& manager);

}  // namespace zerocp::shm
