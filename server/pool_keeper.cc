#include "server/pool_keeper.h"

#include <chrono>

#include "shm/futex.h"

namespace zerocp {

using Clock = std::chrono::steady_clock;

PoolKeeper::PoolKeeper(PoolManager& pools) : pools_(pools) {
  thread_ = std::thread([this] { Run(); });
}

PoolKeeper::~PoolKeeper() {
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    changed_.notify_one();
  }
  pools_.bell().fetch_add(1);
  shm::FutexWake(pools_.bell());
  thread_.join();
}

bool PoolKeeper::Pause() {
  MutexLock lock(mutex_);
  const Clock::time_point end = Clock::now() + kPause;
  while (!stopped_ && Clock::now() < end) changed_.wait_until(mutex_, end);
  return !stopped_;
}

void PoolKeeper::Run() {
  Clock::time_point next_tick = Clock::now();
  do {
    const uint32_t rung = pools_.bell().load();  // before the look: who rings later is heard
    pools_.GrowExhausted();
    if (Clock::now() >= next_tick) {
      pools_.Tick();
      next_tick = Clock::now() + PoolManager::kInterval;
    }
    shm::FutexWait(pools_.bell(), rung, next_tick - Clock::now());
  } while (Pause());
}

}  // namespace zerocp
