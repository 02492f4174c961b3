// A daemon killed after every machine instruction of what it notes of its sessions, and of its
// start: while it creates an instance, and while it adopts one. Another daemon starts from the
// files that are left: whoever was attached still is and has what it had, the session table, its
// mirror in the segment and the chunks say the same, and nothing is left over.
#include <spdlog/spdlog.h>

#include <cstring>
#include <functional>
#include <set>

#include "server/channel_manager.h"
#include "server/instance.h"
#include "server/pool_manager.h"
#include "server/session_manager.h"
#include "shm/session.h"
#include "tests/kill/stepped_child.h"
#include "tests/unit/server/test_instance.h"

namespace zerocp {
namespace {

using shm::Code;
using shm::MemPoolManager;
using shm::SessionSet;
using testing::Files;

constexpr char kInstance[] = "test";
constexpr char kTable[] = "sessions";
constexpr uint32_t kChunks = 64;

// The process of all sessions: this one, also when a child speaks of it.
const Peer kProcess{{getpid(), StartTimeOf(getpid()).value_or(0)}, geteuid()};

// The part of a daemon that keeps sessions; its files are those of one directory.
struct Daemon {
  Daemon(Instance opened, const std::string& dir)
      : instance(std::move(opened)),
        core(std::move(instance.manager)),
        sessions(
            core,
            shm::UniqueFd(open((dir + "/" + kTable).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)),
            {.attach_socket = {}, .own_uid = geteuid()}) {}

  // nullptr: it refuses to start, and `why` says so.
  static std::unique_ptr<Daemon> Start(const std::string& dir, std::string* why) {
    MemPoolManager::CreateOptions options;
    options.segment_dir = dir;
    options.instance = kInstance;
    options.management_reserved_bytes = uint64_t{4} << 20;
    options.chunk_reserved_bytes = uint64_t{16} << 20;
    options.session_capacity = 16;
    options.lock = {1, 2, "lock"};
    auto opened = OpenInstance(options);
    *why = opened.status().message();
    if (!opened.ok()) return nullptr;
    auto daemon = std::make_unique<Daemon>(std::move(*opened), dir);
    if (daemon->instance.adopted) {
      MutexLock lock(daemon->core.mutex);
      const shm::Status adopted = daemon->core.registry.Adopt();
      *why = adopted.message();
      if (!adopted.ok()) return nullptr;
    }
    const auto restored = daemon->sessions.Restore();
    *why = restored.status().message();
    if (!restored.ok()) return nullptr;
    daemon->pools.emplace(daemon->core);
    daemon->channels.emplace(daemon->core);
    return daemon;
  }

  // A session's own hand on the memory.
  std::shared_ptr<shm::Session> SessionOf(uint16_t id) const {
    return std::make_shared<shm::Session>(
        std::shared_ptr<MemPoolManager>(core.manager.get(), [](auto*) {}), id);
  }
  // Loans one chunk that nobody gives back.
  bool Loan(uint16_t id) const {
    const auto session = SessionOf(id);
    shm::ChunkRef chunk;
    const bool loaned =
        session->Loan(*core.manager->FindPool("pool"), shm::Deadline::Now(), &chunk) == Code::kOk;
    session->Disown();
    return loaned;
  }

  Instance instance;
  Core core;
  SessionManager sessions;
  std::optional<PoolManager> pools;
  std::optional<ChannelManager> channels;
};

class SessionStepTest : public ::testing::Test {
 protected:
  using Operation = std::function<void(Daemon& daemon)>;

