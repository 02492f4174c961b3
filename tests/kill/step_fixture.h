// A child that is single-stepped through one operation of the data plane, or of the daemon on it,
// and killed or stopped after each of its machine instructions.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>

#include <climits>
#include <functional>

#include "shm/free_list.h"
#include "tests/unit/shm/instance_fixture.h"

namespace zerocp::shm {

// The bytes of both segments.
struct Image {
  std::string management, chunk;
};

// One segment's file, as it is now.
class SegmentFile {
 public:
  explicit SegmentFile(const std::string& path)
      : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)),
        data_(static_cast<const char*>(
            mmap(nullptr, kMostBytes, PROT_READ, MAP_SHARED, fd_.get(), 0))) {
    EXPECT_NE(static_cast<const void*>(data_), MAP_FAILED) << path;
  }
  ~SegmentFile() { munmap(const_cast<char*>(data_), kMostBytes); }
  SegmentFile(const SegmentFile&) = delete;
  SegmentFile& operator=(const SegmentFile&) = delete;

  std::string_view bytes() const {
    struct stat info {};
    fstat(fd_.get(), &info);
    return {data_, static_cast<size_t>(info.st_size)};
  }

 private:
  static constexpr size_t kMostBytes = size_t{256} << 20;
  const UniqueFd fd_;
  const char* const data_;
};

