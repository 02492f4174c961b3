#include "tests/bench/fan.h"

#include <signal.h>
#include <zerocp/zerocp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>

#include "tests/bench/must.h"
#include "tests/bench/pin.h"
#include "tests/system/child_process.h"
#include "tests/system/shared_counts.h"

namespace zerocp::bench {
namespace {

constexpr size_t kBytes = 1024;
constexpr int kSubscribers = 12;
constexpr size_t kStopped = 5;
constexpr uint64_t kQueue = 128;
constexpr uint64_t kBurst = 32;
constexpr uint64_t kBurstsOfRound = 25;
constexpr uint64_t kFlood = 20'000;
constexpr std::chrono::microseconds kNap{100};

// A publisher and twelve processes that take, each of which says how far it is.
class Fan {
 public:
  Fan(const std::string& runtime_dir, const std::string& channel)
      : client_(Must(Client::Connect({"bench", runtime_dir}), "connect")),
        publisher_(Must(client_.JoinAsPublisher(channel), "join")) {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    for (size_t i = 0; i < size_t{kSubscribers}; ++i) {
      drains_.push_back(std::make_unique<testing::ChildProcess>(
          testing::ChildOptions{.command = {self, "--drain", runtime_dir, channel,
                                            std::to_string(taken_.fd()), std::to_string(i)}}));
    }
    (void)Must(publisher_.WaitForSubscribers(kSubscribers, std::chrono::seconds(30)),
               "waiting for the subscribers");
  }

  Fan(const Fan&) = delete;
  Fan& operator=(const Fan&) = delete;

  // Nanoseconds of one loan and publish, of the median burst. Before each burst, whoever runs has
  // taken all there is; so all messages find room, but at the stopped one, which drops one for
  // each.
  double Round(bool one_stopped) {
    if (one_stopped) StopOne();
    const uint64_t dropped_before = dropped_;
    std::vector<double> bursts;
    while (bursts.size() < kBurstsOfRound) bursts.push_back(Burst(one_stopped));
    const uint64_t dropped = dropped_ - dropped_before;
    if (dropped != (one_stopped ? kBurstsOfRound * kBurst : 0)) {
      std::fprintf(stderr, "zerocp_bench: %llu messages were dropped in a round with %s\n",
                   static_cast<unsigned long long>(dropped),
                   one_stopped ? "one subscriber stopped" : "no subscriber stopped");
      std::exit(1);
    }
    if (one_stopped) drains_[kStopped]->Signal(SIGCONT);
    return Quantile(bursts, 0.5);
  }

  // Nanoseconds of one loan and publish, as fast as they go: whoever is slower misses messages.
  double Flood(bool one_stopped) {
    CatchUp(false);
    if (one_stopped) StopOne();
    const double time = Publish(kFlood);
    if (one_stopped) drains_[kStopped]->Signal(SIGCONT);
    return time;
  }

  ~Fan() {
    publisher_.Close();
    for (const auto& drain : drains_) {
      if (drain->Wait() == 0) continue;
      std::fprintf(stderr, "zerocp_bench: a subscriber failed\n");
      std::exit(1);
    }
  }

 private:
  static bool IsStopped(pid_t pid) {
    return testing::ReadFile("/proc/" + std::to_string(pid) + "/stat").find(") T ") !=
           std::string::npos;
  }
  void CatchUp(bool one_stopped) const {
    for (size_t i = 0; i < drains_.size(); ++i) {
      if (one_stopped && i == kStopped) continue;
      while (taken_[i].load(std::memory_order_relaxed) != published_)
        std::this_thread::sleep_for(kNap);
    }
  }
  void StopOne() {
    const testing::ChildProcess& one = *drains_[kStopped];
    CatchUp(false);
    one.Signal(SIGSTOP);
    while (!IsStopped(one.pid())) std::this_thread::yield();
    for (uint64_t i = 0; i < kQueue / kBurst; ++i) (void)Burst(true);  // its queue is full now
  }
  double Burst(bool one_stopped) {
    CatchUp(one_stopped);
    return Publish(kBurst);
  }
  double Publish(uint64_t count) {
    const auto start = std::chrono::steady_clock::now();
    for (uint64_t i = 0; i < count; ++i) {
      // Checked in place: a copy of what was just written would wait for the stores before it.
      auto loan = publisher_.NewLoan(kBytes);
      const auto published = publisher_.Publish(*loan, std::chrono::nanoseconds{0});
      if (!loan || !published) Die("loan and publish", loan.message() + ", " + published.message());
      dropped_ += static_cast<uint64_t>(published->dropped);
    }
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    published_ += count;
    return time.count() / static_cast<double>(count);
  }

  const testing::SharedCounts taken_;  // by subscriber: the last message that it has taken
  Client client_;
  Publisher publisher_;
  std::vector<std::unique_ptr<testing::ChildProcess>> drains_;
  uint64_t published_ = 0;
  uint64_t dropped_ = 0;
};

}  // namespace

int RunDrain(const std::string& runtime_dir, const std::string& channel, int counts_fd,
             size_t index) {
  PinTo(1);
  const testing::SharedCounts counts(counts_fd);
  Client client = Must(Client::Connect({"drain", runtime_dir}), "connect");
  Subscriber subscriber = Must(client.JoinAsSubscriber(channel), "join");
  for (uint64_t last = 0;;) {
    auto sample = subscriber.TryTake();
    if (sample) {
      last = sample->sequence();
      continue;
    }
    if (sample.code() != Code::kTimeout) return sample.code() == Code::kEndOfStream ? 0 : 1;
    counts[index].store(last, std::memory_order_relaxed);
    std::this_thread::sleep_for(kNap);
  }
}

namespace {

using Measure = double (Fan::*)(bool one_stopped);

std::vector<Subject> InTurns(const Site& site, Measure measure) {
  PinTo(0);
  const auto fan = std::make_shared<Fan>(site.daemon.runtime_dir(), "drop");
  for (int i = 0; i < 2; ++i) (void)(fan.get()->*measure)(false);  // until each chunk has been used
  const auto subject = [&](const char* name, bool one_stopped) {
    return Subject{name, kSubscribers + 1, kBytes, [fan, measure, one_stopped] {
                     return std::vector{(fan.get()->*measure)(one_stopped)};
                   }};
  };
  return {subject("one stopped", true), subject("none stopped", false)};
}

}  // namespace

std::vector<Subject> DroppingStopped(const Site& site) { return InTurns(site, &Fan::Round); }
std::vector<Subject> DroppingFlood(const Site& site) { return InTurns(site, &Fan::Flood); }

}  // namespace zerocp::bench
