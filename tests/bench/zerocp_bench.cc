// zerocp_bench: what zerocp costs, beside what it is measured against, in one run.
//
// The subjects of a work take turns (A B A B), so that the ratios survive a noisy machine.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "tests/bench/client_killed.h"
#include "tests/bench/daemon_dead.h"
#include "tests/bench/fan.h"
#include "tests/bench/grpc_beside_empty.h"
#include "tests/bench/grpc_watched.h"
#include "tests/bench/memory.h"
#include "tests/bench/peers/peers.h"
#include "tests/bench/pin.h"
#include "tests/bench/report.h"
#include "tests/bench/work.h"

namespace zerocp::bench {
namespace {

constexpr char kHelp[] =
    "Usage: zerocp_bench [--quick] [--work NAME]... [--peers LIST] [--json FILE] [--list]\n"
    "\n"
    "Starts a zerocpd of its own for each work, and measures zerocp and its peers in turn.\n"
    "\n"
    "  --quick       a tenth of the rounds, without some works that have no goal, and exit 1 if a\n"
    "                ratio is beyond its limit, which is\n"
    "                twice the goal unless --list says another. A work beyond it goes on for up\n"
    "                to three times as long, and all of its rounds count\n"
    "  --work NAME   only this work, or all NAME/...; memory: what memory is taken, which\n"
    "                --quick leaves out\n"
    "  --peers LIST  only these peers: names with commas between them, or none\n"
    "  --json FILE   the results for programs, too\n"
    "  --list        the works with their goals, and the peers\n"
    "\n"
    "Examples:\n"
    "  zerocp_bench --quick\n"
    "  zerocp_bench --work ping_pong --work stream/1KiB --peers floor,iceoryx --json some.json\n"
    "\n"
    "zerocpd is looked for beside this program, or in $ZEROCP_BIN_DIR.\n"
    "Exit codes: 0 measured, 1 failed, 2 usage.\n";

constexpr char kMemory[] = "memory";  // of --work, beside the works' names

struct Options {
  bool quick = false;
  std::vector<std::string> works;
  std::vector<std::string> peers;
  bool all_peers = true;
  std::string json;

