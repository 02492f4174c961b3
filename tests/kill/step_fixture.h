// A child that is single-stepped through one operation of the data plane, or of the daemon on it,
// and killed or stopped after each of its machine instructions.
#pragma once

#include <fcntl.h>

#include <climits>
#include <functional>

#include "shm/free_list.h"
#include "tests/kill/stepped_child.h"
#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {

using testing::Files;
using testing::RunToItsStop;
using testing::StartStopped;
using testing::Step;

// The number of chunks: a pool of 64 is revocable, one of 4,096 has exclusive thread caches.
class StepTest : public InstanceFixture, public ::testing::WithParamInterface<uint32_t> {
 protected:
  // What the child does between its stops, on a mapping of its own.
  using Operation = std::function<void(const std::shared_ptr<Session>& session)>;
  // What a child does between its stops that is the daemon; it has adopted the segments.
  using DaemonOperation =
      std::function<void(MemPoolManager& manager, ChannelRegistry& registry, Recovery& recovery)>;
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
    while (!TakeFree(pool().record(chunk), victim_id_)) ++chunk;
    SetPhase(pool().record(chunk), ChunkPhase::kLoaned);
    return chunk;
  }

  // Steps through `operation`, after its own SIGSTOP if it has one; at every instruction, `check`
  // on a recovered copy. Returns the number of instructions.
  int StepThrough(const Operation& operation, const Check& check, bool begins_with_a_stop = false) {
    const pid_t victim = StartVictim(operation);
    if (begins_with_a_stop) RunToItsStop(victim);
    return StepThroughStates(victim, dir_, [&](const Files& files) { CheckCopy(files, check); });
  }
  // The same from before the victim maps the segments.
  int StepThroughAttach(const Operation& operation, const Check& check) {
    return StepThroughStates(StartVictim(operation, /*from_attach=*/true), dir_,
                             [&](const Files& files) { CheckCopy(files, check); });
  }
  // The same for what a daemon does that adopted what is there now: another one adopts what the
  // first left.
  int StepThroughDaemon(const DaemonOperation& operation, const Check& check) {
    return StepThroughDaemonOf(Now(), "one", operation,
                               [&](const Files& files) { CheckCopy(files, check); });
  }
  // Two deaths: for each instruction of `operation` as above at which the victim dies, the daemon
  // dies at each instruction of the recovery. Returns how many pairs leave something of their own.
  int DieTwice(const Operation& operation, const Check& check, bool begins_with_a_stop = false) {
    const pid_t victim = StartVictim(operation);
    if (begins_with_a_stop) RunToItsStop(victim);
    int pairs = 0;
    StepThroughStates(victim, dir_,
                      [&](const Files& files) { pairs += DieInRecovery(files, check); });
    return pairs;
  }
  // The same for two daemons, of which the first does `operation` to what is there now.
  int DaemonDiesTwice(const DaemonOperation& operation, const Check& check) {
    int pairs = 0;
    StepThroughDaemonOf(Now(), "one", operation,
                        [&](const Files& files) { pairs += DieInRecovery(files, check); });
    return pairs;
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
      if (begins_with_a_stop) RunToItsStop(child);
      victim_ = child;
      under_way_ = true;
      const bool ended = !StepOn(stop);
      meanwhile();
      if (under_way_) RunToItsStop(child);  // not at its end already
      check();
      testing::KillChild(child);
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
  pid_t StartVictim(const Operation& operation, bool from_attach = false) {
    return StartStopped([&] { RunVictim(operation, from_attach); });
  }
  pid_t StartDaemon(const std::string& dir, const DaemonOperation& operation) {
    return StartStopped([&] { RunDaemon(dir, operation); });
  }

  Files Now() const {
    testing::DirectoryWatch watch(dir_);
    watch.HaveChanged();
    return watch.files();
  }

  // How many states the daemon leaves that dies while it adopts `files` and recovers who is gone.
  int DieInRecovery(const Files& files, const Check& check) {
    int states = 0;
    StepThroughDaemonOf(
        files, "two",
        [this](MemPoolManager&, ChannelRegistry&, Recovery& recovery) {
          recovery.FinishClaims();
          recovery.Recover(Gone(), false);
        },
        [&](const Files& state) {
          ++states;
          CheckCopy(state, check);
        });
    return states;
  }

  // The daemon adopts `files`, in a directory `name`, and does `operation`; see StepThroughStates.
  template <class OnState>
  int StepThroughDaemonOf(const Files& files, const std::string& name,
                          const DaemonOperation& operation, const OnState& on_state) {
    const std::string dir = dir_ + "/" + name;
    testing::WriteFiles(dir, files);
    const int steps = StepThroughStates(StartDaemon(dir, operation), dir, on_state);
    std::filesystem::remove_all(dir);
    return steps;
  }

  template <class OnState>
  int StepThroughStates(pid_t child, const std::string& dir, const OnState& on_state) {
    return testing::StepThroughStates(child, dir, on_state, looks_always_);
  }

  [[noreturn]] void RunVictim(const Operation& operation, bool from_attach) {
    if (from_attach) testing::BeginTraced();
    auto manager = MemPoolManager::Attach(
        UniqueFd(fcntl(manager_->management_segment().fd(), F_DUPFD_CLOEXEC, 0)),
        UniqueFd(fcntl(manager_->chunk_segment().fd(), F_DUPFD_CLOEXEC, 0)));
    if (!manager.ok()) _exit(2);
    auto session = std::make_shared<Session>(std::move(*manager), victim_id_);
    if (!from_attach) {
      session->FlushThisThread();           // the thread's cache exists already
      session->manager().FindPool("pool");  // and the view of the pool
      testing::BeginTraced();
    }
    operation(session);
    raise(SIGSTOP);
    _exit(0);
  }

  [[noreturn]] void RunDaemon(const std::string& dir, const DaemonOperation& operation) {
    MemPoolManager::CreateOptions options;
    options.segment_dir = dir;
    options.instance = "test";
    auto manager = MemPoolManager::Adopt(options);
    if (!manager.ok()) _exit(2);
    ChannelRegistry registry(**manager);
    if (!registry.Adopt().ok()) _exit(3);
    Recovery recovery(**manager, registry);
    testing::BeginTraced();
    operation(**manager, registry, recovery);
    raise(SIGSTOP);
    _exit(0);
  }

  SessionSet Gone() const {
    SessionSet gone;
    gone.set(victim_id_);
    gone.set(departed_id_);
    return gone.reset(0);
  }

  void CheckCopy(const Files& files, const Check& check) {
    const std::string dir = dir_ + "/copy";
    testing::WriteFiles(dir, files);
    MemPoolManager::CreateOptions options;
    options.segment_dir = dir;
    options.instance = "test";
    auto adopted = MemPoolManager::Adopt(options);
    ASSERT_TRUE(adopted.ok()) << adopted.status().message();
    std::shared_ptr<MemPoolManager> manager = std::move(*adopted);
    ChannelRegistry registry(*manager);
    ASSERT_TRUE(registry.Adopt().ok());
    Recovery recovery(*manager, registry);
    recovery.FinishClaims();
    SessionSet gone = Gone();
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
    for (uint32_t index = 0; index < kMaxPools; ++index) {
      const PoolView* copy = manager->pool(index);
      if (copy == nullptr || !copy->IsOpen()) continue;
      EXPECT_EQ(Count(*copy).free_count, copy->live_chunk_count());
      for (uint32_t chunk = 0; chunk < copy->live_chunk_count(); ++chunk)
        EXPECT_TRUE(FreeList::IsSet(copy->hints, chunk));
    }
    EXPECT_TRUE(manager->Destroy().ok());
    std::filesystem::remove_all(dir);
  }

  static void ExpectAudit(MemPoolManager& manager, ChannelRegistry& registry,
                          const SessionSet& attached) {
    const AuditReport report = Audit(manager, registry, attached);
    EXPECT_EQ(report.violation_count, 0u) << First(report);
  }

 protected:
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

  bool looks_always_ = false;  // after every instruction, and not only those that may store
  uint16_t victim_id_ = 0;
  uint16_t departed_id_ = 0;  // a second one that is gone; 0: none
  std::shared_ptr<Session> peer_;

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
