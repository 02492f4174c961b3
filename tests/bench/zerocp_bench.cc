// zerocp_bench: what zerocp costs, beside what it is measured against, in one run.
//
// The subjects take turns (A B A B), so that the ratios survive a noisy machine; quote those, and
// medians.
#include <time.h>
#include <zerocp/zerocp.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tests/bench/dropping_stopped.h"
#include "tests/bench/floor.h"
#include "tests/bench/ping_pong.h"
#include "tests/bench/report.h"
#include "tests/system/daemon_process.h"

namespace zerocp::bench {
namespace {

constexpr char kHelp[] =
    "Usage: zerocp_bench [--quick] [--work NAME] [--json FILE]\n"
    "\n"
    "Starts a zerocpd of its own and measures:\n"
    "  loan_release  a 1 KiB loan and its release, beside glibc's malloc and free\n"
    "  ping_pong     a 1 KiB message to another process and back, both polling,\n"
    "                beside two cache lines written in turn (the floor)\n"
    "  dropping_stopped  loan and publish to 12 subscribers of a channel that drops, one of them\n"
    "                stopped, beside none\n"
    "\n"
    "  --quick       a tenth of the rounds, and exit 1 if a ratio is beyond its limit:\n"
    "                2 times malloc and free, 4 times the floor, 2 times none stopped\n"
    "  --work NAME   only this work\n"
    "  --json FILE   the results for programs, too\n"
    "\n"
    "Examples:\n"
    "  zerocp_bench --quick\n"
    "  zerocp_bench --work ping_pong --json ping_pong.json\n"
    "\n"
    "zerocpd is looked for beside this program, or in $ZEROCP_BIN_DIR.\n"
    "Exit codes: 0 measured, 1 failed, 2 usage.\n";

struct Options {
  bool quick = false;
  std::string work;
  std::string json;
};

double NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

template <class Operation>
double NsPerOperation(int count, Operation operation) {
  const double start = NowNs();
  for (int i = 0; i < count; ++i) operation();
  return (NowNs() - start) / count;
}

std::vector<Series> LoanRelease(const std::string& runtime_dir, int rounds) {
  constexpr size_t kBytes = 1024;
  constexpr int kBatch = 10000;
  auto client = Client::Connect({"bench", runtime_dir});
  if (!client) {
    std::fprintf(stderr, "zerocp_bench: %s\n", client.message().c_str());
    std::exit(1);
  }
  auto publisher = client->JoinAsPublisher("ping");
  PinTo(0);
  Series zerocp{"loan_release", "zerocp", 1, kBytes, {}};
  Series glibc{"loan_release", "malloc", 1, kBytes, {}};
  const auto loan = [&] {
    auto chunk = publisher->NewLoan(kBytes);
    asm volatile("" : : "r"(chunk->data().data()) : "memory");
  };
  const auto allocate = [] {
    void* bytes = std::malloc(kBytes);
    asm volatile("" : "+r"(bytes) : : "memory");
    std::free(bytes);
  };
  NsPerOperation(kBatch, loan);  // warms up
  NsPerOperation(kBatch, allocate);
  for (int round = 0; round < rounds; ++round) {
    zerocp.samples.push_back(NsPerOperation(kBatch, loan));
    glibc.samples.push_back(NsPerOperation(kBatch, allocate));
  }
  return {zerocp, glibc};
}

Ratio Compare(const std::vector<Series>& pair, double goal, double limit) {
  return {pair[0].work, pair[1].subject, pair[0].Quantile(0.5) / pair[1].Quantile(0.5), goal,
          limit};
}

int Run(const Options& options) {
  // The children find the programs where this one is.
  if (std::getenv("ZEROCP_BIN_DIR") == nullptr) {
    char path[4096];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
    if (length > 0) {
      const std::string program(path, static_cast<size_t>(length));
      setenv("ZEROCP_BIN_DIR", program.substr(0, program.rfind('/')).c_str(), 1);
    }
  }
  const testing::DaemonProcess daemon({"--pool", "bench=1KiBx8192", "--channel", "ping=bench",
                                       "--channel", "pong=bench", "--channel",
                                       "drop=bench,queue=128,when-full=drop"});
  std::vector<Series> results;
  std::vector<Ratio> ratios;
  const auto measure = [&](const char* work, double goal, double limit, auto run) {
    if (!options.work.empty() && options.work != work) return;
    std::fprintf(stderr, "zerocp_bench: %s ...\n", work);
    const std::vector<Series> pair = run();
    ratios.push_back(Compare(pair, goal, limit));
    results.insert(results.end(), pair.begin(), pair.end());
  };
  const int rounds = options.quick ? 20 : 200;
  measure("loan_release", 0.5, 2.0, [&] { return LoanRelease(daemon.runtime_dir(), rounds); });
  measure("ping_pong", 2.0, 4.0, [&] { return PingPong(daemon.runtime_dir(), rounds, 2000); });
  measure("dropping_stopped", 1.1, 2.0,
          [&] { return DroppingStopped(daemon.runtime_dir(), "drop", 5, rounds * 5); });
  PrintTable(results, ratios);
  if (!options.json.empty() && !WriteJson(options.json, results, ratios)) return 1;
  for (const Ratio& ratio : ratios) {
    if (options.quick && ratio.ratio > ratio.limit) {
      std::fprintf(stderr, "zerocp_bench: %s takes %.2f times as long as %s; the limit is %.2f\n",
                   ratio.work.c_str(), ratio.ratio, ratio.against.c_str(), ratio.limit);
      return 1;
    }
  }
  return 0;
}

int Usage(const char* problem) {
  std::fprintf(stderr, "zerocp_bench: %s; see zerocp_bench --help\n", problem);
  return 2;
}

int Main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], "--peer") == 0) return RunPeer(argv[2], std::atoi(argv[3]));
  if (argc == 4 && std::strcmp(argv[1], "--drain") == 0) return RunDrain(argv[2], argv[3]);
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--help") {
      std::fputs(kHelp, stdout);
      return 0;
    }
    if (argument == "--quick") {
      options.quick = true;
    } else if ((argument == "--work" || argument == "--json") && i + 1 < argc) {
      (argument == "--work" ? options.work : options.json) = argv[++i];
    } else {
      return Usage(("unknown argument " + argument).c_str());
    }
  }
  if (!options.work.empty() && options.work != "loan_release" && options.work != "ping_pong" &&
      options.work != "dropping_stopped") {
    return Usage("--work is loan_release, ping_pong or dropping_stopped");
  }
  return Run(options);
}

}  // namespace
}  // namespace zerocp::bench

int main(int argc, char** argv) { return zerocp::bench::Main(argc, argv); }
