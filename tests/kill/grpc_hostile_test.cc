// Hostile bytes: a writer scribbles into the management segment, at random and with values that
// look right, while clients stream and every RPC is called; then both files are punched and cut.
// The daemon answers every call, says what is damaged, and ends in order. Clients may report
// errors, but never end by a signal, hang, or get memory outside of the chunk segment. The clients
// are this program again, `--client`. $ZEROCP_HOSTILE_SECONDS says how long each part takes; 4
// unless it is set, $ZEROCP_HOSTILE_SEED the first number.
#include <execinfo.h>
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zerocp/zerocp.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/system/daemon_process.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"
#include "zerocp/v1/session_service.grpc.pb.h"

namespace zerocp {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr unsigned kClientWatchdogSeconds = 60;
constexpr std::chrono::seconds kCallDeadline{60};
constexpr int kOutside = 42;  // a client's exit code: it was given memory that is no chunk
constexpr int kClients = 4;

// Where the chunk segment is mapped.
class ChunkRange {
 public:
  ChunkRange() {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      if (line.find("memory_chunk") == std::string::npos) continue;
      unsigned long begin = 0;
      unsigned long end = 0;
      if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) != 2) continue;
      if (begin_ == 0) begin_ = begin;
      end_ = end;
    }
  }
  void MustHave(std::span<const std::byte> bytes) const {
    const auto at = reinterpret_cast<uintptr_t>(bytes.data());
    if (at < begin_ || at > end_ || bytes.size() > end_ - at) _exit(kOutside);
  }

 private:
  uintptr_t begin_ = 0;
  uintptr_t end_ = 0;
};

void UseAll(Client& client, const ChunkRange& chunks, Publisher& publisher,
            Subscriber& subscriber) {
  auto loan = publisher.NewLoan(64, milliseconds(1));
  if (loan) {
    chunks.MustHave(loan->data());
    std::memset(loan->data().data(), 7, loan->data().size());
    (void)publisher.Publish(*loan, milliseconds(1));
  }
  auto sample = subscriber.Wait(milliseconds(1));
  if (sample) {
    chunks.MustHave(sample->data());
    unsigned sum = 0;
    for (std::byte byte : sample->data()) sum += static_cast<unsigned>(byte);
    asm volatile("" : : "r"(sum));
  }
  auto own = client.NewLoan("small", 64, milliseconds(1));
  if (!own) return;
  chunks.MustHave(own->data());
  auto shared = std::move(*own).Share();
  if (!shared) return;
  auto handle = shared->handle();
  if (!handle) return;
  auto opened = client.Open(*handle);
  if (opened) chunks.MustHave(opened->data());
}

// Where it happened, for the test's report.
void TellWhere(int number) {
  std::array<void*, 64> frames{};
  backtrace_symbols_fd(frames.data(), backtrace(frames.data(), frames.size()), STDERR_FILENO);
  signal(number, SIG_DFL);
  raise(number);
}

// Whatever the calls say, it goes on, some 200 times.
int RunClient(const std::string& runtime_dir, const std::string& channel) {
  alarm(kClientWatchdogSeconds);
  for (const int number : {SIGSEGV, SIGBUS, SIGABRT, SIGALRM}) signal(number, TellWhere);
  auto client = Client::Connect({.name = "hostile", .runtime_dir = runtime_dir});
  if (!client) return 0;
  auto publisher = client->JoinAsPublisher(channel);
  auto subscriber = client->JoinAsSubscriber(channel);
  if (!publisher || !subscriber) return 0;
  const ChunkRange chunks;
  for (int i = 0; i < 200; ++i) UseAll(*client, chunks, *publisher, *subscriber);
  return 0;
}

// Those of the first `bytes` of a file that have been written: what has not is not to be made. The
// file may grow, and lose pages, meanwhile.
std::vector<std::pair<off_t, off_t>> DataRanges(int fd, off_t bytes) {
  std::vector<std::pair<off_t, off_t>> ranges;
  for (off_t at = 0;;) {
    const off_t begin = lseek(fd, at, SEEK_DATA);
    if (begin < 0 || begin >= bytes) return ranges;
    at = std::min(lseek(fd, begin, SEEK_HOLE), bytes);
    if (at > begin) ranges.emplace_back(begin, at);
  }
}

class Scribbler {
 public:
  Scribbler(const std::string& path, uint64_t seed)
      : random_(seed), fd_(open(path.c_str(), O_RDWR | O_CLOEXEC)) {
    struct stat info {};
    EXPECT_EQ(fstat(fd_, &info), 0) << path;
    bytes_ = static_cast<size_t>(info.st_size);
    void* address = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    EXPECT_NE(address, MAP_FAILED);
    base_ = static_cast<std::byte*>(address);
  }
  ~Scribbler() {
    munmap(base_, bytes_);
    close(fd_);
  }
  Scribbler(const Scribbler&) = delete;
  Scribbler& operator=(const Scribbler&) = delete;

