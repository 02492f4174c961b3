#include "tests/bench/ping_pong.h"

#include <time.h>
#include <zerocp/zerocp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "tests/bench/floor.h"
#include "tests/bench/must.h"
#include "tests/system/child_process.h"

namespace zerocp::bench {
namespace {

constexpr size_t kBytes = 1024;

// A member of both channels: what one process sends on, the other takes from.
struct Member {
  Client client;
  Publisher out;
  Subscriber in;

  Member(const std::string& runtime_dir, const char* to, const char* from)
      : client(Must(Client::Connect({"bench", runtime_dir}), "connect")),
        out(Must(client.JoinAsPublisher(to), to)),
        in(Must(client.JoinAsSubscriber(from), from)) {}

  void Send(uint64_t value) {
    Loan loan = Must(out.NewLoan(kBytes, std::nullopt), "loan");
    std::memcpy(loan.data().data(), &value, sizeof(value));
    (void)Must(out.Publish(loan), "publish");
  }
  // The value of the next message if one is there.
  bool Take(uint64_t* value) {
    auto sample = in.TryTake();
    if (!sample) return false;
    std::memcpy(value, sample->data().data(), sizeof(*value));
    return true;
  }
};

double NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

void SetRole(Shared& shared, Role role) {
  shared.role.store(static_cast<uint32_t>(role));
  while (shared.ready.load() != static_cast<uint32_t>(role)) __builtin_ia32_pause();
}

}  // namespace

int RunPeer(const std::string& runtime_dir, int shared_fd) {
  PinTo(1);
  Shared& shared = *MapShared(shared_fd);
  Member member(runtime_dir, "pong", "ping");
  for (;;) {
    const auto role = static_cast<Role>(shared.role.load());
    shared.ready.store(static_cast<uint32_t>(role));
    if (role == Role::kExit) return 0;
    if (role == Role::kFloor) FloorEcho(shared);
    uint64_t value;
    while (role == Role::kZerocp &&
           shared.role.load(std::memory_order_relaxed) == static_cast<uint32_t>(role)) {
      if (member.Take(&value)) member.Send(value);
    }
  }
}

Pair PingPong(const std::string& runtime_dir, int rounds, int round_trips) {
  PinTo(0);
  const int fd = CreateShared();
  Shared& shared = *MapShared(fd);
  Member member(runtime_dir, "ping", "pong");
  testing::ChildOptions options;
  // By its own path: the child is started by another program, which is /proc/self/exe then.
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  options.command = {self, "--peer", runtime_dir, std::to_string(fd)};
  testing::ChildProcess peer(options);
  (void)Must(member.out.WaitForSubscribers(1, std::chrono::seconds(10)),
             "waiting for the second process");

  Series zerocp{"ping_pong", "zerocp", 2, kBytes, {}};
  Series floor{"ping_pong", "floor", 2, 2 * 64, {}};
  uint64_t turn = 0;
  for (int round = -1; round < rounds; ++round) {  // round -1 warms up
    SetRole(shared, Role::kFloor);
    for (int i = 0; i < round_trips; ++i) {
      const double start = NowNs();
      FloorRoundTrip(shared, ++turn);
      if (round >= 0) floor.samples.push_back(NowNs() - start);
    }
    SetRole(shared, Role::kZerocp);
    for (int i = 0; i < round_trips; ++i) {
      const double start = NowNs();
      member.Send(++turn);
      uint64_t value = 0;
      while (!member.Take(&value)) __builtin_ia32_pause();
      if (value != turn) {
        std::fprintf(stderr, "zerocp_bench: message %llu came back as %llu\n",
                     static_cast<unsigned long long>(turn), static_cast<unsigned long long>(value));
        std::exit(1);
      }
      if (round >= 0) zerocp.samples.push_back(NowNs() - start);
    }
  }
  SetRole(shared, Role::kExit);
  if (peer.Wait() != 0) std::exit(1);
  return {zerocp, floor};
}

}  // namespace zerocp::bench
