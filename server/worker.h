// Runs jobs one at a time, in order, in a thread of its own or, where that is as good, in the
// caller's: of gRPC's poller threads, one at most waits for a worker.
//
// Threads. Post and Run from any thread; Start, Stop and the destructor from one, which is not a
// job's.
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
  // Runs `job` at once in this thread if no other runs or waits, which saves the way to the
  // worker's thread; else the same as Post. A job that throws ends the process, as it does in the
  // worker's thread. REQUIRES: the caller has no lock that a job takes.
  void Run(Job job) noexcept;
  // Waits for the job that runs now; those behind it are called with false.
  void Stop();

 private:
  void Loop();
  // Lets the next job begin.
  void End();

  Mutex mutex_;
  ConditionVariable changed_;
  std::deque<Job> jobs_ ZEROCP_GUARDED_BY(mutex_);
  bool started_ ZEROCP_GUARDED_BY(mutex_) = false;
  bool busy_ ZEROCP_GUARDED_BY(mutex_) = false;  // a job runs
  bool stopped_ ZEROCP_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace zerocp
