// Puts what the product maps between guards: addresses that fault, where other mappings might lie.
// So an access that leaves a segment by less than kGuardBytes is a crash.
//
// The linker leads the product's calls here (--wrap).
#include <sys/mman.h>

#include <cstdarg>
#include <cstddef>
#include <map>
#include <mutex>

namespace {

constexpr size_t kGuardBytes = size_t{1} << 30;

std::mutex mutex;
std::map<void*, size_t> guarded;  // address -> bytes, without the guards

}  // namespace

extern "C" {

void* __real_mmap(void* address, size_t bytes, int protection, int flags, int fd, off_t offset);
void* __real_mremap(void* address, size_t bytes, size_t new_bytes, int flags, ...);
int __real_munmap(void* address, size_t bytes);

static char* ReserveGuarded(size_t bytes) {
  void* base = __real_mmap(nullptr, bytes + 2 * kGuardBytes, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return base == MAP_FAILED ? nullptr : static_cast<char*>(base) + kGuardBytes;
}

static void* Remember(char* wanted, void* mapped, size_t bytes) {
  if (mapped == MAP_FAILED) {
    __real_munmap(wanted - kGuardBytes, bytes + 2 * kGuardBytes);
    return mapped;
  }
  std::lock_guard lock(mutex);
  guarded[mapped] = bytes;
  return mapped;
}

// Segment::Map: one page of the file grows to the reserved range.
void* __wrap_mremap(void* address, size_t bytes, size_t new_bytes, int, ...) {
  char* wanted = ReserveGuarded(new_bytes);
  if (wanted == nullptr) return MAP_FAILED;
  return Remember(wanted,
                  __real_mremap(address, bytes, new_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, wanted),
                  new_bytes);
}

// Segment::MapCopy: private memory.
void* __wrap_mmap(void* address, size_t bytes, int protection, int flags, int fd, off_t offset) {
  if (address != nullptr || (flags & MAP_ANONYMOUS) == 0)
    return __real_mmap(address, bytes, protection, flags, fd, offset);
  char* wanted = ReserveGuarded(bytes);
  if (wanted == nullptr) return MAP_FAILED;
  return Remember(wanted, __real_mmap(wanted, bytes, protection, flags | MAP_FIXED, fd, offset),
                  bytes);
}

int __wrap_munmap(void* address, size_t bytes) {
  bool is_guarded;
  {
    std::lock_guard lock(mutex);
    const auto found = guarded.find(address);
    is_guarded = found != guarded.end() && found->second == bytes;
    if (is_guarded) guarded.erase(found);
  }
  if (!is_guarded) return __real_munmap(address, bytes);
  return __real_munmap(static_cast<char*>(address) - kGuardBytes, bytes + 2 * kGuardBytes);
}

}  // extern "C"
