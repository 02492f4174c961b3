// Zeroed memory that two processes find by a file's name.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "tests/bench/must.h"

namespace zerocp::bench {

template <class T>
class SharedFile {
 public:
  explicit SharedFile(const std::string& path) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void* mapped = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, sizeof(T)) == 0)
      mapped = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) Die(path.c_str(), std::strerror(errno));
    close(fd);
    memory_ = static_cast<T*>(mapped);
  }
  ~SharedFile() { munmap(memory_, sizeof(T)); }
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;
  T* operator->() const { return memory_; }

 private:
  T* memory_;
};

}  // namespace zerocp::bench
