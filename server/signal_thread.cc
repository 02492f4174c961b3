#include "server/signal_thread.h"

#include <signal.h>
#include <spdlog/spdlog.h>
#include <string.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

#include "server/mutex.h"

namespace zerocp {
namespace {

sigset_t Signals(bool hangup) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  if (hangup) sigaddset(&signals, SIGHUP);
  return signals;
}

}  // namespace

// What a signal does, and whether it came before anybody said so.
struct Reaction {
  std::function<void()> call;
  bool pending = false;

  void Signal() {
    pending = !call;
    if (call) call();
  }
  void Set(std::function<void()> what) {
    call = std::move(what);
    if (call && std::exchange(pending, false)) call();
  }
};

struct SignalThread::State {
  std::promise<void> asked;
  Mutex mutex;
  Reaction stop ZEROCP_GUARDED_BY(mutex);
  Reaction reload ZEROCP_GUARDED_BY(mutex);
};

SignalThread::SignalThread(bool hangup)
    : state_(std::make_shared<State>()), stop_(state_->asked.get_future()) {
  const sigset_t signals = Signals(hangup);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([state = state_, signals] {
    int signal = 0;
    while (sigwait(&signals, &signal), signal == SIGHUP) {
      spdlog::info("SIGHUP: reading the configuration file and opening the audit log again");
      MutexLock lock(state->mutex);
      state->reload.Signal();
    }
    spdlog::info("{}: stopping", strsignal(signal));
    state->asked.set_value();
    {
      MutexLock lock(state->mutex);
      state->stop.Signal();
    }
    const auto again = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    do {
      sigwait(&signals, &signal);
    } while (signal == SIGHUP || std::chrono::steady_clock::now() < again);
    spdlog::critical("{} again: ending at once; the next start recovers", strsignal(signal));
    _exit(EXIT_FAILURE);
  }).detach();
}

bool SignalThread::WaitForStop(std::chrono::microseconds limit) {
  if (limit == limit.zero()) stop_.wait();
  return stop_.wait_for(limit) == std::future_status::ready;
}

bool SignalThread::stop_asked() const {
  return stop_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

void SignalThread::OnStop(std::function<void()> stop) {
  MutexLock lock(state_->mutex);
  state_->stop.Set(std::move(stop));
}

void SignalThread::OnHangup(std::function<void()> reload) {
  MutexLock lock(state_->mutex);
  state_->reload.Set(std::move(reload));
}

}  // namespace zerocp
