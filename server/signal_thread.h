// Waits for signals in a thread of its own: the first SIGTERM or SIGINT asks for a stop, one that
// comes a second or more later ends the process. Whoever signals a whole group makes two at once.
// SIGHUP asks for a reload.
//
// Threads. Functions from one thread; the callbacks run in the signals' thread, or in OnStop and
// OnHangup if the signal came before.
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <memory>

namespace zerocp {

class SignalThread {
 public:
  // Blocks the signals. With `hangup` false SIGHUP ends the process as it does any. REQUIRES: no
  // other thread runs yet.
  explicit SignalThread(bool hangup);
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

  // Waits for `limit` at most, zero: for ever. True if a stop was asked for.
  bool WaitForStop(std::chrono::microseconds limit);
  bool stop_asked() const;
  // What is done when a stop is asked for. Empty: nothing. No earlier one runs when it returns.
  void OnStop(std::function<void()> stop);
  // The same for SIGHUP.
  void OnHangup(std::function<void()> reload);

 private:
  struct State;
  const std::shared_ptr<State> state_;  // the thread's too, which never ends
  std::future<void> stop_;
};

}  // namespace zerocp
