#include "tests/system/shared_counts.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace zerocp::testing {
namespace {

int NewMemory(size_t bytes) {
  const int fd = memfd_create("counts", 0);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    std::perror("memory for counters");
    std::abort();
  }
  return fd;
}

}  // namespace

SharedCounts::SharedCounts() : SharedCounts(NewMemory(sizeof(*lines_))) {}

SharedCounts::SharedCounts(int fd) : fd_(fd) {
  void* mapped = mmap(nullptr, sizeof(*lines_), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) {
    std::perror("mapping of counters");
    std::abort();
  }
  lines_ = static_cast<std::array<Line, kMaxCount>*>(mapped);
}

SharedCounts::~SharedCounts() {
  munmap(lines_, sizeof(*lines_));
  close(fd_);
}

}  // namespace zerocp::testing
