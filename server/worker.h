// One thread that runs jobs in order: handlers must not block gRPC's poller threads.
//
// Threads. Post from any thread; Start, Stop and the destructor from one, which is not a job's.
#pragma once

#include <deque>
#include <functional>
#include <thread>

#include "server/mutex.h"

namespace zerocp {

class Worker {
 public:
  // Told whether to work or, because the worker was stopped, only to say goodbye. Called exactly
  // once.
  using Job = std::function<void(bool run)>;

  // Does nothing but queue before Start.
  Worker() = default;
  // Stops.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Runs what was queued, and all that follows.
  void Start();
  // Queues `job`; after Stop calls it at once, with false.
  void Post(Job job);
  // Waits for the job that runs now; those behind it are called with false.
  void Stop();

 private:
  void Run();

  Mutex mutex_;
  ConditionVariable changed_;
  std::deque<Job> jobs_ ZEROCP_GUARDED_BY(mutex_);
  bool stopped_ ZEROCP_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace zerocp
