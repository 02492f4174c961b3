// Who has a pool's chunks, for the error that says that none is left.
#pragma once

#include <string>

#include "shm/mem_pool_manager.h"

namespace zerocp::internal {

// "pool 'video' has no free chunk: 8 chunks of 65536 bytes; held by camera (pid 71): 5, ..." with
// the three sessions that hold most. Reads every record: a few ns each. A snapshot without locks,
// so the numbers may be off by what changes hands meanwhile.
std::string DescribeHolders(shm::MemPoolManager& manager, const shm::PoolView& pool);

}  // namespace zerocp::internal
