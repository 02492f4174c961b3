// A client killed at each of its system calls, before and after it, from the connection to its
// daemon to the end of its session: the daemon notices, nothing of it is left, no descriptor
// either, and its peers go on. And a daemon killed at each system call of its attach listener while
// a client attaches: the client gets an error, or a session that the next daemon knows.
//
// Both are this program again: `--client SOCKET` stops, attaches, publishes to itself, detaches,
// and stops; `--serve DIRECTORY` is a daemon until SIGTERM, and fails if anything is left then.
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <filesystem>
#include <future>
#include <iterator>
#include <set>

#include "client/internal/connection.h"
#include "server/attach_listener.h"
#include "server/instance.h"
#include "shm/publisher_port.h"
#include "shm/subscriber_port.h"
#include "tests/system/child_process.h"
#include "tests/unit/server/session_fixture.h"

namespace zerocp {
namespace {

using shm::AttachOp;
using shm::Code;

constexpr std::chrono::seconds kPatience{60};
constexpr uint32_t kChunks = 64;

bool Exchange(shm::Session& session, shm::PublisherPort& out, shm::SubscriberPort& in) {
  shm::ChunkRef chunk;
  shm::Published published{};
  return session.Loan(out.pool(), shm::Deadline::Now(), &chunk) == Code::kOk &&
         out.Publish(chunk, shm::Deadline::Now(), &published) == Code::kOk &&
         in.TryTake(&chunk) == Code::kOk && session.Release(chunk);
}

int RunClient(const std::string& socket) {
  ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
  raise(SIGSTOP);
  auto connection = internal::Connection::Open(socket);
  if (!connection.ok()) return 2;
  auto attached = (*connection)->Attach("victim", std::nullopt, false);
  if (!attached.ok()) return 3;
  auto session = std::make_shared<shm::Session>(attached->manager, attached->session);
  const auto reader = (*connection)->Join(AttachOp::kJoinSubscriber, "feed", "", {});
  const auto writer = (*connection)->Join(AttachOp::kJoinPublisher, "feed", "", {});
  if (!reader.ok() || !writer.ok()) return 4;
  {
    auto in = shm::SubscriberPort::Create(session, *reader);
    auto out = shm::PublisherPort::Create(session, *writer);
    if (!in.ok() || !out.ok() || !Exchange(*session, **out, **in)) return 5;
  }
  if (!(*connection)->Leave(AttachOp::kLeavePublisher, writer->channel, writer->index).ok() ||
      !(*connection)->Leave(AttachOp::kLeaveSubscriber, reader->channel, reader->index).ok())
    return 6;
  session->Close();
  attached->manager.reset();
  session.reset();
  if (!(*connection)->Detach().ok()) return 7;
  raise(SIGSTOP);
  return 0;
}

shm::UniqueFd ListenAt(const std::string& path) {
  shm::UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{AF_UNIX, {}};
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  unlink(path.c_str());
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(fd.get(), 16), 0);
  return fd;
}

int Serve(const std::string& dir) {
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, nullptr);
  shm::MemPoolManager::CreateOptions options;
  options.segment_dir = dir;
  options.instance = "test";
  options.management_reserved_bytes = uint64_t{4} << 20;
  options.chunk_reserved_bytes = uint64_t{16} << 20;
  options.lock = {1, 2, "lock"};
  auto instance = OpenInstance(options);
  if (!instance.ok()) return 2;
  Core core(std::move(instance->manager));
  if (instance->adopted) {
    MutexLock lock(core.mutex);
    if (!core.registry.Adopt().ok()) return 3;
  }
  SessionManager sessions(
      core, shm::UniqueFd(open((dir + "/sessions").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)),
      {.attach_socket = {}, .own_uid = geteuid()});
  if (!sessions.Restore().ok()) return 4;
  PoolManager pools(core);
  ChannelManager channels(core);
  if (!instance->adopted && (!pools.Create(Spec("pool", 4096, kChunks)).ok() ||
                             !channels.Create({"feed", "pool", 4, "", shm::WhenFull::kWait}).ok()))
    return 5;
  AttachListener listener(core, sessions, ListenAt(dir + "/attach.sock"), {});
  if (!listener.Start().ok()) return 6;
  std::printf("ready\n");
  std::fflush(stdout);
  int signal = 0;
  sigwait(&term, &signal);
  (void)listener.FindDead(/*recover=*/true);
  listener.Stop();
  if (!sessions.List().empty()) return 7;
  if (!channels.Audit().violations.empty()) return 8;
  return shm::Count(*core.manager->FindPool("pool")).free_count == kChunks ? 0 : 9;
}