  SessionStepTest() {
    spdlog::set_level(spdlog::level::off);
    std::string why;
    std::filesystem::create_directory(dir_ + "/first");
    const auto daemon = Daemon::Start(dir_ + "/first", &why);
    if (daemon == nullptr) {
      ADD_FAILURE() << why;
      return;
    }
    EXPECT_TRUE(daemon->pools->Create(Spec("pool", 64, kChunks)).ok());
    EXPECT_TRUE(daemon->channels->Create({"feed", "pool", 4, "", shm::WhenFull::kWait}).ok());
    EXPECT_TRUE(daemon->pools->Create(Spec("going", 64, 8)).ok());
    EXPECT_TRUE(daemon->pools->Delete({.name = "going", .drain = true}).ok());
    for (AttachedSession* session : {&peer_, &victim_}) {
      *session = *daemon->sessions.Attach(kProcess, "client", nullptr);
      EXPECT_TRUE(daemon->Loan(session->id));
    }
    before_ = Now(dir_ + "/first");
    EXPECT_TRUE(daemon->core.manager->Destroy().ok());
  }
  ~SessionStepTest() override { std::filesystem::remove_all(dir_); }

  static Files Now(const std::string& dir) {
    testing::DirectoryWatch watch(dir);
    watch.HaveChanged();
    return watch.files();
  }

  // Where the session table and the mirror stand with a session: "attached free".
  static std::string Standing(const Files& files, uint16_t id) {
    const auto state_in = [&files](const std::string& name, size_t at) -> std::string {
      static constexpr const char* kNames[] = {"free", "attached", "dead", "orphaned", "revoked"};
      const auto file = files.find(name);
      uint32_t state = 0;
      if (file == files.end() || file->second.size() < at + sizeof(state)) return "free";
      std::memcpy(&state, file->second.data() + at, sizeof(state));
      return state < std::size(kNames) ? kNames[state] : "impossible";
    };
    return state_in(kTable, id * sizeof(SessionRecord)) + " " +
           state_in(MemPoolManager::ManagementName(kInstance),
                    shm::kSessionTableOffset + id * sizeof(shm::SessionEntry));
  }

  // A daemon is killed at each instruction of `operation`, which it does when it has started from
  // `before_`. Returns where the session `id` stood on the way.
  std::set<std::string> StepThrough(uint16_t id, const Operation& operation) {
    const std::string dir = dir_ + "/one";
    testing::WriteFiles(dir, before_);
    const pid_t child = testing::StartStopped([&] {
      std::string why;
      const auto daemon = Daemon::Start(dir, &why);
      if (daemon == nullptr) _exit(2);
      testing::BeginTraced();
      operation(*daemon);
      raise(SIGSTOP);
    });
    return Step(child, dir, id);
  }
  // A daemon is killed at each instruction of its start.
  std::set<std::string> StepThroughStart(uint16_t id) {
    const std::string dir = dir_ + "/one";
    testing::WriteFiles(dir, before_);
    const pid_t child = testing::StartStopped([&] {
      testing::BeginTraced();
      std::string why;
      if (Daemon::Start(dir, &why) == nullptr) _exit(2);
      raise(SIGSTOP);
    });
    return Step(child, dir, id);
  }

  // For checks: the next daemon.
  void CheckNextStart(const Files& files, const std::function<void(Daemon& next)>& check) {
    const std::string dir = dir_ + "/copy";
    testing::WriteFiles(dir, files);
    std::string why;
    const auto next = Daemon::Start(dir, &why);
    ASSERT_NE(next, nullptr) << why;
    ExpectConsistent(*next);
    check(*next);
    ExpectConsistent(*next);
    next->sessions.Died(SessionSet().set());
    ExpectConsistent(*next);
    const shm::PoolView* pool = next->core.manager->FindPool("pool");
    ASSERT_NE(pool, nullptr);
    EXPECT_EQ(shm::Count(*pool).free_count, kChunks);
    EXPECT_TRUE(next->core.manager->Destroy().ok());
    const Files left = Now(dir);
    EXPECT_EQ(left.size(), 1u);
    EXPECT_EQ(left.begin()->first, kTable);
    std::filesystem::remove_all(dir);
  }

