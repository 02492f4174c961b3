// A descriptor that is readable when a subscriber may find something: for poll, epoll and event
// loops.
//
// What. An eventfd of this process, and one thread that sleeps on the subscriber's bell in the
// user's place and writes it. Publishers know nothing of it: to them it is a subscriber that
// sleeps. The user's loop is: poll, then TryTake until it finds nothing, then poll again; the take
// that finds nothing arms.
//
// Invariants. F1: there is a single 1 to be had. It is in the descriptor, which is readable then,
// or the thread has it: armed, or idle and about to write it. Who finds nothing reads it, and arms
// only if it was there. F2: armed, the subscriber's bit in `waiters` is set, its bell is
// `prepared_` or has been rung since, and the thread watches it. F3: the thread says that it is
// idle before it writes, so who has read the 1 finds it idle, and can arm at once.
//
// Hence a take that finds nothing leaves the 1 with the thread: the descriptor is not readable, and
// what comes next is a write, which an edge-triggered loop sees, too. If the thread was about to
// write, that comes for nothing; once per arming.
//
// No wake-up is lost: arming is what SubscriberPort::Take does before it sleeps (bell, bit, fence,
// a look of 2 us), and the thread looks at the lanes once more after the first slice. After an end
// of stream it is the only one who looks, because a message would have no way out: there is no
// lane, and a new one changes the stamp that it looks at.
// Who publishes after the look finds the bit and changes the bell.
//
// Threads and processes. All functions from the subscriber's thread. The thread blocks all signals,
// reads the channel's words and never writes the segments; every kLookInterval it asks the core
// about the daemon. In the child of a fork there is no thread: only the destructor may be called.
//
// Crash. As a subscriber that dies asleep: the daemon clears its bit.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "client/internal/client_core.h"
#include "shm/subscriber_port.h"
#include "shm/unique_fd.h"

namespace zerocp::internal {

class ReadyFd {
 public:
  // Starts the thread. kLimit: no descriptor or no thread is to be had. REQUIRES: both outlive
  // this.
  static shm::Result<std::unique_ptr<ReadyFd>> Create(ClientCore& core, shm::SubscriberPort& port);
  // Ends the thread. After a fork it does nothing but close the descriptor.
  ~ReadyFd();
  ReadyFd(const ReadyFd&) = delete;
  ReadyFd& operator=(const ReadyFd&) = delete;

  int fd() const { return fd_.get(); }

  // Before each take: publishers need not ring any more if the thread was woken.
  void Awake() {
    if (bit_set_ && phase_.load(std::memory_order_acquire) == kIdle) StandDown();
  }
  // After a take that returned `code`, does nothing if something may be left. A message that came
  // meanwhile, or another end of it, as TryTake; kTimeout, or an end of stream: the descriptor is
  // not readable until there is something.
  shm::Code Arm(shm::Code code, shm::ChunkRef* out);
  // Before the port sleeps itself, or goes: the thread makes the descriptor readable.
  void Disarm();

 private:
  enum Phase : uint32_t { kIdle, kArmed, kRecalled, kEnded };

  ReadyFd(ClientCore& core, shm::SubscriberPort& port, shm::UniqueFd fd)
      : core_(core), port_(port), fd_(std::move(fd)) {}
  void StandDown();
  void Run();
  void Watch();
  void Write();

  ClientCore& core_;
  shm::SubscriberPort& port_;
  const shm::UniqueFd fd_;
  pthread_t thread_{};
  bool started_ = false;
  bool bit_set_ = false;                // the subscriber's thread
  std::atomic<uint32_t> phase_{kIdle};  // futex word. The thread owns what follows unless kIdle
  uint32_t prepared_ = 0;
  shm::LaneLook look_;
};

}  // namespace zerocp::internal
