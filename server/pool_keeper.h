// The thread that sees to pools between calls: it grows those that need it when a client rings, and
// does PoolManager::Tick every PoolManager::kInterval.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

#include "server/pool_manager.h"

namespace zerocp {

class PoolKeeper {
 public:
  // Starts. REQUIRES: `pools` outlives this.
  explicit PoolKeeper(PoolManager& pools);
  // Stops, after the work that is under way.
  ~PoolKeeper();
  PoolKeeper(const PoolKeeper&) = delete;
  PoolKeeper& operator=(const PoolKeeper&) = delete;

 private:
  // Clients can ring without end: the time from one look to the next is at least this.
  static constexpr std::chrono::milliseconds kPause{1};

  void Run();

  PoolManager& pools_;
  std::atomic<bool> stopped_{false};
  std::thread thread_;
};

}  // namespace zerocp
