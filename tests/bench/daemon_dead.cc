#include "tests/bench/daemon_dead.h"

#include <signal.h>
#include <zerocp/zerocp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "tests/bench/must.h"
#include "tests/bench/pin.h"
#include "tests/system/child_process.h"
#include "tests/system/shared_counts.h"

namespace zerocp::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kBytes = 1024;
constexpr uint64_t kBatch = 1000;
constexpr std::chrono::milliseconds kRound{150};

class Stream {
 public:
  Stream(const std::string& runtime_dir, const std::string& channel)
      : client_(Must(Client::Connect({"bench", runtime_dir}), "connect")),
        publisher_(Must(client_.JoinAsPublisher(channel), "join")),
        sink_({.command = {std::filesystem::read_symlink("/proc/self/exe"), "--sink", runtime_dir,
                           channel, std::to_string(taken_.fd())}}) {
    (void)Must(publisher_.WaitForSubscribers(1, std::chrono::seconds(30)),
               "waiting for the second process");
  }

  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Nanoseconds of a message, from the loan until it is taken: of the median batch.
  double Round() {
    std::vector<double> batches;
    const auto end = Clock::now() + kRound;
    do batches.push_back(Batch());
    while (Clock::now() < end);
    return Quantile(batches, 0.5);
  }
  ~Stream() {
    publisher_.Close();
    if (sink_.Wait() != 0) {
      std::fprintf(stderr, "zerocp_bench: the second process failed\n");
      std::exit(1);
    }
  }

 private:
  double Batch() {
    const auto start = Clock::now();
    for (uint64_t i = 0; i < kBatch; ++i) {
      Loan loan = Must(publisher_.NewLoan(kBytes, std::nullopt), "loan");
      (void)Must(publisher_.Publish(loan), "publish");
    }
    published_ += kBatch;
    while (taken_[0].load(std::memory_order_relaxed) != published_) __builtin_ia32_pause();
    const std::chrono::duration<double, std::nano> time = Clock::now() - start;
    return time.count() / kBatch;
  }

  const testing::SharedCounts taken_;  // 0: the last message that was taken
  Client client_;
  Publisher publisher_;
  testing::ChildProcess sink_;
  uint64_t published_ = 0;
};

}  // namespace

int RunSink(const std::string& runtime_dir, const std::string& channel, int counts_fd) {
  PinTo(1);
  const testing::SharedCounts counts(counts_fd);
  Client client = Must(Client::Connect({"sink", runtime_dir}), "connect");
  Subscriber subscriber = Must(client.JoinAsSubscriber(channel), "join");
  for (;;) {
    auto sample = subscriber.Wait();
    if (!sample) return sample.code() == Code::kEndOfStream ? 0 : 1;
    counts[0].store(sample->sequence(), std::memory_order_relaxed);
  }
}

std::vector<Subject> DaemonDead(const Site& site) {
  PinTo(0);
  const auto stream = std::make_shared<Stream>(site.daemon.runtime_dir(), "ping");
  (void)stream->Round();  // the second process needs the daemon until it has joined
  return {{"dead", 2, kBytes,
           [stream, &daemon = site.daemon] {
             daemon.Stop(SIGKILL);
             const double time = stream->Round();
             daemon.Start();
             return std::vector{time};
           }},
          {"alive", 2, kBytes, [stream] { return std::vector{stream->Round()}; }}};
}

}  // namespace zerocp::bench
