#include "tests/bench/client_killed.h"

#include <signal.h>
#include <unistd.h>
#include <zerocp/zerocp.h>

#include <chrono>
#include <filesystem>
#include <thread>
#include <vector>

#include "tests/bench/floor.h"
#include "tests/bench/loan_round.h"
#include "tests/bench/must.h"
#include "tests/system/child_process.h"
#include "tests/system/shared_counts.h"

namespace zerocp::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kBetweenKills{100};
constexpr std::chrono::seconds kPatience{60};
constexpr int kHeld = 1000;
// In the counts that all processes share.
constexpr size_t kKills = 0;
constexpr size_t kReady = 1;

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
  for (auto next = Clock::now();; next += kBetweenKills) {
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
}

Pair ClientKilled(const testing::DaemonProcess& daemon, const std::string& pool, int rounds) {
  Client client = Must(Client::Connect({"bench", daemon.runtime_dir()}), "connect");
  PinTo(0);
  LoanRound(client, pool);  // warms up
  const testing::SharedCounts counts;
  Pair pair{{"client_killed", "kills", 4, kLoanRoundBytes, {}},
            {"client_killed", "quiet", 1, kLoanRoundBytes, {}}};
  for (int round = 0; round < rounds; ++round) {
    pair.against.samples.push_back(LoanRound(client, pool));
    testing::ChildProcess killer({.command = Self("--killer", daemon.runtime_dir(), pool, counts)});
    const auto wait_for_a_kill = [&] {
      const uint64_t kills = counts[kKills];
      for (const auto end = Clock::now() + kPatience; counts[kKills] == kills;) {
        if (!killer.Running() || Clock::now() > end) Die("kills", "nobody is killed");
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    };
    wait_for_a_kill();
    pair.subject.samples.push_back(LoanRound(client, pool));
    wait_for_a_kill();
  }
  return pair;
}

}  // namespace zerocp::bench
