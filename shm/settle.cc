#include "shm/settle.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "shm/futex.h"
#include "shm/mem_pool_manager.h"

namespace zerocp::shm {
namespace {

bool Membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0) == 0; }

}  // namespace

bool JoinBarrier() {
  static const bool joined = Membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED);
  return joined;
}

bool Barrier() { return Membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED); }

bool NeedsGracePeriod(const MemPoolManager& manager) {
  for (uint32_t id = kFirstSession; id < manager.session_capacity(); ++id) {
    const SessionEntry& entry = manager.session_entry(static_cast<uint16_t>(id));
    const auto state = static_cast<SessionState>(entry.state.load(std::memory_order_acquire));
    if (state == SessionState::kFree || state == SessionState::kDead) continue;
    if (entry.joined_barrier.load(std::memory_order_acquire) == 0) return true;
  }
  return false;
}

void Settle(const MemPoolManager& manager) {
  if (!NeedsGracePeriod(manager) && Barrier()) return;
  // All processors have been through the scheduler or user mode since. Where that is not to be had
  // (nohz_full, a sandbox), time does it: no store stays in a store buffer for as long.
  if (!Membarrier(MEMBARRIER_CMD_GLOBAL)) std::this_thread::sleep_for(kFirstSlice);
}

}  // namespace zerocp::shm
