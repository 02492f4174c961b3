// What the daemon's recovery of a death costs, beside a plain read of the same records: in one
// process, over an instance of its own.
#include <stdlib.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "shm/recovery.h"
#include "shm/session.h"
#include "tests/bench/report.h"

namespace zerocp::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kHelp[] =
    "Usage: recovery_bench [--quick] [--json FILE]\n"
    "\n"
    "Measures the recovery of a session that held one of 1,024 chunks, in nanoseconds per chunk "
    "of\n"
    "its pool, beside reading every word of its records once; pools of 16,384 and 1,048,576 "
    "chunks.\n"
    "\n"
    "  --quick      a tenth of the rounds, and exit 1 if a recovery takes more than 6 times as "
    "long\n"
    "               as the read\n"
    "  --json FILE  the results for programs, too\n"
    "\n"
    "Examples:\n"
    "  recovery_bench --quick\n"
    "  recovery_bench --json recovery.json\n"
    "\n"
    "Exit codes: 0 measured, 1 failed, 2 usage.\n";

constexpr uint32_t kChunksPerHeld = 1024;
constexpr double kGoal = 3;

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "recovery_bench: %s\n", message.c_str());
  std::exit(1);
}

class Instance {
 public:
  explicit Instance(uint32_t chunk_count) {
    char dir[] = "/dev/shm/zerocp_bench_XXXXXX";
    if (mkdtemp(dir) == nullptr) Die(std::string("cannot make a directory: ") + strerror(errno));
    dir_ = dir;
    shm::MemPoolManager::CreateOptions options;
    options.segment_dir = dir_;
    options.instance = "bench";
    auto manager = shm::MemPoolManager::Create(options);
    if (!manager.ok()) Die(manager.status().message());
    manager_ = std::move(*manager);
    shm::PoolSpec spec;
    spec.name = "pool";
    spec.chunk_size_bytes = 64;
    spec.chunk_count = chunk_count;
    if (auto pool = manager_->CreatePool(spec); !pool.ok()) Die(pool.status().message());
    registry_ = std::make_unique<shm::ChannelRegistry>(*manager_);
    recovery_ = std::make_unique<shm::Recovery>(*manager_, *registry_);
  }
  ~Instance() {
    (void)manager_->Destroy();
    std::filesystem::remove_all(dir_);
  }
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  const shm::PoolView& pool() const { return *manager_->FindPool("pool"); }

  double ReadNs() const {
    const shm::PoolView& view = pool();
    const uint32_t count = view.live_chunk_count();
    const auto start = Clock::now();
    uint64_t sum = 0;
    const uint32_t words = (1u << view.record_shift) / uint32_t{sizeof(uint64_t)};
    for (uint32_t chunk = 0; chunk < count; ++chunk) {
      const auto* record = reinterpret_cast<const uint64_t*>(&view.record(chunk));
      for (uint32_t word = 0; word < words; ++word)
        sum += __atomic_load_n(record + word, __ATOMIC_RELAXED);
    }
    asm volatile("" : : "r"(sum) : "memory");
    return NsPerChunk(start);
  }

  // A session takes chunks and is gone, as one that was killed.
  double RecoveryNs() {
    shm::Session session(manager_, kSession);
    const uint32_t held = pool().live_chunk_count() / kChunksPerHeld;
    for (uint32_t i = 0; i < held; ++i) {
      shm::ChunkRef chunk;
      if (session.Loan(pool(), shm::Deadline::Now(), &chunk) != shm::Code::kOk) Die("no chunk");
    }
    session.Disown();
    const auto start = Clock::now();
    const shm::RecoveryReport report = recovery_->Recover(shm::SessionSet().set(kSession), false);
    const double ns = NsPerChunk(start);
    if (report.freed_chunk_count < held) Die("the recovery left chunks");
    return ns;
  }

 private:
  static constexpr uint16_t kSession = shm::kFirstSession;

  double NsPerChunk(Clock::time_point start) const {
    return std::chrono::duration<double, std::nano>(Clock::now() - start).count() /
           pool().live_chunk_count();
  }

  std::string dir_;
  std::shared_ptr<shm::MemPoolManager> manager_;
  std::unique_ptr<shm::ChannelRegistry> registry_;
  std::unique_ptr<shm::Recovery> recovery_;
};

void Measure(uint32_t chunk_count, int rounds, Report& report) {
  const std::string work = "recovery of " + std::to_string(chunk_count);
  Series recovery{work, "recovery"};
  Series read{work, "read"};
  Instance instance(chunk_count);
  (void)instance.RecoveryNs();  // warms up
  for (int round = 0; round < rounds; ++round) {
    read.rounds.push_back({instance.ReadNs()});
    recovery.rounds.push_back({instance.RecoveryNs()});
  }
  report.ratios.push_back(Compare(recovery, read, {"read", kGoal, kGoal}));
  report.results.insert(report.results.end(), {recovery, read});
}

int Run(bool quick, const std::string& json) {
  Report report;
  for (const auto& [chunk_count, rounds] : {std::pair(1u << 14, 2000), std::pair(1u << 20, 100)})
    Measure(chunk_count, quick ? rounds / 10 : rounds, report);
  PrintTable(report);
  if (!json.empty() && !WriteJson(json, report)) return 1;
  for (const Ratio& ratio : report.ratios) {
    if (!quick || !ratio.beyond()) continue;
    std::fprintf(stderr, "recovery_bench: %s takes %.2f times as long as %s; the limit is %.2f\n",
                 ratio.work.c_str(), ratio.ratio, ratio.against.c_str(), ratio.limit);
    return 1;
  }
  return 0;
}

int Main(int argc, char** argv) {
  bool quick = false;
  std::string json;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--help") {
      std::fputs(kHelp, stdout);
      return 0;
    }
    if (argument == "--quick") {
      quick = true;
    } else if (argument == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else {
      std::fprintf(stderr, "recovery_bench: unknown argument %s; see recovery_bench --help\n",
                   argv[i]);
      return 2;
    }
  }
  return Run(quick, json);
}

}  // namespace
}  // namespace zerocp::bench

int main(int argc, char** argv) { return zerocp::bench::Main(argc, argv); }