  // The peer comes back to what it had, the victim may, and a newcomer gets an id of its own.
  void CheckClients(Daemon& next) {
    const auto back = next.sessions.Reconnect(kProcess, peer_.id, peer_.cookie);
    if (is_table_lost_) {
      EXPECT_EQ(back.code(), Code::kInstanceLost);
    } else {
      ASSERT_TRUE(back.ok()) << back.status().message();
      EXPECT_EQ(back->name, peer_.name);
    }
    std::set<uint16_t> ids;
    uint64_t held = 0;
    for (const SessionInfo& info : next.sessions.ListWithHeld()) {
      EXPECT_TRUE(info.id != peer_.id || info.held_chunk_count == 1) << "the peer's loan is gone";
      held += info.held_chunk_count;
      ids.insert(info.id);
    }
    EXPECT_TRUE(ids.contains(peer_.id));
    EXPECT_EQ(shm::Count(*next.core.manager->FindPool("pool")).writing_count, held);
    const auto newcomer = next.sessions.Attach(kProcess, "newcomer", nullptr);
    ASSERT_TRUE(newcomer.ok()) << newcomer.status().message();
    EXPECT_FALSE(ids.contains(newcomer->id));
    EXPECT_TRUE(next.Loan(newcomer->id));
  }

  static void ExpectConsistent(Daemon& daemon) {
    std::map<uint16_t, SessionInfo> known;
    for (const SessionInfo& info : daemon.sessions.List()) known[info.id] = info;
    MutexLock lock(daemon.core.mutex);
    for (uint32_t id = shm::kFirstSession; id < daemon.core.manager->session_capacity(); ++id) {
      const shm::SessionEntry& entry =
          daemon.core.manager->session_entry(static_cast<uint16_t>(id));
      const auto found = known.find(static_cast<uint16_t>(id));
      EXPECT_EQ(entry.state != 0, found != known.end()) << "session " << id;
      EXPECT_EQ(daemon.core.attached.test(id), found != known.end()) << "session " << id;
      if (found == known.end()) continue;
      EXPECT_EQ(entry.pid, found->second.pid);
      EXPECT_EQ(entry.uid, found->second.uid);
      EXPECT_EQ(entry.name, found->second.client_name);
    }
    const shm::AuditReport report =
        shm::Audit(*daemon.core.manager, daemon.core.registry, daemon.core.attached);
    EXPECT_EQ(report.violation_count, 0u)
        << (report.violations.empty() ? "" : report.violations[0].detail);
  }

  const std::string dir_ = NewDirectory("/dev/shm");
  Files before_;
  AttachedSession peer_, victim_;
  bool is_table_lost_ = false;

