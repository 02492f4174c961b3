// A child that is single-stepped through one operation of the data plane, and killed or stopped
// after each of its machine instructions.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <climits>
#include <functional>

#include "shm/free_list.h"
#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {

// The number of chunks: a pool of 64 is revocable, one of 4,096 has exclusive thread caches.
class StepTest : public InstanceFixture, public ::testing::WithParamInterface<uint32_t> {
 protected:
  // What the child does between its stops, on a mapping of its own.
  using Operation = std::function<void(const std::shared_ptr<Session>& session)>;
  // Looks at the copy after recovery of the victim alone.
  using Check = std::function<void(MemPoolManager& manager, ChannelRegistry& registry)>;

  void SetUp() override {
    AddPool("pool", 64, GetParam());
    AddChannel("feed", "pool", 4);
    AddChannel("drop", "pool", 4, WhenFull::kDropOldest);
    AddHistory("kept", 4, 2, WhenFull::kWait);
    AddHistory("fresh", 2, 2, WhenFull::kDropOldest);
    victim_id_ = next_id_++;
    attached_.set(victim_id_);
    peer_ = Attach();
    // A short cache, so that each operation goes its whole way: refill, cache, flush.
    pool().shared->cache_cap.store(GetParam() == 64 ? 0 : 2);
  }
  const PoolView& pool() { return *manager_->FindPool("pool"); }
  void AddHistory(const char* name, uint32_t queue, uint32_t history, WhenFull when_full) {
    ChannelSpec spec{name, "pool", queue, "", when_full};
    spec.history_count = history;
    ASSERT_TRUE(registry_->Create(spec).ok());
  }
  JoinInfo VictimPublishes(const char* channel = "feed") {
    return *registry_->JoinAsPublisher(channel, "", victim_id_);
  }
  JoinInfo VictimSubscribes(const char* channel = "feed") {
    return *registry_->JoinAsSubscriber(channel, "", victim_id_);
  }
  // A chunk that the victim's child may use as its own from the start.
  uint32_t VictimLoans() {
    uint32_t chunk = 0;
    while (!TakeFree(pool().record(chunk), Kind::kLoaned, victim_id_)) ++chunk;
    SetPhase(pool().record(chunk), ChunkPhase::kLoaned);
    return chunk;
  }

  // Steps through `operation`; at every instruction, `check` on a recovered copy. Returns the
  // number of instructions.
  int StepThrough(const Operation& operation, const Check& check) {
    const pid_t child = StartVictim(operation);
    int status = 0;
    int steps = 0;
    std::string before;
    for (;; ++steps) {
      // Only instructions that change a segment make a new state.
      std::string now = Snapshot();
      if (now != before) {
        before = std::move(now);
        CheckCopy(before, check);
        if (HasFailure()) {
          ADD_FAILURE() << "after instruction " << steps;
          break;
        }
      }
      if (!Step(child)) break;
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return steps;
  }

  // Runs `operation` once for each of its instructions after its own SIGSTOP, if it has one:
  // `prepare`, up to the instruction, `meanwhile` on the peer, to the end, `check`. Returns the
  // number of instructions, of which it goes through `most` at most.
  int StopAtEach(const std::function<void()>& prepare, const Operation& operation,
                 const std::function<void()>& meanwhile, const std::function<void()>& check,
                 bool begins_with_a_stop = false, int most = INT_MAX) {
    for (int stop = 0;; ++stop) {
      if (stop > most) return most;
      prepare();
      const pid_t child = StartVictim(operation);
      if (begins_with_a_stop) {
        int stopped = 0;
        ptrace(PTRACE_CONT, child, nullptr, nullptr);
        waitpid(child, &stopped, 0);
        EXPECT_TRUE(WIFSTOPPED(stopped)) << "the victim ended by itself, status " << stopped;
      }
      victim_ = child;
      under_way_ = true;
      const bool ended = !StepOn(stop);
      meanwhile();
      int status = 0;
      if (under_way_) {  // not at its end already
        ptrace(PTRACE_CONT, child, nullptr, nullptr);
        waitpid(child, &status, 0);
        EXPECT_TRUE(WIFSTOPPED(status)) << "the victim ended by itself, status " << status;
      }
      check();
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      if (HasFailure()) {
        ADD_FAILURE() << "stopped after instruction " << stop;
        return stop;
      }
      if (ended) return stop;
    }
  }

  // For `meanwhile`: the victim goes on by so many instructions. False: it has come to its end.
  bool StepOn(int steps) {
    for (; under_way_ && steps > 0; --steps) under_way_ = Step(victim_);
    return under_way_;
  }

  // The victim's child is not run on any more; its next one has the same session.
  void RecoverVictim() { recovery_->Recover(SessionSet().set(victim_id_), false); }

 private:
  pid_t StartVictim(const Operation& operation) {
    const pid_t child = fork();  // no gRPC, no other thread in this program
    if (child == 0) RunVictim(operation);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSTOPPED(status));
    return child;
  }

