// One thread that runs jobs in order: handlers must not block gRPC's poller threads.
//
// Threads. All functions from any thread but Stop and the destructor, which are not for a job.
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

  Worker();
  // Stops.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

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
