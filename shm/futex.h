// Sleeping on a word in shared memory, and waking those who do.
//
// The futexes are process-shared. A word can change without a wake and a wake can come without a
// change: callers look again. A hostile peer can only make them look too often, or until their
// deadline.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>

namespace zerocp::shm {

// Sleeps while `word` is `value`, at most `time`. Returns early for signals.
inline void FutexWait(std::atomic<uint32_t>& word, uint32_t value, std::chrono::nanoseconds time) {
  if (time <= std::chrono::nanoseconds::zero()) return;
  timespec timeout{};
  timeout.tv_sec = static_cast<time_t>(time.count() / 1'000'000'000);
  timeout.tv_nsec = static_cast<long>(time.count() % 1'000'000'000);
  syscall(SYS_futex, &word, FUTEX_WAIT, value, &timeout, nullptr, 0);
}

inline void FutexWake(std::atomic<uint32_t>& word, int count = INT_MAX) {
  syscall(SYS_futex, &word, FUTEX_WAKE, count, nullptr, nullptr, 0);
}

// Between two looks at a word that another core will write.
inline void SpinPause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How long a store can stay in a store buffer at most: longer than any does. See Wait in channel
// ports.
inline constexpr std::chrono::microseconds kSpinTime{2};
inline constexpr std::chrono::milliseconds kFirstSlice{1};
// Longest single sleep; then the sleeper looks again, whatever happened to those who should wake
// it.
inline constexpr std::chrono::seconds kLongestSleep{3600};

}  // namespace zerocp::shm