size_t OpenDescriptors() {
  const std::filesystem::directory_iterator open("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(open), end(open)));
}

class AttachKillTest : public SessionFixture {
 protected:
  AttachKillTest() {
    EXPECT_TRUE(instance_.pools.Create(Spec("pool", 4096, kChunks)).ok());
    EXPECT_TRUE(instance_.channels.Create({"feed", "pool", 4, "", shm::WhenFull::kWait}).ok());
    AttachListener::Options options;
    options.limits.max_attaches_per_second = 0;
    listener_ =
        std::make_unique<AttachListener>(instance_.core, *sessions_, ListenAt(path_), options);
    EXPECT_TRUE(listener_->Start().ok());
  }

  // Kills a client at its stop number `stop`; each system call has one before and one after it.
  // False if it came to its end before. `reached`: how far it was.
  bool KillAt(int stop, std::set<std::string>& reached) {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    testing::ChildProcess client({.command = {self, "--client", path_}});
    const bool ended = !RunTo(client.pid(), stop);
    reached.insert(Standing());
    client.Signal(SIGKILL);
    client.Wait();
    return !ended;
  }

  // Waits until the daemon has seen the end of every client.
  void ExpectNothingLeft(size_t descriptors) {
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    do {
      (void)listener_->FindDead(/*recover=*/true);
      ASSERT_LT(std::chrono::steady_clock::now(), give_up)
          << OpenDescriptors() << " descriptors are open, there were " << descriptors;
    } while (OpenDescriptors() != descriptors || !sessions_->List().empty());
    EXPECT_EQ(Standing(), "nobody");
    EXPECT_TRUE(instance_.channels.Audit().violations.empty());
    EXPECT_EQ(shm::Count(*instance_.core.manager->FindPool("pool")).free_count, kChunks);
  }

  // A peer attaches, and exchanges a message.
  void ExpectPeersGoOn() {
    auto connection = internal::Connection::Open(path_);
    ASSERT_TRUE(connection.ok()) << connection.status().message();
    auto attached = (*connection)->Attach("peer", std::nullopt, false);
    ASSERT_TRUE(attached.ok()) << attached.status().message();
    auto session = std::make_shared<shm::Session>(attached->manager, attached->session);
    const auto reader = (*connection)->Join(AttachOp::kJoinSubscriber, "feed", "", {});
    const auto writer = (*connection)->Join(AttachOp::kJoinPublisher, "feed", "", {});
    ASSERT_TRUE(reader.ok()) << reader.status().message();
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    EXPECT_TRUE(Exchange(*session, **shm::PublisherPort::Create(session, *writer),
                         **shm::SubscriberPort::Create(session, *reader)));
    session->Close();
    EXPECT_TRUE((*connection)->Detach().ok());
  }

 private:
  // What the daemon knows of whoever is there.
  std::string Standing() {
    if (sessions_->List().empty()) return "nobody";
    MutexLock lock(instance_.core.mutex);
    const shm::ChannelRegistry::Channel& channel = *instance_.core.registry.Find("feed");
    std::string text = "a session";
    if (shm::ChannelRegistry::SubscriberCount(channel) > 0) text += ", a subscriber";
    if (shm::ChannelRegistry::PublisherCount(channel) > 0) text += ", a publisher";
    return text;
  }

  static bool RunTo(pid_t pid, int stop) {
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP) << "the client did not start";
    if (!WIFSTOPPED(status)) return false;
    ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    for (int i = 0; i < stop; ++i) {
      ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr);
      EXPECT_EQ(waitpid(pid, &status, 0), pid);
      EXPECT_TRUE(WIFSTOPPED(status)) << "the client ended by itself, status " << status;
      if (!WIFSTOPPED(status) || WSTOPSIG(status) != (SIGTRAP | 0x80)) return false;
    }
    return true;
  }

  const std::string path_ = base_ + "/attach.sock";
  std::unique_ptr<AttachListener> listener_;
};

TEST_F(AttachKillTest, AClientLeavesNothingWhereverItDies) {
  const size_t descriptors = OpenDescriptors();
  std::set<std::string> reached;
  int stop = 1;
  while (!HasFailure() && KillAt(stop, reached)) {
    ExpectNothingLeft(descriptors);
    ExpectPeersGoOn();
    ExpectNothingLeft(descriptors);
    if (HasFailure()) ADD_FAILURE() << "killed at stop " << stop;
    ++stop;
  }
  std::printf("%d stops\n", stop);
  EXPECT_EQ(reached, (std::set<std::string>{"nobody", "a session", "a session, a subscriber",
                                            "a session, a subscriber, a publisher"}));
}

