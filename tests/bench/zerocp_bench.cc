// zerocp_bench: what zerocp costs, beside what it is measured against, in one run.
//
// The subjects take turns (A B A B), so that the ratios survive a noisy machine; quote those.
#include <time.h>
#include <zerocp/zerocp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "tests/bench/client_killed.h"
#include "tests/bench/daemon_dead.h"
#include "tests/bench/dropping_stopped.h"
#include "tests/bench/floor.h"
#include "tests/bench/grpc_beside_empty.h"
#include "tests/bench/grpc_watched.h"
#include "tests/bench/ping_pong.h"
#include "tests/bench/report.h"
#include "tests/system/daemon_process.h"

namespace zerocp::bench {
namespace {

constexpr char kHelp[] =
    "Usage: zerocp_bench [--quick] [--work NAME] [--json FILE]\n"
    "\n"
    "Starts a zerocpd of its own for each work and measures:\n"
    "  loan_release  a 1 KiB loan and its release, beside glibc's malloc and free\n"
    "  ping_pong     a 1 KiB message to another process and back, both polling,\n"
    "                beside two cache lines written in turn (the floor)\n"
    "  dropping_stopped  loan and publish to 12 subscribers of a channel that drops, one of them\n"
    "                stopped, beside none\n"
    "  dropping_flood  the same as fast as it goes, so that all of them miss messages\n"
    "  daemon_dead   a stream of 1 KiB messages to another process while the daemon is dead,\n"
    "                beside the same stream with it\n"
    "  get_stats     GetStats over gRPC, beside an RPC to a server that does nothing\n"
    "  create_session  CreateSession, beside the same\n"
    "  attach_to_loan  from Connect to the first chunk, beside two of those\n"
    "  watched       a 1 KiB loan and its release while 64 callers watch the statistics at\n"
    "                100 ms, beside nobody\n"
    "  client_killed  the same while a client that holds 1,000 chunks is killed every 100 ms,\n"
    "                beside quiet\n"
    "\n"
    "  --quick       a tenth of the rounds, and exit 1 if a ratio is beyond its limit: 2 times\n"
    "                malloc and free, 4 times the floor, 1.25 times none stopped, 1.11 times\n"
    "                the daemon alive, 2.5 times the empty RPC, 1.5 times two of them, 1.5 times\n"
    "                nobody watching, 3 times quiet. A work beyond it goes on for up to three\n"
    "                times as long, and all of its rounds count\n"
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

Pair LoanRelease(const std::string& runtime_dir, int rounds) {
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

struct Work {
  const char* name;
  double goal;   // of the ratio, at most
  double limit;  // what --quick demands: noise of a busy machine is let pass
  Pair (*run)(testing::DaemonProcess& daemon, int rounds);
};
constexpr Work kWorks[] = {
    {"loan_release", 0.5, 2.0,
     [](auto& daemon, int rounds) { return LoanRelease(daemon.runtime_dir(), rounds); }},
    {"ping_pong", 2.0, 4.0,
     [](auto& daemon, int rounds) { return PingPong(daemon.runtime_dir(), rounds, 2000); }},
    {"dropping_stopped", 1.1, 1.25,
     [](auto& daemon, int rounds) {
       return DroppingStopped(daemon.runtime_dir(), "drop", rounds);
     }},
    {"dropping_flood", 1.1, 1.25,
     [](auto& daemon, int rounds) {
       return DroppingFlood(daemon.runtime_dir(), "drop", rounds / 4);
     }},
    {"daemon_dead", 1 / 0.9, 1 / 0.9,  // 90 % of the messages per second
     [](auto& daemon, int rounds) { return DaemonDead(daemon, "ping", rounds / 2); }},
    {"get_stats", 1.5, 2.5, [](auto& daemon, int rounds) { return GetStats(daemon, rounds); }},
    {"create_session", 1.5, 2.5,
     [](auto& daemon, int rounds) { return CreateSession(daemon, rounds); }},
    {"attach_to_loan", 1.0, 1.5,
     [](auto& daemon, int rounds) { return AttachToLoan(daemon, "bench", rounds); }},
    {"watched", 1.2, 1.5,
     [](auto& daemon, int rounds) { return Watched(daemon, "bench", rounds / 4); }},
    {"client_killed", 1.5, 3.0,
     [](auto& daemon, int rounds) { return ClientKilled(daemon, "bench", rounds / 4); }},
};

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
  // `fan` is so small that its chunks come back to a publisher while other cores still have their
  // lines, whether subscribers or the publisher itself gave them back.
  const std::vector<std::string> setup = {"--pool",    "bench=1KiBx8192",
                                          "--channel", "ping=bench",
                                          "--channel", "pong=bench",
                                          "--pool",    "fan=1KiBx1024",
                                          "--channel", "drop=fan,queue=128,when-full=drop"};
  std::vector<Series> results;
  std::vector<Ratio> ratios;
  for (const Work& work : kWorks) {
    if (!options.work.empty() && options.work != work.name) continue;
    std::fprintf(stderr, "zerocp_bench: %s ...\n", work.name);
    Unpin();  // the work before may have pinned it
    testing::DaemonProcess daemon(setup);
    Pair pair = work.run(daemon, options.quick ? 20 : 200);
    Ratio ratio = Compare(pair, work.goal, work.limit);
    // Noise goes by, a loss stays.
    for (int more = 2; options.quick && more > 0 && ratio.ratio > ratio.limit; --more) {
      std::fprintf(stderr, "zerocp_bench: %s: %.2f; it goes on ...\n", work.name, ratio.ratio);
      const Pair rest = work.run(daemon, 20);
      pair.subject.Append(rest.subject);
      pair.against.Append(rest.against);
      ratio = Compare(pair, work.goal, work.limit);
    }
    ratios.push_back(ratio);
    results.insert(results.end(), {pair.subject, pair.against});
  }
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
  if (argc == 6 && std::strcmp(argv[1], "--drain") == 0)
    return RunDrain(argv[2], argv[3], std::atoi(argv[4]), static_cast<size_t>(std::atoi(argv[5])));
  if (argc == 5 && std::strcmp(argv[1], "--sink") == 0)
    return RunSink(argv[2], argv[3], std::atoi(argv[4]));
  if (argc == 3 && std::strcmp(argv[1], "--empty-server") == 0) return RunEmptyServer(argv[2]);
  if (argc == 4 && std::strcmp(argv[1], "--watchers") == 0)
    return RunWatchers(argv[2], std::atoi(argv[3]));
  if (argc == 5 && std::strcmp(argv[1], "--killer") == 0)
    return RunKiller(argv[2], argv[3], std::atoi(argv[4]));
  if (argc == 5 && std::strcmp(argv[1], "--killed") == 0)
    return RunKilled(argv[2], argv[3], std::atoi(argv[4]));
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
  const auto is_named = [&](const Work& work) { return options.work == work.name; };
  if (!options.work.empty() && std::none_of(std::begin(kWorks), std::end(kWorks), is_named))
    return Usage(("no work " + options.work).c_str());
  return Run(options);
}

}  // namespace
}  // namespace zerocp::bench

int main(int argc, char** argv) { return zerocp::bench::Main(argc, argv); }
