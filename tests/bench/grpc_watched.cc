#include "tests/bench/grpc_watched.h"

#include <grpcpp/grpcpp.h>
#include <zerocp/zerocp.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include "tests/bench/must.h"
#include "tests/bench/pin.h"
#include "tests/system/child_process.h"
#include "tests/system/shared_counts.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kWatchers = testing::SharedCounts::kMaxCount;
static_assert(kWatchers == 64);
constexpr int kIntervalMs = 100;
constexpr std::chrono::milliseconds kRound{400};
constexpr std::chrono::seconds kPatience{60};

void Watch(v1::ObserverService::Stub& stub, std::atomic<uint64_t>& updates) {
  grpc::ClientContext context;
  v1::WatchStatsRequest request;
  request.mutable_interval()->set_nanos(kIntervalMs * 1'000'000);
  const auto reader = stub.WatchStats(&context, request);
  for (v1::WatchStatsResponse response; reader->Read(&response);) ++updates;
  std::fprintf(stderr, "zerocp_bench: WatchStats has ended: %s\n",
               reader->Finish().error_message().c_str());
  std::_Exit(1);
}

// The watchers, all of which have had an update.
class Watchers {
 public:
  explicit Watchers(const testing::DaemonProcess& daemon)
      : process_({.command = {std::filesystem::read_symlink("/proc/self/exe"), "--watchers",
                              daemon.socket("client.sock"), std::to_string(updates_.fd())}}) {
    WaitForUpdates();
  }
  // Until each has had one more, or more.
  void WaitForUpdates() {
    const auto end = Clock::now() + kPatience;
    for (size_t i = 0; i < kWatchers; ++i) {
      while (updates_[i] == seen_[i]) {
        if (!process_.Running() || Clock::now() > end)
          Die("64 watchers", "one of them gets no updates");
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      seen_[i] = updates_[i];
    }
  }

 private:
  const testing::SharedCounts updates_;
  std::vector<uint64_t> seen_ = std::vector<uint64_t>(kWatchers);
  testing::ChildProcess process_;
};

}  // namespace

int RunWatchers(const std::string& socket, int counts_fd) {
  Unpin();
  const testing::SharedCounts updates(counts_fd);
  const auto stub = v1::ObserverService::NewStub(
      grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials()));
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kWatchers; ++i) threads.emplace_back([&, i] { Watch(*stub, updates[i]); });
  for (std::thread& thread : threads) thread.join();
  return 1;
}

std::vector<Subject> Watched(const Site& site) {
  const Subject quiet = site.peers[0].loan_release({.place = site.daemon.runtime_dir()});
  return {{"64 watchers", 3, quiet.bytes,
           [quiet, &daemon = site.daemon] {
             Watchers watchers(daemon);
             const auto batches = RoundFor(kRound, quiet);
             watchers.WaitForUpdates();
             return batches;
           }},
          {"none", 1, quiet.bytes, [quiet] { return RoundFor(kRound, quiet); }}};
}

}  // namespace zerocp::bench