  // Puts back what it scribbled over since the last Forget, so that others go on to meet the next.
  void Undo() {
    for (; !undo_.empty(); undo_.pop_back())
      __atomic_store_n(undo_.back().first, undo_.back().second, __ATOMIC_RELAXED);
  }
  void Forget() { undo_.clear(); }

  void Scribble() {
    if (count_++ % 4096 == 0) ranges_ = DataRanges(fd_, static_cast<off_t>(bytes_));
    auto* word = reinterpret_cast<uint64_t*>(At(8));
    const uint64_t value = __atomic_load_n(word, __ATOMIC_RELAXED);
    switch (random_() % 8) {
      case 0:
        return Store(word, random_());
      case 1:
        return Store(word, 0);
      case 2:
        return Store(word, ~uint64_t{0});
      case 3:
        return Store(word, value ^ uint64_t{1} << random_() % 64);
      case 4:
        return Store(word, value + 1);
      case 5:
        return Store(word, value - (uint64_t{1} << random_() % 64));
      default: {  // what stands elsewhere: a cursor, a cell, a record of somebody else
        const auto* line = reinterpret_cast<const uint64_t*>(At(64));
        auto* to = reinterpret_cast<uint64_t*>(At(64));
        for (int i = 0; i < 8; ++i) Store(to + i, __atomic_load_n(line + i, __ATOMIC_RELAXED));
      }
    }
  }

 private:
  // An aligned place of a page that is there; early pages, which hold the tables, more often.
  std::byte* At(size_t align) {
    const auto& [begin, end] = ranges_[random_() % ranges_.size()];
    auto length = static_cast<uint64_t>(end - begin);
    if (random_() % 2 == 0) length = std::min<uint64_t>(length, 65536);
    return base_ + begin + random_() % (length / align) * align;
  }
  void Store(uint64_t* word, uint64_t value) {
    undo_.emplace_back(word, __atomic_exchange_n(word, value, __ATOMIC_RELAXED));
  }

  std::mt19937_64 random_;
  const int fd_;
  uint64_t count_ = 0;
  std::byte* base_ = nullptr;
  size_t bytes_ = 0;
  std::vector<std::pair<off_t, off_t>> ranges_;
  std::vector<std::pair<uint64_t*, uint64_t>> undo_;
};

class HostileTest : public ::testing::Test {
 protected:
  HostileTest() {
    auto channel = grpc::CreateChannel("unix:" + daemon_.socket("admin.sock"),
                                       grpc::InsecureChannelCredentials());
    admin_ = v1::AdminService::NewStub(channel);
    observer_ = v1::ObserverService::NewStub(channel);
    session_ = v1::SessionService::NewStub(channel);
  }