// True if the next instruction of a stopped child may store to a segment: false for the commonest
// that surely do not, because they store nothing, or to the stack.
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, appendix A.
inline bool MayStore([[maybe_unused]] pid_t child) {
#if defined(__x86_64__)
  const long rip = ptrace(PTRACE_PEEKUSER, child, offsetof(user_regs_struct, rip), nullptr);
  auto code = static_cast<uint64_t>(ptrace(PTRACE_PEEKTEXT, child, rip, nullptr));
  const auto next = [&code] {
    const auto byte = static_cast<uint8_t>(code);
    code >>= 8;
    return byte;
  };
  uint8_t opcode = next();
  if (opcode == 0x66) opcode = next();
  if ((opcode & 0xf0) == 0x40) opcode = next();  // REX
  if (opcode == 0x0f) {
    opcode = next();
    return !((opcode >= 0x40 && opcode <= 0x4f) ||  // cmov
             (opcode >= 0x80 && opcode <= 0x8f) ||  // jcc
             (opcode & 0xf6) == 0xb6 ||             // movzx, movsx
             opcode == 0x1f || opcode == 0xaf);     // nop, imul
  }
  const bool of_registers = (code & 0xc0) == 0xc0;
  const unsigned extension = code >> 3 & 7;
  if (opcode >= 0x50 && opcode <= 0x5f) return false;                         // push, pop
  if (opcode >= 0x70 && opcode <= 0x7f) return false;                         // jcc
  if (opcode >= 0xb0 && opcode <= 0xbf) return false;                         // mov of a constant
  if (opcode < 0x40 && (opcode & 7) >= 2 && (opcode & 7) <= 5) return false;  // add ... to register
  switch (opcode) {
    case 0x38:
    case 0x39:  // cmp
    case 0x63:
    case 0x69:
    case 0x6b:  // movsxd, imul
    case 0x84:
    case 0x85:
    case 0x8a:
    case 0x8b:  // test, mov from memory
    case 0x8d:
    case 0x90:
    case 0xa8:
    case 0xa9:  // lea, nop, test
    case 0xc3:
    case 0xe8:
    case 0xe9:
    case 0xeb:  // ret, call, jmp
      return false;
    case 0x80:
    case 0x81:
    case 0x83:
      return !of_registers && extension != 7;  // 7: cmp
    case 0xf6:
    case 0xf7:
      return !of_registers && extension > 1;  // 0 and 1: test
    case 0x00:
    case 0x01:
    case 0x08:
    case 0x09:
    case 0x20:
    case 0x21:
    case 0x28:
    case 0x29:
    case 0x30:
    case 0x31:
    case 0x88:
    case 0x89:
    case 0xc0:
    case 0xc1:
    case 0xd1:
    case 0xd3:
      return !of_registers;
    default:
      return true;
  }
#else
  return true;
#endif
}

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
    while (!TakeFree(pool().record(chunk), Kind::kLoaned, victim_id_)) ++chunk;
    SetPhase(pool().record(chunk), ChunkPhase::kLoaned);
    return chunk;
  }

  // Steps through `operation`, after its own SIGSTOP if it has one; at every instruction, `check`
  // on a recovered copy. Returns the number of instructions.
  int StepThrough(const Operation& operation, const Check& check, bool begins_with_a_stop = false) {
    const pid_t victim = StartVictim(operation);
    if (begins_with_a_stop) RunToItsStop(victim);
    return StepThroughStates(victim, dir_, "test",
                             [&](const Image& image) { CheckCopy(image, check); });
  }
  // The same for what a daemon does that adopted what is there now: another one adopts what the
  // first left.
  int StepThroughDaemon(const DaemonOperation& operation, const Check& check) {
    return StepThroughDaemonOf(Now(), "one", operation,
                               [&](const Image& image) { CheckCopy(image, check); });
  }
  // Two deaths: for each instruction of `operation` as above at which the victim dies, the daemon
  // dies at each instruction of the recovery. Returns how many pairs leave something of their own.
  int DieTwice(const Operation& operation, const Check& check, bool begins_with_a_stop = false) {
    const pid_t victim = StartVictim(operation);
    if (begins_with_a_stop) RunToItsStop(victim);
    int pairs = 0;
    StepThroughStates(victim, dir_, "test",
                      [&](const Image& image) { pairs += DieInRecovery(image, check); });
    return pairs;
  }
  // The same for two daemons, of which the first does `operation` to what is there now.
  int DaemonDiesTwice(const DaemonOperation& operation, const Check& check) {
    int pairs = 0;
    StepThroughDaemonOf(Now(), "one", operation,
                        [&](const Image& image) { pairs += DieInRecovery(image, check); });
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
      int status = 0;
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
  template <class Run>
  pid_t StartStopped(const Run& run) {
    const pid_t child = fork();  // no gRPC, no other thread in this program
    if (child == 0) run();
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSTOPPED(status)) << "the child did not begin, status " << status;
    return child;
  }
  pid_t StartVictim(const Operation& operation) {
    return StartStopped([&] { RunVictim(operation); });
  }
  pid_t StartDaemon(const std::string& dir, const std::string& instance,
                    const DaemonOperation& operation) {
    return StartStopped([&] { RunDaemon(dir, instance, operation); });
  }

  static void RunToItsStop(pid_t child) {
    int status = 0;
    ptrace(PTRACE_CONT, child, nullptr, nullptr);
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSTOPPED(status)) << "the victim ended by itself, status " << status;
  }

  Image Now() const {
    const SegmentFile management(manager_->management_segment().path());
    const SegmentFile chunk(manager_->chunk_segment().path());
    return {std::string(management.bytes()), std::string(chunk.bytes())};
  }

  // How many states the daemon leaves that dies while it adopts `image` and recovers who is gone.
  int DieInRecovery(const Image& image, const Check& check) {
    int states = 0;
    StepThroughDaemonOf(
        image, "two",
        [this](MemPoolManager&, ChannelRegistry&, Recovery& recovery) {
          recovery.FinishClaims();
          recovery.Recover(Gone(), false);
        },
        [&](const Image& state) {
          ++states;
          CheckCopy(state, check);
        });
    return states;
  }

  // The daemon adopts `image`, in a directory `name`, and does `operation`; see StepThroughStates.
  template <class OnState>
  int StepThroughDaemonOf(const Image& image, const std::string& name,
                          const DaemonOperation& operation, const OnState& on_state) {
    const std::string dir = dir_ + "/" + name;
    Write(dir, image);
    const int steps = StepThroughStates(StartDaemon(dir, "copy", operation), dir, "copy", on_state);
    std::filesystem::remove_all(dir);
    return steps;
  }

  // Steps to the end of `child`, whose segments are in `dir`; each time that they have changed,
  // `on_state`. Returns the number of instructions.
  template <class OnState>
  int StepThroughStates(pid_t child, const std::string& dir, const std::string& instance,
                        const OnState& on_state) {
    const SegmentFile management(dir + "/" + MemPoolManager::ManagementName(instance));
    const SegmentFile chunk(dir + "/" + MemPoolManager::ChunkName(instance));
    Image before;
    int steps = 0;
    for (bool may_differ = true;; ++steps) {
      // Only instructions that change a segment make a new state.
      if (may_differ &&
          (before.management != management.bytes() || before.chunk != chunk.bytes())) {
        before = {std::string(management.bytes()), std::string(chunk.bytes())};
        on_state(before);
        if (HasFailure()) {
          ADD_FAILURE() << "after instruction " << steps;
          break;
        }
      }
      may_differ = looks_always_ || MayStore(child);
      if (!Step(child)) break;
    }
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    return steps;
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

  [[noreturn]] void RunDaemon(const std::string& dir, const std::string& instance,
                              const DaemonOperation& operation) {
    MemPoolManager::CreateOptions options;
    options.segment_dir = dir;
    options.instance = instance;
    auto manager = MemPoolManager::Adopt(options);
    if (!manager.ok()) _exit(2);
    ChannelRegistry registry(**manager);
    if (!registry.Adopt().ok()) _exit(3);
    Recovery recovery(**manager, registry);
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
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

  // The segments of an instance "copy".
  static void Write(const std::string& dir, const Image& image) {
    std::filesystem::create_directory(dir);
    WriteFile(dir + "/" + MemPoolManager::ManagementName("copy"), image.management);
    WriteFile(dir + "/" + MemPoolManager::ChunkName("copy"), image.chunk);
  }

  void CheckCopy(const Image& image, const Check& check) {
    const std::string dir = dir_ + "/copy";
    Write(dir, image);
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

  static void WriteFile(const std::string& path, const std::string& bytes) {
    const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
    ASSERT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
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
