#include "server/pool_keeper.h"

#include <chrono>

namespace zerocp {

PoolKeeper::PoolKeeper(PoolManager& pools) : pools_(pools) {
  thread_ = std::thread([this] { Run(); });
}

PoolKeeper::~PoolKeeper() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    changed_.notify_one();
  }
  thread_.join();
}

void PoolKeeper::Run() {
  for (;;) {
    pools_.Tick();
    MutexLock lock(mutex_);
    const auto next = std::chrono::steady_clock::now() + PoolManager::kInterval;
    while (!stopped_ && std::chrono::steady_clock::now() < next) changed_.wait_until(mutex_, next);
    if (stopped_) return;
  }
}

}  // namespace zerocp
