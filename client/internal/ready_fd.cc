#include "client/internal/ready_fd.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include "shm/futex.h"
#include "shm/mutant.h"

namespace zerocp::internal {
namespace {

// The thread's: enough for a reconnect, little for a process that locks its memory.
constexpr size_t kStackBytes = 256 << 10;

// A take that is told so finds nothing the next time, unless something comes.
bool NothingIsLeft(shm::Code code) {
  return code == shm::Code::kTimeout || code == shm::Code::kEndOfStream ||
         code == shm::Code::kPublisherDied;
}

}  // namespace

shm::Result<std::unique_ptr<ReadyFd>> ReadyFd::Create(ClientCore& core, shm::SubscriberPort& port) {
  shm::UniqueFd fd(eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));  // readable (F1)
  if (!fd) {
    return shm::Status::FromErrno(shm::Code::kLimit, "no descriptor for a subscriber", errno);
  }
  std::unique_ptr<ReadyFd> ready(new ReadyFd(core, port, std::move(fd)));
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited by the thread
  const int error = pthread_create(
      &ready->thread_, &attributes,
      [](void* self) -> void* {
        static_cast<ReadyFd*>(self)->Run();
        return nullptr;
      },
      ready.get());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    return shm::Status::FromErrno(shm::Code::kLimit, "no thread for a subscriber's descriptor",
                                  error);
  }
  pthread_setname_np(ready->thread_, "zerocp-ready");
  ready->started_ = true;
  return ready;
}

ReadyFd::~ReadyFd() {
  if (!started_ || !core_.mapped()) return;
  Disarm();
  phase_.store(kEnded, std::memory_order_release);
  shm::FutexWake(phase_);
  pthread_join(thread_, nullptr);
}

shm::Code ReadyFd::Arm(shm::Code code, shm::ChunkRef* out) {
  if (!NothingIsLeft(code)) return code;
  if (phase_.load(std::memory_order_acquire) != kIdle) return code;  // F2 holds
  prepared_ = port_.PrepareToSleep();
  bit_set_ = true;
  const auto look_end = std::chrono::steady_clock::now() + shm::kSpinTime;
  do {
    if (code == shm::Code::kTimeout) code = port_.TryTake(out);
  } while (code == shm::Code::kTimeout && std::chrono::steady_clock::now() < look_end);
  uint64_t one;
  if (!NothingIsLeft(code) || read(fd_.get(), &one, sizeof(one)) != sizeof(one)) {
    StandDown();
    return code;
  }
  port_.LookAt(&look_);
  phase_.store(kArmed, std::memory_order_release);
  shm::FutexWake(phase_);
  return code;
}

void ReadyFd::Disarm() {
  uint32_t phase = kArmed;
  if (phase_.compare_exchange_strong(phase, kRecalled, std::memory_order_acq_rel)) {
    port_.WakeSleeper(core_.writable());  // if it may not be changed, a slice passes at most
    while (phase_.load(std::memory_order_acquire) == kRecalled)
      shm::FutexWait(phase_, kRecalled, shm::kLongestSleep);
  }
  if (bit_set_) StandDown();
}

void ReadyFd::StandDown() {
  bit_set_ = false;
  if (core_.writable()) port_.StandDown();
}

void ReadyFd::Run() {
  for (;;) {
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (phase == kEnded) return;
    if (phase == kIdle) {
      shm::FutexWait(phase_, kIdle, shm::kLongestSleep);
      continue;
    }
    Watch();
    if (Mutant(52)) {
      Write();
      usleep(1000);  // so that the order can be seen
    }
    if (phase_.exchange(kIdle, std::memory_order_acq_rel) == kRecalled) shm::FutexWake(phase_);
    if (!Mutant(52)) Write();  // after the phase (F3)
  }
}

void ReadyFd::Write() {
  const uint64_t one = 1;
  (void)!write(fd_.get(), &one, sizeof(one));
}

// Until the user is to look again: rung, recalled, or the end of the session.
void ReadyFd::Watch() {
  port_.SleepOnBell(prepared_, shm::kFirstSlice);
  if (look_.FindsNews()) return;
  while (phase_.load(std::memory_order_acquire) == kArmed && core_.open() &&
         port_.BellIs(prepared_)) {
    const shm::Code daemon = core_.LookSometimes();
    if (daemon == shm::Code::kDetached || daemon == shm::Code::kInstanceLost) return;
    port_.SleepOnBell(prepared_, ClientCore::kLookInterval);
  }
}

}  // namespace zerocp::internal
