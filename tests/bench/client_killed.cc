#include "tests/bench/client_killed.h"

#include <signal.h>
#include <unistd.h>
#include <zerocp/zerocp.h>

#include <chrono>
#include <filesystem>
#include <thread>
#include <vector>

#include "tests/bench/must.h"
#include "tests/bench/pin.h"
#include "tests/system/child_process.h"
#include "tests/system/shared_counts.h"

namespace zerocp::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kBetweenKills{100};
constexpr std::chrono::seconds kPatience{60};
constexpr std::chrono::milliseconds kRound{400};
constexpr char kPool[] = "bench";
constexpr int kHeld = 1000;
// In the counts that all processes share.
constexpr size_t kKills = 0;
constexpr size_t kReady = 1;
constexpr size_t kEnd = 2;

std::vector<std::string> Self(const char* role, const std::string& runtime_dir,
                              const std::string& pool, const testing::SharedCounts& counts) {
  return {std::filesystem::read_symlink("/proc/self/exe"), role, runtime_dir, pool,
          std::to_string(counts.fd())};
}

}  // namespace

int RunKilled(const std::string& runtime_dir, const std::string& pool, int counts_fd) {
  const testing::SharedCounts counts(counts_fd);
  Client client = Must(Client::Connect({"killed", runtime_dir}), "connect");
  std::vector<Loan> held;
  for (int i = 0; i < kHeld; ++i) held.push_back(Must(client.NewLoan(pool, 1), "loan"));
  ++counts[kReady];
  for (;;) pause();
}

int RunKiller(const std::string& runtime_dir, const std::string& pool, int counts_fd) {
  Unpin();
  const testing::SharedCounts counts(counts_fd);
  for (auto next = Clock::now(); counts[kEnd] == 0; next += kBetweenKills) {
    const uint64_t ready = counts[kReady];
    testing::ChildProcess killed({.command = Self("--killed", runtime_dir, pool, counts)});
    while (counts[kReady] == ready) {
      if (!killed.Running()) Die("a client that is to be killed", "it ended by itself");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_until(next);
    killed.Signal(SIGKILL);
    killed.Wait();
    ++counts[kKills];
  }
  return 0;
}

std::vector<Subject> UnderKills(const Site& site, const Subject& quiet) {
  return {{"kills", quiet.processes + 3, quiet.bytes,
           [quiet, &daemon = site.daemon] {
             const testing::SharedCounts counts;
             testing::ChildProcess killer(
                 {.command = Self("--killer", daemon.runtime_dir(), kPool, counts)});
             const auto wait_for_a_kill = [&] {
               const uint64_t kills = counts[kKills];
               for (const auto end = Clock::now() + kPatience; counts[kKills] == kills;) {
                 if (!killer.Running() || Clock::now() > end) Die("kills", "nobody is killed");
                 std::this_thread::sleep_for(std::chrono::milliseconds(1));
               }
             };
             wait_for_a_kill();
             auto times = RoundFor(kRound, quiet);
             wait_for_a_kill();
             counts[kEnd] = 1;
             if (killer.Wait() != 0) Die("the killer", "it failed");
             return times;
           }},
          {"quiet", quiet.processes, quiet.bytes, [quiet] { return RoundFor(kRound, quiet); }}};
}

}  // namespace zerocp::bench
