#include "server/worker.h"

#include <utility>

namespace zerocp {

Worker::~Worker() { Stop(); }

void Worker::Start() {
  thread_ = std::thread([this] { Run(); });
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

void Worker::Stop() {
  std::deque<Job> left;
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    changed_.notify_one();
    if (!thread_.joinable()) left.swap(jobs_);  // it was never started
  }
  if (thread_.joinable()) thread_.join();
  for (const Job& job : left) job(false);
}

void Worker::Run() {
  for (;;) {
    mutex_.lock();
    while (jobs_.empty() && !stopped_) changed_.wait(mutex_);
    if (jobs_.empty()) {
      mutex_.unlock();
      return;
    }
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    const bool run = !stopped_;
    mutex_.unlock();
    job(run);
  }
}

}  // namespace zerocp