  bool Wants(const Work& work) const {
    const auto names = [&](const std::string& name) {
      return work.name == name || work.name.rfind(name + "/", 0) == 0;
    };
    if (works.empty()) return !(quick && work.only_full);
    return std::any_of(works.begin(), works.end(), names);
  }
  bool WantsMemory() const {
    return works.empty() ? !quick : std::find(works.begin(), works.end(), kMemory) != works.end();
  }
};

constexpr int kWarmUps = 3;
constexpr unsigned kPatienceSeconds = 120;
const char* under_way = "";  // the work, for the watchdog

void GiveUp(int) {
  const auto say = [](const char* text) { (void)!write(STDERR_FILENO, text, std::strlen(text)); };
  say("\nzerocp_bench: nothing came of ");
  say(under_way);
  say(" for 120 s: one of its processes hangs, or has gone; it is given up\n");
  _exit(1);
}

void Progress(const Work& work, int round, int rounds) {
  if (isatty(STDERR_FILENO) == 0) {
    if (round == 0) std::fprintf(stderr, "zerocp_bench: %s ...\n", work.name.c_str());
    return;
  }
  std::fprintf(stderr, "\r\033[Kzerocp_bench: %s %d of %d", work.name.c_str(), round, rounds);
  if (round == rounds) std::fputs("\r\033[K", stderr);
}

void Measure(const Work& work, const std::vector<Subject>& subjects, int rounds,
             std::vector<Series>& results) {
  for (int round = 0; round < rounds; ++round) {
    Progress(work, round, rounds);
    alarm(kPatienceSeconds);
    for (size_t i = 0; i < subjects.size(); ++i) {
      if (subjects[i].missing.empty()) results[i].rounds.push_back(subjects[i].round());
    }
  }
  Progress(work, rounds, rounds);
}

std::vector<Ratio> Ratios(const Work& work, const std::vector<Series>& results) {
  std::vector<Ratio> ratios;
  for (size_t i = 1; i < results.size(); ++i) {
    if (!results[i].missing.empty()) continue;
    bool has_goal = false;
    for (const Goal& goal : work.goals) {
      if (goal.against != results[i].subject) continue;
      ratios.push_back(Compare(results[0], results[i], goal));
      has_goal = true;
    }
    if (!has_goal) ratios.push_back(Compare(results[0], results[i], {results[i].subject}));
  }
  return ratios;
}

bool IsBeyond(const std::vector<Ratio>& ratios) {
  return std::any_of(ratios.begin(), ratios.end(),
                     [](const Ratio& ratio) { return ratio.beyond(); });
}

void Run(const Work& work, bool quick, Report& report) {
  under_way = work.name.c_str();
  alarm(kPatienceSeconds);
  Unpin();  // the work before may have pinned it
  testing::DaemonProcess daemon(work.daemon_arguments);
  const std::vector<Subject> subjects = work.subjects({daemon, report.peers});
  std::vector<Series> results;
  for (const Subject& subject : subjects) {
    results.push_back(
        {work.name, subject.name, subject.processes, subject.bytes, subject.missing, {}});
    for (int i = 0; i < kWarmUps && subject.missing.empty(); ++i) (void)subject.round();
  }
  const int rounds = quick ? std::max(work.rounds / 10, 3) : work.rounds;
  Measure(work, subjects, rounds, results);
  std::vector<Ratio> ratios = Ratios(work, results);
  // Noise goes by, a loss stays.
  for (int more = 2; quick && more > 0 && IsBeyond(ratios); --more) {
    std::fprintf(stderr, "zerocp_bench: %s is beyond its limit; it goes on ...\n",
                 work.name.c_str());
    Measure(work, subjects, rounds, results);
    ratios = Ratios(work, results);
  }
  report.results.insert(report.results.end(), results.begin(), results.end());
  report.ratios.insert(report.ratios.end(), ratios.begin(), ratios.end());
}

int RunAll(const Options& options) {
  // The children find the programs where this one is.
  if (std::getenv("ZEROCP_BIN_DIR") == nullptr) {
    char path[4096];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
    if (length > 0) {
      const std::string program(path, static_cast<size_t>(length));
      setenv("ZEROCP_BIN_DIR", program.substr(0, program.rfind('/')).c_str(), 1);
    }
  }
  (void)signal(SIGALRM, GiveUp);
  Report report;
  for (Peer& peer : AllPeers()) {
    if (!options.all_peers && peer.name != "zerocp" &&
        std::find(options.peers.begin(), options.peers.end(), peer.name) == options.peers.end())
      continue;
    if (!peer.missing.empty())
      std::fprintf(stderr, "zerocp_bench: %s is missing: %s\n", peer.name.c_str(),
                   peer.missing.c_str());
    report.peers.push_back(std::move(peer));
  }
  for (const Work& work : AllWorks()) {
    if (options.Wants(work)) Run(work, options.quick, report);
  }
  if (options.WantsMemory()) {
    under_way = kMemory;
    alarm(kPatienceSeconds);
    Unpin();
    report.memory = MeasureMemory(report.peers);
  }
  PrintTable(report);
  if (!options.json.empty() && !WriteJson(options.json, report)) return 1;
  if (!options.quick || !IsBeyond(report.ratios)) return 0;
  for (const Ratio& ratio : report.ratios) {
    if (ratio.beyond())
      std::fprintf(stderr, "zerocp_bench: %s takes %.3f times as long as %s; the limit is %.3f\n",
                   ratio.work.c_str(), ratio.ratio, ratio.against.c_str(), ratio.limit);
  }
  return 1;
}

int List() {
  for (const Work& work : AllWorks()) {
    std::printf("%-36s %s\n", work.name.c_str(), work.about.c_str());
    for (const Goal& goal : work.goals)
      std::printf("%36s at most %.2f times %s%s; limit %.2f\n", "", goal.goal, goal.against.c_str(),
                  goal.quantile == 0.5 ? "" : " (p99 of a round)",
                  goal.limit == 0 ? 2 * goal.goal : goal.limit);
  }
  std::printf("%-36s what the daemon, a client and a chunk take of it\n\n", kMemory);
  for (const Peer& peer : AllPeers())
    std::printf(
        "%-12s %s\n", peer.name.c_str(),
        peer.missing.empty() ? peer.configuration.c_str() : ("missing: " + peer.missing).c_str());
  return 0;
}

int Usage(const std::string& problem) {
  std::fprintf(stderr, "zerocp_bench: %s; see zerocp_bench --help\n", problem.c_str());
  return 2;
}

// The other processes of the works.
int RunRole(const std::string& role, const std::vector<std::string>& words) {
  if (role == "--other-end") {
    for (const Peer& peer : AllPeers())
      if (peer.name == words.at(0)) return peer.other_end({words.begin() + 1, words.end()});
  }
  if (role == "--drain")
    return RunDrain(words.at(0), words.at(1), std::stoi(words.at(2)), std::stoul(words.at(3)));
  if (role == "--sink") return RunSink(words.at(0), words.at(1), std::stoi(words.at(2)));
  if (role == "--empty-server") return RunEmptyServer(words.at(0));
  if (role == "--watchers") return RunWatchers(words.at(0), std::stoi(words.at(1)));
  if (role == "--killer") return RunKiller(words.at(0), words.at(1), std::stoi(words.at(2)));
  if (role == "--killed") return RunKilled(words.at(0), words.at(1), std::stoi(words.at(2)));
  return Usage("unknown argument " + role);
}

}  // namespace

// jemalloc wants more thread-local storage than glibc has to spare for a library that is loaded
// late.
void StartAgainWithMoreThreadLocalStorage(char** argv) {
  constexpr char kVariable[] = "GLIBC_TUNABLES";
  if (std::getenv(kVariable) != nullptr) return;
  setenv(kVariable, "glibc.rtld.optional_static_tls=16384", 1);
  execv("/proc/self/exe", argv);  // on failure jemalloc is reported as missing
}

int Main(const std::vector<std::string>& arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const bool has_value = i + 1 < arguments.size();
    if (argument == "--help") {
      std::fputs(kHelp, stdout);
      return 0;
    }
    if (argument == "--list") return List();
    if (argument == "--quick") {
      options.quick = true;
    } else if (argument == "--work" && has_value) {
      options.works.push_back(arguments[++i]);
    } else if (argument == "--peers" && has_value) {
      options.all_peers = false;
      std::istringstream list(arguments[++i]);
      for (std::string name; std::getline(list, name, ',');) options.peers.push_back(name);
    } else if (argument == "--json" && has_value) {
      options.json = arguments[++i];
    } else {
      return RunRole(argument,
                     {arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1, arguments.end()});
    }
  }
  for (const std::string& name : options.works) {
    const auto all = AllWorks();
    Options one;
    one.works = {name};
    if (name != kMemory &&
        std::none_of(all.begin(), all.end(), [&](const Work& work) { return one.Wants(work); }))
      return Usage("no work " + name + " (--list has them)");
  }
  for (const std::string& name : options.peers) {
    const auto all = AllPeers();
    if (name != "none" &&
        std::none_of(all.begin(), all.end(), [&](const Peer& peer) { return peer.name == name; }))
      return Usage("no peer " + name + " (--list has them)");
  }
  return RunAll(options);
}

}  // namespace zerocp::bench

int main(int argc, char** argv) {
  zerocp::bench::StartAgainWithMoreThreadLocalStorage(argv);
  return zerocp::bench::Main({argv + 1, argv + argc});
}
