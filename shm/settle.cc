#include "shm/settle.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "shm/futex.h"

namespace zerocp::shm {

void Settle() {
  // All processors have been through the scheduler or user mode since. Where that is not to be had
  // (nohz_full, a sandbox), time does it: no store stays in a store buffer for as long.
  if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) != 0)
    std::this_thread::sleep_for(kFirstSlice);
}

}  // namespace zerocp::shm