// A daemon in a process of its own.
class Served {
 public:
  explicit Served(const std::string& dir) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const shm::UniqueFd in(ends[0]);
    shm::UniqueFd out(ends[1]);
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    process_ = std::make_unique<testing::ChildProcess>(
        testing::ChildOptions{.command = {self, "--serve", dir}, .output_fd = out.get()});
    out.Reset();
    char text[6];
    EXPECT_EQ(read(in.get(), text, sizeof(text)), 6) << "the daemon does not start";
  }
  void Kill() {
    process_->Signal(SIGKILL);
    while (Wait()) continue;  // who is traced is waited for before its process
    process_->Wait();
  }
  int Stop() {
    process_->Signal(SIGTERM);
    return process_->Wait();
  }
  // Its listener comes to the first of its stops.
  bool Trace() {
    const std::string main = std::to_string(process_->pid());
    for (const auto& task : std::filesystem::directory_iterator("/proc/" + main + "/task"))
      if (task.path().filename() != main) listener_ = std::stoi(task.path().filename());
    return ptrace(PTRACE_SEIZE, listener_, nullptr, PTRACE_O_TRACESYSGOOD) == 0 &&
           ptrace(PTRACE_INTERRUPT, listener_, nullptr, nullptr) == 0 && Wait();
  }
  bool RunToNextStop() {
    return ptrace(PTRACE_SYSCALL, listener_, nullptr, nullptr) == 0 && Wait();
  }

 private:
  bool Wait() const {
    int status = 0;
    return waitpid(listener_, &status, __WALL) == listener_ && WIFSTOPPED(status);
  }
  std::unique_ptr<testing::ChildProcess> process_;
  pid_t listener_ = 0;
};

struct Client {
  std::unique_ptr<internal::Connection> connection;
  shm::Result<internal::Connection::Attached> attached = shm::Status(Code::kUnavailable, "");
};

Client AttachTo(const std::string& path) {
  Client client;
  auto connection = internal::Connection::Open(path);
  if (!connection.ok()) return {nullptr, connection.status()};
  client.connection = std::move(*connection);
  client.attached = client.connection->Attach("client", std::nullopt, false);
  return client;
}

// A message of its own, and the end.
void UseAndDetach(Client client) {
  auto session = std::make_shared<shm::Session>(client.attached->manager, client.attached->session);
  const auto reader = client.connection->Join(AttachOp::kJoinSubscriber, "feed", "", {});
  const auto writer = client.connection->Join(AttachOp::kJoinPublisher, "feed", "", {});
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  EXPECT_TRUE(Exchange(*session, **shm::PublisherPort::Create(session, *writer),
                       **shm::SubscriberPort::Create(session, *reader)));
  session->Close();
  EXPECT_TRUE(client.connection->Detach().ok());
}

TEST(ServeKillTest, AClientOfADaemonThatDiesHasASessionOrKnowsThatItHasNone) {
  int attached_count = 0;
  int failed_count = 0;
  bool ended = false;
  for (int stop = 1; !ended && !::testing::Test::HasFailure(); ++stop) {
    const testing::TempDir dir("/dev/shm");
    const std::string path = dir.path() + "/attach.sock";
    Served daemon(dir.path());
    ASSERT_TRUE(daemon.Trace());
    auto attaching = std::async(std::launch::async, [&path] { return AttachTo(path); });
    const auto is_done = [&attaching] {
      return attaching.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    };
    for (int i = 0; i < stop && !ended; ++i) {
      ASSERT_TRUE(daemon.RunToNextStop());
      ended = is_done();
    }
    daemon.Kill();
    Client client = attaching.get();
    Served next(dir.path());
    if (client.attached.ok()) {
      ++attached_count;
      EXPECT_TRUE(client.connection->CheckIn().ok());
      UseAndDetach(std::move(client));
    } else {
      ++failed_count;
      EXPECT_EQ(client.attached.code(), Code::kUnavailable) << client.attached.status().message();
    }
    Client again = AttachTo(path);
    ASSERT_TRUE(again.attached.ok()) << again.attached.status().message();
    UseAndDetach(std::move(again));
    EXPECT_EQ(next.Stop(), 0) << "something is left of the first daemon's client";
    if (::testing::Test::HasFailure()) ADD_FAILURE() << "killed at stop " << stop;
  }
  std::printf("%d clients without a session, %d with one\n", failed_count, attached_count);
  EXPECT_GT(failed_count, 10);
  EXPECT_GT(attached_count, 0);
}

}  // namespace
}  // namespace zerocp

int main(int argc, char** argv) {
  if (argc > 2 && std::string(argv[1]) == "--client") return zerocp::RunClient(argv[2]);
  if (argc > 2 && std::string(argv[1]) == "--serve") {
    spdlog::set_level(spdlog::level::off);
    return zerocp::Serve(argv[2]);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
