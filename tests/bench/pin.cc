#include "tests/bench/pin.h"

#include <sched.h>

#include <cstring>

namespace zerocp::bench {

void PinTo(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  (void)sched_setaffinity(0, sizeof(set), &set);
}

void Unpin() {
  cpu_set_t set;
  std::memset(&set, 0xff, sizeof(set));  // the kernel leaves out what there is not
  (void)sched_setaffinity(0, sizeof(set), &set);
}

}  // namespace zerocp::bench
