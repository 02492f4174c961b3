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

std::atomic<void (*)()> g_before_death{nullptr};
static_assert(std::atomic<void (*)()>::is_always_lock_free);

void Die(int number) {
  if (const auto act = g_before_death.load(std::memory_order_relaxed); act != nullptr) act();
  signal(number, SIG_DFL);
  raise(number);  // blocked until the handler returns
}

void OnStopSignal(int number) {
  const int error = errno;
  if (g_signal.exchange(number, std::memory_order_relaxed) != 0) return Die(number);
  [[maybe_unused]] ssize_t written = write(g_pipe[1], "", 1);
  errno = error;
}

// Calls are interrupted, and no other signal comes meanwhile.
void Catch(int number, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigfillset(&action.sa_mask);
  sigaction(number, &action, nullptr);
}

}  // namespace

void CatchStopSignals() {
  if (g_pipe[0] != -1) return;
  if (pipe2(g_pipe, O_CLOEXEC | O_NONBLOCK) != 0) g_pipe[0] = g_pipe[1] = -1;
  Catch(SIGINT, OnStopSignal);
  Catch(SIGTERM, OnStopSignal);
  signal(SIGPIPE, SIG_IGN);
}

void BeforeDeath(void (*act)()) {
  g_before_death.store(act, std::memory_order_relaxed);
  Catch(SIGHUP, Die);
  Catch(SIGQUIT, Die);
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
