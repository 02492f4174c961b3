#include "client/cli/stop_signal.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>

namespace zerocp::cli {
namespace {

std::atomic<int> g_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);
// Closes the gap between looking at g_signal and sleeping in poll().
int g_pipe[2] = {-1, -1};

void OnSignal(int signal) {
  const int error = errno;
  g_signal.store(signal, std::memory_order_relaxed);
  [[maybe_unused]] ssize_t written = write(g_pipe[1], "", 1);
  errno = error;
}

}  // namespace

void CatchStopSignals() {
  if (pipe2(g_pipe, O_CLOEXEC | O_NONBLOCK) != 0) g_pipe[0] = g_pipe[1] = -1;
  struct sigaction action {};
  action.sa_handler = OnSignal;
  action.sa_flags =
      static_cast<int>(SA_RESETHAND);  // calls are interrupted; the second signal kills
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

int StopSignal() { return g_signal.load(std::memory_order_relaxed); }

bool WaitReadable(int fd) {
  pollfd both[2] = {{fd, POLLIN, 0}, {g_pipe[0], POLLIN, 0}};
  while (StopSignal() == 0) {
    if (poll(both, 2, -1) > 0 && both[0].revents != 0) return StopSignal() == 0;
  }
  return false;
}

}  // namespace zerocp::cli
