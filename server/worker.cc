#include "server/worker.h"

#include <utility>

#include "shm/mutant.h"

namespace zerocp {

Worker::~Worker() { Stop(); }

void Worker::Start() {
  {
    MutexLock lock(mutex_);
    started_ = true;
  }
  thread_ = std::thread([this] { Loop(); });
}

void Worker::Post(Job job) {
  {
    MutexLock lock(mutex_);
    if (!stopped_) {
      jobs_.push_back(std::move(job));
      changed_.notify_one();
      return;
    }
  }
  job(false);
}

void Worker::Run(Job job) noexcept {
  bool idle = false;
  {
    MutexLock lock(mutex_);
    idle = started_ && !stopped_ && ((!busy_ && jobs_.empty()) || Mutant(90));
    busy_ = busy_ || idle;
  }
  if (!idle) return Post(std::move(job));
  job(true);
  job = nullptr;  // with what it holds: Stop waits for that, too
  End();
}

void Worker::End() {
  MutexLock lock(mutex_);
  busy_ = false;
  if (!jobs_.empty() || stopped_) changed_.notify_one();
}

void Worker::Stop() {
  std::deque<Job> left;
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    changed_.notify_one();
    if (!started_) left.swap(jobs_);
  }
  if (thread_.joinable()) thread_.join();
  for (const Job& job : left) job(false);
}

void Worker::Loop() {
  for (;;) {
    Job job;
    bool run = false;
    {
      MutexLock lock(mutex_);
      while (busy_ || (jobs_.empty() && !stopped_)) changed_.wait(mutex_);
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
      run = !stopped_;
      busy_ = true;
    }
    job(run);
    job = nullptr;
    End();
  }
}

}  // namespace zerocp
