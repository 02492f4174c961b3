#include "tests/bench/dropping_stopped.h"

#include <signal.h>
#include <time.h>
#include <zerocp/zerocp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>
#include <utility>

#include "tests/bench/floor.h"
#include "tests/system/child_process.h"

namespace zerocp::bench {
namespace {

constexpr size_t kBytes = 1024;
constexpr int kSubscribers = 12;
constexpr int kBurst = 32;  // a quarter of the queue
constexpr std::chrono::microseconds kPause{2000};

template <class T>
T Must(Result<T> result, const char* what) {
  if (!result) {
    std::fprintf(stderr, "zerocp_bench: %s: %s\n", what, result.message().c_str());
    std::exit(1);
  }
  return std::move(*result);
}

bool IsStopped(pid_t pid) {
  const std::string stat = testing::ReadFile("/proc/" + std::to_string(pid) + "/stat");
  const size_t name_end = stat.rfind(')');
  return name_end + 2 < stat.size() && stat[name_end + 2] == 'T';
}

// Nanoseconds of one loan and publish, mean over the bursts.
double Bursts(Publisher& publisher, int bursts) {
  std::chrono::nanoseconds time{0};
  for (int burst = 0; burst < bursts; ++burst) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kBurst; ++i) {
      Loan loan = Must(publisher.NewLoan(kBytes), "loan");
      (void)Must(publisher.Publish(loan, std::chrono::nanoseconds{0}), "publish");
    }
    time += std::chrono::steady_clock::now() - start;
    std::this_thread::sleep_for(kPause);
  }
  return static_cast<double>(time.count()) / (static_cast<double>(bursts) * kBurst);
}

}  // namespace

int RunDrain(const std::string& runtime_dir, const std::string& channel) {
  PinTo(1);
  Client client = Must(Client::Connect({"drain", runtime_dir}), "connect");
  Subscriber subscriber = Must(client.JoinAsSubscriber(channel), "join");
  for (;;) {
    auto sample = subscriber.TryTake();
    if (sample) continue;
    if (sample.code() != Code::kTimeout) return sample.code() == Code::kEndOfStream ? 0 : 1;
    std::this_thread::sleep_for(kPause / 4);
  }
}

std::vector<Series> DroppingStopped(const std::string& runtime_dir, const std::string& channel,
                                    int runs, int bursts) {
  PinTo(0);
  Client client = Must(Client::Connect({"bench", runtime_dir}), "connect");
  Publisher publisher = Must(client.JoinAsPublisher(channel), "join");
  testing::ChildOptions options;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  options.command = {self, "--drain", runtime_dir, channel};
  std::vector<std::unique_ptr<testing::ChildProcess>> drains;
  for (int i = 0; i < kSubscribers; ++i)
    drains.push_back(std::make_unique<testing::ChildProcess>(options));
  (void)Must(publisher.WaitForSubscribers(kSubscribers, std::chrono::seconds(30)),
             "waiting for the subscribers");

  Series stopped{"dropping_stopped", "one stopped", kSubscribers + 1, kBytes, {}};
  Series healthy{"dropping_stopped", "none stopped", kSubscribers + 1, kBytes, {}};
  const testing::ChildProcess& one = *drains.front();
  (void)Bursts(publisher, bursts);  // warms up
  for (int run = 0; run < runs; ++run) {
    healthy.samples.push_back(Bursts(publisher, bursts));
    one.Signal(SIGSTOP);
    while (!IsStopped(one.pid())) std::this_thread::yield();
    (void)Bursts(publisher, 16);  // its queue is full from here on
    stopped.samples.push_back(Bursts(publisher, bursts));
    one.Signal(SIGCONT);
    (void)Bursts(publisher, 16);  // it has caught up
  }
  publisher.Close();
  for (const auto& drain : drains) {
    if (drain->Wait() != 0) {
      std::fprintf(stderr, "zerocp_bench: a subscriber failed\n");
      std::exit(1);
    }
  }
  return {stopped, healthy};
}

}  // namespace zerocp::bench
