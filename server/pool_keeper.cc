#include "server/pool_keeper.h"

#include <chrono>

#include "shm/futex.h"

namespace zerocp {

using Clock = std::chrono::steady_clock;

PoolKeeper::PoolKeeper(PoolManager& pools) : pools_(pools) {
  thread_ = std::thread([this] { Run(); });
}

PoolKeeper::~PoolKeeper() {
  stopped_ = true;
  pools_.bell().fetch_add(1);
  shm::FutexWake(pools_.bell());
  thread_.join();
}

void PoolKeeper::Run() {
  Clock::time_point next_tick = Clock::now();
  while (!stopped_) {
    const uint32_t rung = pools_.bell().load();  // before the look: who rings later is heard
    pools_.GrowExhausted();
    if (Clock::now() >= next_tick) {
      pools_.Tick();
      next_tick = Clock::now() + PoolManager::kInterval;
    }
    if (!stopped_) shm::FutexWait(pools_.bell(), rung, next_tick - Clock::now());
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace zerocp
