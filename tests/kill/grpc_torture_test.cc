// Random operations by eight processes on the pools and channels of a daemon, while both are
// killed, stopped and started, pools come and go, and memory is short: no chunk is lost or handed
// out twice, no message is lost or comes twice, and nobody is stuck. The clients are this program
// again, `--torture`; they check each chunk and message (torture_marks.h, torture_subscription.h).
// After every tenth end of a process all stand still, and the daemon's census must agree with what
// each says that it has.
//
// $ZEROCP_TORTURE_SECONDS says how long, 60 unless it is set; $ZEROCP_TORTURE_SEED repeats the
// choices of an earlier run, though not how its processes met.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "tests/kill/grpc_torture_operator.h"
#include "tests/kill/torture_page.h"
#include "tests/system/daemon_process.h"

namespace zerocp::torture {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kWatchdog{60};
constexpr uint64_t kOperations = 1'000'000;        // of each of the two tests, at least
constexpr uint64_t kOperationsOfAnAction = 3'000;  // between one action and the next
constexpr int kKillsOfAnAudit = 10;
constexpr size_t kMostStopped = 3;

enum Action : size_t {
  kKillClient,
  kEndClient,
  kStopClient,
  kStopDaemon,
  kKillDaemon,
  kEndDaemon,
  kCreatePool,
  kGrowPool,
  kDeletePool,
  kDetach,
  kChurnChannel,
  kTerminate,
  kAudit,
  kActions
};
constexpr std::array<const char*, kActions> kActionNames = {"client killed",
                                                            "client ended",
                                                            "client stopped",
                                                            "daemon stopped",
                                                            "daemon killed",
                                                            "daemon ended",
                                                            "pool created",
                                                            "pool grown",
                                                            "pool deleted",
                                                            "subscriber detached",
                                                            "channel made or deleted",
                                                            "session terminated",
                                                            "audit"};

uint64_t Number(const char* variable, uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

class TortureTest : public ::testing::Test {
 protected:
  struct Child {
    uint32_t incarnation = 0;
    std::unique_ptr<testing::ChildProcess> process;
    std::string errors;  // its file
    bool stopped = false;
    bool ending = false;  // it was told to
  };

  TortureTest() {
    page_fd_ = memfd_create("torture", 0);
    if (page_fd_ < 0 || ftruncate(page_fd_, sizeof(Page)) != 0) std::abort();
    page_ = MapPage(page_fd_);
    std::printf("ZEROCP_TORTURE_SEED=%llu\n", static_cast<unsigned long long>(seed_));
    std::fflush(stdout);
  }
  ~TortureTest() override {
    munmap(page_, sizeof(Page));
    close(page_fd_);
  }

  uint64_t Random(uint64_t below) { return random_() % below; }
  uint64_t Operations() const {
    uint64_t sum = 0;
    for (const Slot& slot : page_->slots)
      for (const Worker& worker : slot.workers) sum += worker.operation_count.load();
    return sum;
  }

  // Until `done`; false, and a failure, if a client failed or one that is not stopped does nothing
  // any more.
  template <class Condition>
  bool Await(const char* what, Condition done) {
    struct Seen {
      uint64_t progress = 0;
      Clock::time_point time = Clock::now();
    };
    std::array<Seen, kProcesses * kWorkers> seen;
    const auto begin = Clock::now();
    for (;;) {
      if (done()) return true;
      if (HasFailure() || !AllRun()) return false;
      const auto now = Clock::now();
      const bool working = page_->command.load() % kPhases == kRun;
      for (size_t i = 0; working && i < seen.size(); ++i) {
        const Worker& worker = page_->slots[i / kWorkers].workers[i % kWorkers];
        const uint64_t progress = worker.operation_count.load();
        if (progress != seen[i].progress || children_[i / kWorkers].stopped)
          seen[i] = {progress, now};
        if (now - seen[i].time > kWatchdog) return Stuck(what, i);
      }
      if (now - begin > kWatchdog) return Stuck(what, seen.size());
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  bool Stuck(const char* what, size_t index) {
    std::string text = std::string("no ") + what + "\n";
    for (size_t i = 0; i < kProcesses * kWorkers; ++i) {
      const Worker& worker = page_->slots[i / kWorkers].workers[i % kWorkers];
      text += "process " + std::to_string(children_[i / kWorkers].incarnation) + ", worker " +
              std::to_string(i % kWorkers) + ": " + kStepNames[worker.step.load()] + ", answered " +
              std::to_string(worker.answer.load()) + " to " +
              std::to_string(page_->command.load()) + (i == index ? " STUCK\n" : "\n");
    }
    ADD_FAILURE() << text << daemon_.Log();
    return false;
  }
  bool AllRun() {
    for (Child& child : children_)
      if (child.process && !child.ending && !child.process->Running()) ExpectEnd(child, -1);
    return !HasFailure();
  }
  // The client has ended, with that exit code, and found nothing wrong.
  void ExpectEnd(Child& child, int exit_code) {
    const int code = child.process->Wait();
    EXPECT_EQ(code, exit_code) << "process " << child.incarnation;
    EXPECT_EQ(testing::ReadFile(child.errors), "") << "process " << child.incarnation;
    child.process.reset();
  }

  void Start(size_t slot) {
    Child& child = children_[slot];
    child.incarnation = static_cast<uint32_t>(++started_ * kProcesses + slot);
    child.errors = dir_.path() + "/" + std::to_string(slot);
    child.stopped = child.ending = false;
    for (Worker& worker : page_->slots[slot].workers) {
      worker.answer.store(0);
      worker.step.store(kConnect);
    }
    page_->slots[slot].incarnation.store(child.incarnation);
    child.process = std::make_unique<testing::ChildProcess>(testing::ChildOptions{
        .command = {std::filesystem::read_symlink("/proc/self/exe"), "--torture",
                    daemon_.runtime_dir(), std::to_string(page_fd_),
                    std::to_string(child.incarnation), std::to_string(random_())},
        .error = child.errors});
  }
  void End(size_t slot, int signal) {
    Child& child = children_[slot];
    if (signal == SIGKILL) {
      page_->slots[slot].incarnation.store(0);  // M2
    } else {  // it may not yet be the program that knows the signal
      const std::atomic<uint32_t>& step = page_->slots[slot].workers[0].step;
      child.process->Signal(SIGCONT);
      if (!Await("begin of a client", [&] { return step.load() != kConnect; })) return;
    }
    child.ending = true;
    child.process->Signal(signal);
    child.process->Signal(SIGCONT);
    if (signal != SIGKILL && !Await("end of a client", [&] { return !child.process->Running(); }))
      return;
    ExpectEnd(child, signal == SIGKILL ? 128 + SIGKILL : 0);
    ++ends_;
  }
  // The client gives everything back, and ends by itself.
  Action Terminate(size_t slot) {
    Child& child = children_[slot];
    child.ending = true;
    child.stopped = false;
    child.process->Signal(SIGCONT);
    if (!operator_.TerminateSessionOf(child.process->pid())) {
      child.ending = false;
      return kActions;
    }
    if (Await("end of a client", [&] { return !child.process->Running(); })) {
      ExpectEnd(child, 0);
      ++ends_;
      Start(slot);
    }
    return kTerminate;
  }
  void ContinueAll() {
    for (Child& child : children_) {
      if (child.process) child.process->Signal(SIGCONT);
      child.stopped = false;
    }
  }
  void StopClient(size_t slot) {
    const auto stopped = [](const Child& child) { return child.stopped; };
    if (std::count_if(children_.begin(), children_.end(), stopped) >=
        static_cast<ptrdiff_t>(kMostStopped)) {
      ContinueAll();
    }
    children_[slot].stopped = true;
    children_[slot].process->Signal(SIGSTOP);
  }
  void EndDaemon(int signal) {
    ContinueAll();  // a stop in order waits for the calls under way
    operator_.Disconnect();
    EXPECT_EQ(daemon_.Stop(signal), signal == SIGKILL ? 128 + SIGKILL : 0) << daemon_.Log();
    const uint64_t before = Operations();
    Await("work without a daemon", [&] { return Operations() > before + 500; });
    daemon_.Start();
    operator_.Connect();
    ++ends_;
  }
  void StopDaemon() {
    daemon_.Signal(SIGSTOP);
    const uint64_t before = Operations();
    const auto limit = Clock::now() + milliseconds(200);  // those who join wait for it
    Await("work",
          [&] { return Operations() > before + kOperationsOfAnAction || Clock::now() > limit; });
    daemon_.Signal(SIGCONT);
  }

  Action ChurnPool() {
    switch (operator_.ChurnPool(random_)) {
      case Operator::PoolStep::kNone:
        return kActions;
      case Operator::PoolStep::kCreated:
        return kCreatePool;
      case Operator::PoolStep::kGrown:
        return kGrowPool;
      case Operator::PoolStep::kDeleted:
        return kDeletePool;
    }
    return kActions;
  }
  Action Act(uint64_t choice) {
    const size_t slot = Random(kProcesses);
    if (choice < 40) return End(slot, SIGKILL), Start(slot), kKillClient;
    if (choice < 46) return End(slot, SIGTERM), Start(slot), kEndClient;
    if (choice < 62) return StopClient(slot), kStopClient;
    if (choice < 65) return StopDaemon(), kStopDaemon;
    if (choice < 80) return ChurnPool();
    if (choice < 85) return operator_.ChurnChannel(), kChurnChannel;
    if (choice < 88) return Terminate(slot);
    if (choice < 93) return operator_.DetachSubscriber(random_) ? kDetach : kActions;
    if (choice < 97) return EndDaemon(SIGKILL), kKillDaemon;
    return EndDaemon(SIGTERM), kEndDaemon;
  }

  // All stand still, take what waits, and say what they have.
  void Audit() {
    ContinueAll();
    ++round_;
    if (!Tell(kPause)) return;
    ASSERT_TRUE(Await("end of all recoveries", [&] { return FindSessions(); }));
    if (!Tell(kDrain) || !Tell(kReport)) return;
    std::string difference;
    const auto limit = Clock::now() + kWatchdog / 3;  // for what the daemon's tick lets out
    do {
      difference = Compare();
    } while (!difference.empty() && Clock::now() < limit && !HasFailure());
    ASSERT_EQ(difference, "") << daemon_.Log();
    operator_.ExpectAuditClean();
    page_->command.store(round_ * kPhases + kRun);
    ++counts_[kAudit];
    ends_at_audit_ = ends_;
  }
  bool Tell(Phase phase) {
    const uint32_t command = round_ * kPhases + phase;
    page_->command.store(command);
    return Await(phase == kPause   ? "pause"
                 : phase == kDrain ? "end of the drain"
                                   : "report",
                 [&] {
                   for (const Slot& slot : page_->slots)
                     for (const Worker& worker : slot.workers)
                       if (worker.answer.load() != command) return false;
                   return true;
                 });
  }
  // The sessions of all clients, when those of the dead are gone.
  bool FindSessions() {
    std::set<int32_t> living;
    for (const Child& child : children_) living.insert(child.process->pid());
    auto names = operator_.SessionsOf(living);
    if (names) session_names_ = std::move(*names);
    return names.has_value();
  }
  // How the daemon's census differs from what the clients say; empty if it does not.
  std::string Compare() {
    Holdings said;
    for (const Child& child : children_) {
      const std::string& session = session_names_[child.process->pid()];
      for (const Worker& worker : page_->slots[child.incarnation % kProcesses].workers) {
        const auto add = [&](Holdings::key_type key, const std::atomic<uint64_t>& count) {
          if (count.load() != 0) said[std::move(key)] += static_cast<int64_t>(count.load());
        };
        add({"", "", kHistory}, worker.report.history);
        for (size_t pool = 0; pool < kPools.size(); ++pool) {
          const std::string name = std::string("pools/") + kPools[pool];
          add({session, name, kWriting}, worker.report.writing[pool]);
          add({session, name, kReading}, worker.report.reading[pool]);
        }
      }
    }
    Holdings found = operator_.Census();
    if (found == said) return "";
    std::string difference;
    for (const auto& [key, count] : said) found.try_emplace(key, 0);
    for (const auto& [key, count] : found) {
      const auto& [holder, pool, phase] = key;
      const int64_t expected = said.count(key) == 0 ? 0 : said[key];
      if (count == expected) continue;
      difference += holder + " " + pool + " " + phase + ": " + std::to_string(count) +
                    " chunks found, " + std::to_string(expected) + " said\n";
    }
    return difference;
  }

  // Until the time is up, and all that is to happen has happened. `Choose` says which action comes
  // next.
  template <class Choose>
  void Torture(Choose choose) {
    for (size_t slot = 0; slot < kProcesses; ++slot) Start(slot);
    const auto begin = Clock::now();
    const auto end = begin + std::chrono::seconds(Number("ZEROCP_TORTURE_SECONDS", 60)) / 2;
    while (!HasFailure() && (Clock::now() < end || !Enough())) {
      const uint64_t before = Operations();
      if (!Await("work", [&] { return Operations() > before + kOperationsOfAnAction; })) break;
      const Action done = Act(choose());
      if (done != kActions) ++counts_[done];
      if (ends_ >= ends_at_audit_ + kKillsOfAnAudit && !HasFailure()) Audit();
    }
    if (!HasFailure()) Audit();
    Print(std::chrono::duration<double>(Clock::now() - begin).count());
    if (HasFailure()) return;
    for (size_t slot = 0; slot < kProcesses; ++slot) End(slot, SIGTERM);
    EXPECT_EQ(daemon_.Stop(SIGTERM), 0) << daemon_.Log();
    EXPECT_EQ(daemon_.Segments(), std::vector<std::string>{});  // nobody was left attached
  }
  bool Enough() const {
    const bool all =
        std::all_of(counts_.begin(), counts_.end(), [](uint64_t count) { return count >= kLeast; });
    constexpr Counter kMustHappen[] = {kExhausted, kJoins,     kFullQueues, kMissed,
                                       kDetaches,  kDeletions, kThreads};
    return all && Operations() >= kOperations &&
           std::all_of(std::begin(kMustHappen), std::end(kMustHappen),
                       [this](Counter counter) { return Total(counter) >= kLeast; });
  }
  uint64_t Total(Counter counter) const {
    uint64_t sum = 0;
    for (const Slot& slot : page_->slots) sum += slot.counters[counter].load();
    return sum;
  }
  void Print(double seconds) const {
    std::printf(
        "%llu operations in %.0f s (%.0f/s):", static_cast<unsigned long long>(Operations()),
        seconds, static_cast<double>(Operations()) / seconds);
    for (size_t i = 0; i < kCounters; ++i) {
      std::printf(" %s %llu", kCounterNames[i],
                  static_cast<unsigned long long>(Total(static_cast<Counter>(i))));
    }
    std::printf("\nactions:");
    for (size_t i = 0; i < kActions; ++i)
      std::printf(" %s %llu", kActionNames[i], static_cast<unsigned long long>(counts_[i]));
    std::printf("\n");
    std::fflush(stdout);
  }

  static constexpr uint64_t kLeast = 3;  // of each action, and of what clients must meet

  const uint64_t seed_ = Number("ZEROCP_TORTURE_SEED", std::random_device{}());
  std::mt19937_64 random_{seed_};
  testing::TempDir dir_;
  testing::DaemonProcess daemon_{
      {"--pool", "small=256x64", "--pool", "large=256x4096", "--pool", "tight=256x12", "--channel",
       "wait=small,queue=8", "--channel", "wait-kept=large,queue=8,history=4", "--channel",
       "drop=large,queue=8,when-full=drop", "--channel",
       "drop-kept=small,queue=8,when-full=drop,history=4", "--on-stop", "auto"}};
  int page_fd_ = -1;
  Page* page_ = nullptr;
  Operator operator_{daemon_.socket("admin.sock")};
  std::array<Child, kProcesses> children_;
  std::map<int32_t, std::string> session_names_;  // by process, at the last audit
  std::array<uint64_t, kActions> counts_{};
  uint64_t started_ = 0;
  uint64_t ends_ = 0;  // kills, and ends in order, of clients and the daemon
  uint64_t ends_at_audit_ = 0;
  uint32_t round_ = 0;
};

TEST_F(TortureTest, NothingIsLostDoubledOrStuckUnderKills) {
  Torture([&] { return Random(100); });
}

TEST_F(TortureTest, NothingIsLostDoubledOrStuckWhileTheDaemonIsKilledEverySecond) {
  auto next = Clock::now();
  Torture([&]() -> uint64_t {
    if (Clock::now() < next) return Random(93);
    next = Clock::now() + std::chrono::seconds(1);  // whatever this one takes
    return Random(4) == 0 ? 97 : 93;
  });
}

}  // namespace
}  // namespace zerocp::torture

int main(int argc, char** argv) {
  if (argc == 6 && std::string(argv[1]) == "--torture") return zerocp::torture::ClientMain(argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