  // One call. Any answer of the daemon will do, but it must come.
  template <class Stub, class Request, class Response>
  bool Call(const char* name, Stub& stub,
            grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
            const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kCallDeadline);
    const auto start = Clock::now();
    const grpc::Status status = (stub.*method)(&context, request, response);
    slowest_ = std::max(slowest_.load(), Clock::duration(Clock::now() - start));
    ++calls_;
    {
      std::lock_guard lock(answers_mutex_);
      ++answers_[name][status.error_code()];
    }
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
        (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED &&
         std::strcmp(name, "TerminateSession") != 0)) {
      ADD_FAILURE() << name << ": " << status.error_message() << "\n" << Tail();
      stop_ = true;
    }
    return status.ok();
  }

  void Read() {
    v1::GetStatsResponse stats;
    Call("GetStats", *observer_, &v1::ObserverService::Stub::GetStats, v1::GetStatsRequest(),
         &stats);
    v1::ListPoolsResponse pools;
    Call("ListPools", *observer_, &v1::ObserverService::Stub::ListPools, v1::ListPoolsRequest(),
         &pools);
    v1::ListChannelsResponse channels;
    Call("ListChannels", *observer_, &v1::ObserverService::Stub::ListChannels,
         v1::ListChannelsRequest(), &channels);
    v1::ListSessionsResponse sessions;
    Call("ListSessions", *observer_, &v1::ObserverService::Stub::ListSessions,
         v1::ListSessionsRequest(), &sessions);
    v1::ListHeldChunksResponse held;
    Call("ListHeldChunks", *observer_, &v1::ObserverService::Stub::ListHeldChunks,
         v1::ListHeldChunksRequest(), &held);
    v1::GetServerInfoResponse info;
    Call("GetServerInfo", *observer_, &v1::ObserverService::Stub::GetServerInfo,
         v1::GetServerInfoRequest(), &info);
    v1::GetConfigResponse config;
    Call("GetConfig", *observer_, &v1::ObserverService::Stub::GetConfig, v1::GetConfigRequest(),
         &config);
    v1::AuditResponse audit;
    if (Call("Audit", *admin_, &v1::AdminService::Stub::Audit, v1::AuditRequest(), &audit))
      for (const auto& violation : audit.violations()) ++violations_[violation.invariant()];
    DetachOneOf(stats.stats());
    TerminateOneOf(sessions);
  }
  void DetachOneOf(const v1::Stats& stats) {
    for (const v1::ChannelStats& channel : stats.channels()) {
      if (channel.subscribers_size() == 0) continue;
      v1::DetachSubscriberRequest request;
      request.set_name(channel.subscribers(0).subscriber());
      v1::DetachSubscriberResponse response;
      Call("DetachSubscriber", *admin_, &v1::AdminService::Stub::DetachSubscriber, request,
           &response);
    }
  }
  void TerminateOneOf(const v1::ListSessionsResponse& sessions) {
    if (sessions.sessions_size() == 0) return;
    v1::TerminateSessionRequest request;
    request.set_name(sessions.sessions(0).name());
    v1::TerminateSessionResponse response;
    Call("TerminateSession", *admin_, &v1::AdminService::Stub::TerminateSession, request,
         &response);
  }
  void Change() {
    v1::CreatePoolRequest create;
    create.set_pool_id("extra");
    create.mutable_pool()->set_chunk_size_bytes(256);
    create.mutable_pool()->set_chunk_count(64);
    create.mutable_pool()->set_max_chunk_count(256);
    v1::CreatePoolResponse created;
    Call("CreatePool", *admin_, &v1::AdminService::Stub::CreatePool, create, &created);
    v1::UpdatePoolRequest grow;
    grow.mutable_pool()->set_name("pools/extra");
    grow.mutable_pool()->set_chunk_count(128);
    v1::UpdatePoolResponse grown;
    Call("UpdatePool", *admin_, &v1::AdminService::Stub::UpdatePool, grow, &grown);
    v1::CreateChannelRequest join;
    join.set_channel_id("extra");
    join.mutable_channel()->set_pool("pools/extra");
    join.mutable_channel()->set_when_full(v1::Channel::WHEN_FULL_WAIT);
    v1::CreateChannelResponse joined;
    Call("CreateChannel", *admin_, &v1::AdminService::Stub::CreateChannel, join, &joined);
    v1::DeleteChannelRequest leave;
    leave.set_name("channels/extra");
    leave.set_even_if_in_use(true);
    v1::DeleteChannelResponse left;
    Call("DeleteChannel", *admin_, &v1::AdminService::Stub::DeleteChannel, leave, &left);
    v1::DeletePoolRequest remove;
    remove.set_name("pools/extra");
    remove.set_drain(true);
    v1::DeletePoolResponse removed;
    Call("DeletePool", *admin_, &v1::AdminService::Stub::DeletePool, remove, &removed);
    // And all of it at once, there and back.
    v1::GetConfigResponse config;
    if (Call("GetConfig", *observer_, &v1::ObserverService::Stub::GetConfig, v1::GetConfigRequest(),
             &config)) {
      v1::ApplyConfigRequest apply;
      *apply.mutable_config() = config.config();
      apply.mutable_config()->clear_etag();
      apply.set_allow_deletion(true);
      v1::ApplyConfigResponse applied;
      v1::ApplyConfigRequest more = apply;
      *more.mutable_config()->add_pools() = create.pool();
      more.mutable_config()->mutable_pools()->rbegin()->set_name("pools/more");
      Call("ApplyConfig", *admin_, &v1::AdminService::Stub::ApplyConfig, more, &applied);
      Call("ApplyConfig", *admin_, &v1::AdminService::Stub::ApplyConfig, apply, &applied);
    }
    v1::CreateSessionRequest session;
    session.set_client_name("hostile");
    session.set_layout_version(5);
    v1::CreateSessionResponse token;
    Call("CreateSession", *session_, &v1::SessionService::Stub::CreateSession, session, &token);
  }

  // Clients come and go until stop_, one after the other, over `channel`.
  void KeepClients(const std::string& channel, bool survives) {
    while (!stop_) {
      testing::ChildProcess child({.command = {std::filesystem::read_symlink("/proc/self/exe"),
                                               "--client", daemon_.runtime_dir(), channel},
                                   .error = dir_.path() + "/" + channel});
      const int code = child.Wait();
      ++clients_;
      if (!survives || code == 0) continue;
      ADD_FAILURE() << "a client ended with " << code
                    << (code == kOutside ? ": it got memory that is no chunk" : "") << "\n"
                    << testing::ReadFile(dir_.path() + "/" + channel);
      stop_ = true;
    }
  }

  // Calls and clients, and `hostile` again and again, for the time of a part.
  void Run(const std::function<void()>& hostile, bool clients_survive) {
    std::vector<std::thread> threads;
    threads.emplace_back([this] {
      while (!stop_) Read();
    });
    threads.emplace_back([this] {
      while (!stop_) Change();
    });
    for (int i = 0; i < kClients; ++i)
      threads.emplace_back([this, i, clients_survive] {
        KeepClients(i % 2 == 0 ? "wait" : "drop", clients_survive);
      });
    const char* text = std::getenv("ZEROCP_HOSTILE_SECONDS");
    const auto end = Clock::now() + std::chrono::seconds(text == nullptr ? 4 : std::atoi(text));
    while (Clock::now() < end && !stop_) hostile();
    stop_ = true;
    for (std::thread& thread : threads) thread.join();
    std::printf(
        "%lld calls, the slowest %lld ms, %lld clients; broken invariants seen:\n",
        static_cast<long long>(calls_),
        static_cast<long long>(std::chrono::duration_cast<milliseconds>(slowest_.load()).count()),
        static_cast<long long>(clients_));
    for (const auto& [name, codes] : answers_)
      for (const auto& [code, count] : codes)
        std::printf("  %s code %d: %lld\n", name.c_str(), code, static_cast<long long>(count));
    for (const auto& [name, count] : violations_)
      std::printf("  %s %lld\n", name.c_str(), static_cast<long long>(count));
    EXPECT_GT(calls_, 20);
    EXPECT_GT(clients_, 0);
  }
  std::string Tail() const {
    const std::string log = daemon_.Log();
    return log.substr(log.size() - std::min<size_t>(log.size(), 6000));
  }
  void ExpectEndsInOrder() {
    EXPECT_EQ(daemon_.Stop(SIGTERM), 0) << Tail();
    const std::string log = daemon_.Log();
    EXPECT_EQ(log.find("runtime error:"), std::string::npos) << Tail();
  }
  static uint64_t Seed() {
    const char* text = std::getenv("ZEROCP_HOSTILE_SEED");
    const uint64_t seed =
        text == nullptr ? std::random_device()() : std::strtoull(text, nullptr, 10);
    std::printf("ZEROCP_HOSTILE_SEED=%llu\n", static_cast<unsigned long long>(seed));
    return seed;
  }

  testing::DaemonProcess daemon_{{"--pool", "small=1KiBx256", "--pool", "big=1KiBx4096",
                                  "--channel", "wait=small,queue=8", "--channel",
                                  "drop=big,queue=8,when-full=drop,history=2"}};
  testing::TempDir dir_;
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> calls_{0};
  std::atomic<int64_t> clients_{0};
  std::atomic<Clock::duration> slowest_{Clock::duration::zero()};
  std::mutex answers_mutex_;
  std::map<std::string, std::map<int, int64_t>> answers_;  // by RPC and code
  std::map<std::string, int64_t> violations_;  // of the reading thread, until it has ended
  std::unique_ptr<v1::AdminService::Stub> admin_;
  std::unique_ptr<v1::ObserverService::Stub> observer_;
  std::unique_ptr<v1::SessionService::Stub> session_;
};

