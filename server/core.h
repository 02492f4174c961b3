// What all managers work on: the instance's memory, its channels, and who is attached.
//
// One mutex: control calls are rare, and nothing under it waits for a client. Held briefly, but for
// an audit and a recovery, which read every record. Creating a pool reserves memory for seconds and
// so runs without it, one at a time (PoolManager).
#pragma once

#include <chrono>
#include <memory>

#include "server/event_log.h"
#include "server/mutex.h"
#include "shm/channel_registry.h"
#include "shm/mem_pool_manager.h"
#include "shm/recovery.h"

namespace zerocp {

struct Core {
  explicit Core(std::unique_ptr<shm::MemPoolManager> memory)
      : manager(std::move(memory)), registry(*manager), recovery(*manager, registry) {}

  const std::unique_ptr<shm::MemPoolManager> manager;
  const std::chrono::system_clock::time_point start_time = std::chrono::system_clock::now();

  EventLog events;  // has a mutex of its own, taken after every other

  Mutex mutex;
  shm::ChannelRegistry registry ZEROCP_GUARDED_BY(mutex);
  shm::Recovery recovery ZEROCP_GUARDED_BY(mutex);
  // Sessions whose chunks are theirs: attached or orphaned.
  shm::SessionSet attached ZEROCP_GUARDED_BY(mutex);
};

}  // namespace zerocp
