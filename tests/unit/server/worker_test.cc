#include "server/worker.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <thread>
#include <vector>

namespace zerocp {
namespace {

TEST(Worker, RunsJobsInOrder) {
  Worker worker;
  worker.Start();
  std::vector<int> order;
  std::promise<void> done;
  for (int i = 0; i < 100; ++i)
    worker.Post([&, i](bool run) {
      if (run) order.push_back(i);
    });
  worker.Post([&](bool) { done.set_value(); });
  done.get_future().wait();
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(Worker, BeforeItsStartItOnlyQueues) {
  std::promise<bool> ran;
  Worker worker;
  worker.Post([&](bool run) { ran.set_value(run); });
  std::future<bool> answer = ran.get_future();
  EXPECT_EQ(answer.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  worker.Start();
  EXPECT_TRUE(answer.get());

  bool refused = false;
  Worker never;
  never.Post([&](bool run) { refused = !run; });
  never.Stop();
  EXPECT_TRUE(refused);
}

TEST(Worker, RunDoesTheJobHereIfTheWorkerIsIdle) {
  Worker worker;
  worker.Start();
  std::thread::id ran_in;
  worker.Run([&](bool run) {
    if (run) ran_in = std::this_thread::get_id();
  });
  EXPECT_EQ(ran_in, std::this_thread::get_id());
}

TEST(Worker, RunQueuesTheJobBehindAnyOther) {
  std::vector<int> order;
  std::promise<void> second_queued, done;
  Worker worker;
  // Before the start it only queues, too.
  worker.Run([&](bool) {
    second_queued.get_future().wait();
    order.push_back(1);
  });
  worker.Start();
  worker.Run([&](bool) { order.push_back(2); });
  EXPECT_TRUE(order.empty());
  second_queued.set_value();
  worker.Post([&](bool) {
    order.push_back(3);
    done.set_value();
  });
  done.get_future().wait();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(Worker, StopWaitsForAJobThatRunsInItsCallersThread) {
  Worker worker;
  worker.Start();
  std::promise<void> started, go_on;
  std::atomic<bool> ended = false;
  std::thread caller([&] {
    worker.Run([&](bool) {
      started.set_value();
      go_on.get_future().wait();
      ended = true;
    });
  });
  started.get_future().wait();
  std::thread stopper([&] {
    worker.Stop();
    EXPECT_TRUE(ended);
  });
  go_on.set_value();
  stopper.join();
  caller.join();
}

TEST(Worker, StopLetsTheRunningJobEndAndRefusesTheRest) {
  Worker worker;
  worker.Start();
  std::promise<void> started, go_on;
  bool first_ran = false;
  std::promise<bool> second_ran;
  worker.Post([&](bool run) {
    started.set_value();
    go_on.get_future().wait();
    first_ran = run;
  });
  worker.Post([&](bool run) { second_ran.set_value(run); });
  started.get_future().wait();
  std::thread stopper([&] { worker.Stop(); });
  // A job that is posted after the stop is refused at once, in the poster's thread.
  const auto self = std::this_thread::get_id();
  for (bool stopped = false; !stopped; std::this_thread::yield()) {
    auto answered = std::make_shared<std::atomic<bool>>(false);
    worker.Post(
        [self, answered](bool run) { *answered = !run && std::this_thread::get_id() == self; });
    stopped = *answered;
  }
  go_on.set_value();
  stopper.join();
  EXPECT_TRUE(first_ran);
  EXPECT_FALSE(second_ran.get_future().get());
}

}  // namespace
}  // namespace zerocp