 private:
  std::set<std::string> Step(pid_t child, const std::string& dir, uint16_t id) {
    std::set<std::string> reached;
    testing::StepThroughStates(child, dir, [&](const Files& files) {
      reached.insert(Standing(files, id));
      CheckNextStart(files, [this](Daemon& next) { CheckClients(next); });
    });
    std::filesystem::remove_all(dir);
    return reached;
  }
};

using Standings = std::set<std::string>;  // a step that is never reached fails the test

TEST_F(SessionStepTest, AnAttach) {
  const auto newcomer = static_cast<uint16_t>(victim_.id + 1);
  EXPECT_EQ(StepThrough(newcomer,
                        [](Daemon& daemon) {
                          if (!daemon.sessions.Attach(kProcess, "newcomer", nullptr).ok()) _exit(3);
                        }),
            (Standings{"free free", "attached free", "attached attached"}));
}

TEST_F(SessionStepTest, ADetach) {
  EXPECT_EQ(StepThrough(victim_.id, [this](Daemon& daemon) { daemon.sessions.Detach(victim_.id); }),
            (Standings{"orphaned orphaned", "orphaned free", "free free"}));
}

TEST_F(SessionStepTest, ADeath) {
  EXPECT_EQ(
      StepThrough(victim_.id,
                  [this](Daemon& daemon) { daemon.sessions.Died(SessionSet().set(victim_.id)); }),
      (Standings{"orphaned orphaned", "orphaned dead", "orphaned free", "free free"}));
}

TEST_F(SessionStepTest, AReconnectAndItsEnd) {
  EXPECT_EQ(StepThrough(peer_.id,
                        [this](Daemon& daemon) {
                          if (!daemon.sessions.Reconnect(kProcess, peer_.id, peer_.cookie).ok())
                            _exit(3);
                          daemon.sessions.Orphan(peer_.id);
                        }),
            (Standings{"orphaned orphaned", "attached orphaned", "attached attached",
                       "orphaned attached"}));
}

TEST_F(SessionStepTest, ATermination) {
  EXPECT_EQ(StepThrough(victim_.id,
                        [this](Daemon& daemon) {
                          daemon.sessions.Terminate(victim_.name, "user 0", false,
                                                    std::chrono::milliseconds(0), [](auto) {});
                        }),
            (Standings{"orphaned orphaned", "revoked orphaned", "revoked revoked"}));
}

TEST_F(SessionStepTest, AnAdoption) {
  EXPECT_EQ(StepThroughStart(peer_.id),
            (Standings{"attached attached", "orphaned attached", "orphaned orphaned"}));
}

// The sessions are those of the segment, until the new table is whole.
TEST_F(SessionStepTest, AnAdoptionWithoutTheSessionTable) {
  before_.erase(kTable);
  is_table_lost_ = true;
  EXPECT_EQ(StepThroughStart(peer_.id),
            (Standings{"free attached", "orphaned attached", "orphaned orphaned"}));
}

TEST_F(SessionStepTest, ACreation) {
  const std::string dir = dir_ + "/one";
  std::filesystem::create_directory(dir);
  const pid_t child = testing::StartStopped([&] {
    testing::BeginTraced();
    std::string why;
    if (Daemon::Start(dir, &why) == nullptr) _exit(2);
    raise(SIGSTOP);
  });
  const std::string management = MemPoolManager::ManagementName(kInstance);
  const std::string chunk = MemPoolManager::ChunkName(kInstance);
  std::set<std::string> reached{"nothing"};
  testing::StepThroughStates(child, dir, [&](const Files& files) {
    const auto block = files.find(management);
    uint64_t magic = 0;
    if (block != files.end()) block->second.copy(reinterpret_cast<char*>(&magic), sizeof(magic));
    const std::string magic_name = magic == shm::kMagic             ? "whole"
                                   : magic == shm::kUnfinishedMagic ? "unfinished"
                                                                    : "empty";
    reached.insert(magic_name + (files.contains(chunk) ? " with chunks" : "") +
                   (files.contains(kTable) ? " and table" : ""));
    CheckNextStart(files, [](Daemon& next) {
      EXPECT_TRUE(next.sessions.List().empty());
      ASSERT_TRUE(next.pools->Create(Spec("pool", 64, kChunks)).ok());
      const auto session = next.sessions.Attach(kProcess, "newcomer", nullptr);
      ASSERT_TRUE(session.ok());
      EXPECT_TRUE(next.Loan(session->id));
    });
  });
  EXPECT_EQ(reached,
            (std::set<std::string>{"nothing", "empty", "unfinished", "unfinished with chunks",
                                   "whole with chunks", "whole with chunks and table"}));
}

}  // namespace
}  // namespace zerocp

// The C library's longer fills and copies in one instruction would be as many steps as bytes.
int main(int argc, char** argv) {
  constexpr char kTunables[] = "GLIBC_TUNABLES";
  if (getenv(kTunables) == nullptr) {
    setenv(kTunables,
           "glibc.cpu.x86_rep_stosb_threshold=1000000000:"
           "glibc.cpu.x86_rep_movsb_threshold=1000000000",
           0);
    execv("/proc/self/exe", argv);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
