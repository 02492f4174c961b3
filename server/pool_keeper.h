// The thread that sees to pools between calls: PoolManager::Tick, every PoolManager::kInterval.
#pragma once

#include <thread>

#include "server/mutex.h"
#include "server/pool_manager.h"

namespace zerocp {

class PoolKeeper {
 public:
  // Starts. REQUIRES: `pools` outlives this.
  explicit PoolKeeper(PoolManager& pools);
  // Stops, after the Tick that is under way.
  ~PoolKeeper();
  PoolKeeper(const PoolKeeper&) = delete;
  PoolKeeper& operator=(const PoolKeeper&) = delete;

 private:
  void Run();

  PoolManager& pools_;
  Mutex mutex_;
  ConditionVariable changed_;
  bool stopped_ ZEROCP_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace zerocp
