#include "tests/bench/floor.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace zerocp::bench {

int CreateShared() {
  const int fd = memfd_create("zerocp_bench", 0);
  if (fd < 0 || ftruncate(fd, sizeof(Shared)) != 0) {
    std::perror("zerocp_bench: memfd");
    std::exit(1);
  }
  return fd;
}

Shared* MapShared(int fd) {
  void* mapped = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) {
    std::perror("zerocp_bench: mmap");
    std::exit(1);
  }
  return static_cast<Shared*>(mapped);
}

void FloorEcho(Shared& shared) {
  uint64_t turn = shared.pong.load(std::memory_order_relaxed);
  while (shared.role.load(std::memory_order_relaxed) == static_cast<uint32_t>(Role::kFloor)) {
    const uint64_t now = shared.ping.load(std::memory_order_acquire);
    if (now != turn) shared.pong.store(turn = now, std::memory_order_release);
  }
}

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