  // One instruction; false at the operation's end.
  static bool Step(pid_t child) {
    int status = 0;
    if (ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) return false;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSTOPPED(status)) << "the victim ended by itself, status " << status;
    return WIFSTOPPED(status) && WSTOPSIG(status) != SIGSTOP;
  }

  [[noreturn]] void RunVictim(const Operation& operation) {
    auto manager = MemPoolManager::Attach(
        UniqueFd(fcntl(manager_->management_segment().fd(), F_DUPFD_CLOEXEC, 0)),
        UniqueFd(fcntl(manager_->chunk_segment().fd(), F_DUPFD_CLOEXEC, 0)));
    if (!manager.ok()) _exit(2);
    auto session = std::make_shared<Session>(std::move(*manager), victim_id_);
    session->FlushThisThread();           // the thread's cache exists already
    session->manager().FindPool("pool");  // and the view of the pool
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    operation(session);
    raise(SIGSTOP);
    _exit(0);
  }

  // The bytes of both segments in use.
  std::string Snapshot() {
    const auto used = [](const Segment& segment) {
      return std::string(reinterpret_cast<const char*>(segment.data()), segment.file_bytes());
    };
    management_bytes_ = manager_->management_segment().file_bytes();
    return used(manager_->management_segment()) + used(manager_->chunk_segment());
  }

  void CheckCopy(const std::string& snapshot, const Check& check) {
    const std::string dir = dir_ + "/copy";
    std::filesystem::create_directory(dir);
    WriteFile(dir + "/" + MemPoolManager::ManagementName("copy"),
              snapshot.substr(0, management_bytes_));
    WriteFile(dir + "/" + MemPoolManager::ChunkName("copy"), snapshot.substr(management_bytes_));
    MemPoolManager::CreateOptions options;
    options.segment_dir = dir;
    options.instance = "copy";
    auto adopted = MemPoolManager::Adopt(options);
    ASSERT_TRUE(adopted.ok()) << adopted.status().message();
    std::shared_ptr<MemPoolManager> manager = std::move(*adopted);
    ChannelRegistry registry(*manager);
    ASSERT_TRUE(registry.Adopt().ok());
    Recovery recovery(*manager, registry);
    recovery.FinishClaims();
    SessionSet gone;
    gone.set(victim_id_);
    gone.set(departed_id_);
    gone.reset(0);
    recovery.Recover(gone, false);
    const SessionSet left = attached_ & ~gone;
    ExpectAudit(*manager, registry, left);
    check(*manager, registry);
    ExpectAudit(*manager, registry, left);
    UseAgain(manager, registry, "feed");
    UseAgain(manager, registry, "drop");
    // Everybody goes: everything is free, and can be found.
    gone.set();
    gone.reset(0);
    recovery.Recover(gone, true);
    const PoolView& copy = *manager->FindPool("pool");
    EXPECT_EQ(Count(copy).free_count, GetParam());
    for (uint32_t chunk = 0; chunk < GetParam(); ++chunk)
      EXPECT_TRUE(FreeList::IsSet(copy.hints, chunk));
    EXPECT_TRUE(manager->Destroy().ok());
    std::filesystem::remove_all(dir);
  }

  static void WriteFile(const std::string& path, const std::string& bytes) {
    const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
    ASSERT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }

  static void ExpectAudit(MemPoolManager& manager, ChannelRegistry& registry,
                          const SessionSet& attached) {
    const AuditReport report = Audit(manager, registry, attached);
    EXPECT_EQ(report.violation_count, 0u) << First(report);
  }

  // Two newcomers exchange messages over the channel, whatever happened to it.
  void UseAgain(const std::shared_ptr<MemPoolManager>& manager, ChannelRegistry& registry,
                const char* channel) {
    auto sender = std::make_shared<Session>(manager, 200);
    auto taker = std::make_shared<Session>(manager, 201);
    auto in =
        std::move(*SubscriberPort::Create(taker, *registry.JoinAsSubscriber(channel, "", 201)));
    auto out =
        std::move(*PublisherPort::Create(sender, *registry.JoinAsPublisher(channel, "", 200)));
    for (uint64_t i = 0; i < 3; ++i) {
      if (Send(*sender, *out, i) != Code::kOk)
        break;  // a living subscriber that does not take may fill up
      ExpectTakes(*taker, *in, i);
    }
  }

 protected:
  uint16_t victim_id_ = 0;
  uint16_t departed_id_ = 0;  // a second one that is gone; 0: none
  std::shared_ptr<Session> peer_;
  uint64_t management_bytes_ = 0;

 private:
  pid_t victim_ = 0;  // of StopAtEach
  bool under_way_ = false;
};

// Nothing is in use that the test does not know of.
inline void ExpectInUse(MemPoolManager& manager, uint64_t count) {
  const PoolCounts counts = Count(*manager.FindPool("pool"));
  EXPECT_EQ(counts.writing_count + counts.shared_count, count);
}

// Takes what is there, releases it, and returns how many were taken.
inline uint64_t TakeAll(Session& session, SubscriberPort& port, Code* end) {
  uint64_t taken = 0;
  ChunkRef chunk;
  while ((*end = port.TryTake(&chunk)) == Code::kOk) {
    ++taken;
    EXPECT_TRUE(session.Release(chunk));
  }
  return taken;
}

}  // namespace zerocp::shm