TEST_F(HostileTest, TheDaemonAndItsClientsOutliveAScribbler) {
  std::string management;
  for (const std::string& path : daemon_.Segments())
    if (path.find("management") != std::string::npos) management = path;
  Scribbler scribbler(management, Seed());
  int bursts = 0;
  Run(
      [&] {
        for (int i = 0; i < 16; ++i) scribbler.Scribble();
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        if (++bursts % 64 != 0) scribbler.Undo();
        scribbler.Forget();
      },
      true);
  EXPECT_FALSE(violations_.empty());
  ExpectEndsInOrder();
}

// A client may cut the files that it was given; who reads behind the end then gets SIGBUS, but for
// the daemon.
TEST_F(HostileTest, TheDaemonOutlivesFilesThatArePunchedAndCut) {
  std::mt19937_64 random(Seed());
  const std::vector<std::string> paths = daemon_.Segments();
  Run(
      [&] {
        const std::string& path = paths[random() % paths.size()];
        const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
        struct stat info {};
        if (fd < 0 || fstat(fd, &info) != 0) {
          ADD_FAILURE() << path << ": " << std::strerror(errno);
          stop_ = true;
          return;
        }
        const off_t at = info.st_size == 0
                             ? 0
                             : static_cast<off_t>(random() % static_cast<uint64_t>(info.st_size));
        if (random() % 4 == 0) {
          EXPECT_EQ(ftruncate(fd, at), 0);
        } else if (info.st_size > at) {
          EXPECT_EQ(
              fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, info.st_size - at), 0);
        }
        close(fd);
        std::this_thread::sleep_for(milliseconds(50));
      },
      false);
  ExpectEndsInOrder();
}

}  // namespace
}  // namespace zerocp

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--client") return zerocp::RunClient(argv[2], argv[3]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
