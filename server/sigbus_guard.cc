#include "server/sigbus_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>

namespace zerocp {
namespace {

// What the handler reads. Lock-free, so that it may.
struct Range {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<uintptr_t> window_bytes{0};  // what one fault replaces; a multiple of the page size
};
Range ranges[2];
std::atomic<bool> is_damaged{false};
struct sigaction action_before;
// Each fault can make two mappings more, and the kernel allows 65,530 by default: whoever punches
// holes everywhere must not use them up.
constexpr uintptr_t kMostWindows = 8192;
static_assert(std::atomic<uintptr_t>::is_always_lock_free &&
              std::atomic<bool>::is_always_lock_free);

void OnSigbus(int signal, siginfo_t* info, void*) {
  const int saved_errno = errno;
  const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Range& range : ranges) {
    if (address < range.begin.load() || address >= range.end.load()) continue;
    const uintptr_t window = range.window_bytes.load();
    const uintptr_t begin = range.begin.load() + (address - range.begin.load()) / window * window;
    const uintptr_t bytes = std::min(window, range.end.load() - begin);
    void* at = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr): in the range
    if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
        at) {
      is_damaged.store(true);
      errno = saved_errno;
      return;
    }
  }
  // Not ours: the access is made again on return, and then has its usual end.
  struct sigaction usual {};
  usual.sa_handler = SIG_DFL;
  sigaction(signal, &usual, nullptr);
  errno = saved_errno;
}

void Set(Range& range, std::span<std::byte> bytes) {
  range.begin.store(reinterpret_cast<uintptr_t>(bytes.data()));
  range.end.store(reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size());
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t window = bytes.size() / kMostWindows + 1;
  range.window_bytes.store((window + page - 1) / page * page);
}

}  // namespace

SigbusGuard::SigbusGuard(std::span<std::byte> management, std::span<std::byte> chunk) {
  is_damaged.store(false);
  Set(ranges[0], management);
  Set(ranges[1], chunk);
  struct sigaction action {};
  action.sa_sigaction = OnSigbus;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &action_before);
}

SigbusGuard::~SigbusGuard() {
  sigaction(SIGBUS, &action_before, nullptr);
  for (Range& range : ranges) Set(range, {});
}

bool SigbusGuard::damaged() { return is_damaged.load(); }

}  // namespace zerocp
