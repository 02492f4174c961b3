// std::mutex with Clang's thread-safety attributes.
//
// Not absl::Mutex: Debian builds it without instrumentation, and ThreadSanitizer then reports races
// that are none.
#pragma once

#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define ZEROCP_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define ZEROCP_THREAD_ATTRIBUTE(x)
#endif
#define ZEROCP_GUARDED_BY(mutex) ZEROCP_THREAD_ATTRIBUTE(guarded_by(mutex))
#define ZEROCP_REQUIRES(...) ZEROCP_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define ZEROCP_EXCLUDES(...) ZEROCP_THREAD_ATTRIBUTE(locks_excluded(__VA_ARGS__))

namespace zerocp {

class ZEROCP_THREAD_ATTRIBUTE(capability("mutex")) Mutex {
 public:
  void lock() ZEROCP_THREAD_ATTRIBUTE(acquire_capability()) { mutex_.lock(); }
  bool try_lock() ZEROCP_THREAD_ATTRIBUTE(try_acquire_capability(true)) {
    return mutex_.try_lock();
  }
  void unlock() ZEROCP_THREAD_ATTRIBUTE(release_capability()) { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class ZEROCP_THREAD_ATTRIBUTE(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ZEROCP_THREAD_ATTRIBUTE(acquire_capability(mutex))
      : mutex_(mutex) {
    mutex_.lock();
  }
  ~MutexLock() ZEROCP_THREAD_ATTRIBUTE(release_capability()) { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// For use with Mutex; Wait gives the lock up while it sleeps.
using ConditionVariable = std::condition_variable_any;

}  // namespace zerocp
