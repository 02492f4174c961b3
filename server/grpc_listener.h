// Accepts connections on a listening descriptor of ours and hands them to a gRPC server.
//
// gRPC's own listener goes deaf for ever after one EMFILE, and unlinks whatever socket it finds at
// its path; this one waits for a free descriptor and never touches a path. Connections beyond the
// listener's limits are closed at once.
//
// On a Unix socket a connection is handed on when the beginning of HTTP/2 is there, whole: the
// preface and the first frame. One that sends anything else, or nothing for `patience`, is closed,
// and so is the oldest of those that wait when there are too many. (TLS has gRPC's limit for a
// handshake.)
//
// Threads. One of its own.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "server/grpc_connections.h"
#include "shm/unique_fd.h"

namespace zerocp {

class GrpcListener {
 public:
  struct Options {
    std::string name = {};  // for the log
    bool tcp = false;       // a connection is handed on at once
    std::chrono::milliseconds patience{10'000};
    size_t max_waiting = 256;
  };
  // Owns the connection from then on.
  using HandOver = std::function<void(int fd)>;

  // REQUIRES: what `hand_over` works on, and `connections`, outlive this.
  GrpcListener(Options options, shm::UniqueFd listening, GrpcConnections& connections,
               HandOver hand_over);
  // Stops.
  ~GrpcListener();
  GrpcListener(const GrpcListener&) = delete;
  GrpcListener& operator=(const GrpcListener&) = delete;

  // Accepts no more, and returns when the thread has ended. To be called before the server's
  // shutdown: gRPC drops what it is handed later.
  void Stop();

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiting {
    shm::UniqueFd fd;
    Clock::time_point since;
  };

  void Run();
  int TimeoutMs() const;
  // False if the process cannot have another descriptor now.
  bool AcceptAll();
  void Admit(shm::UniqueFd fd);
  void Look(int fd);
  void GiveUpSilent();
  void Watch(int fd, uint32_t events);
  void HandOn(shm::UniqueFd fd);
  void Listen(bool on);

  const Options options_;
  shm::UniqueFd listening_;
  shm::UniqueFd stop_;  // eventfd
  shm::UniqueFd epoll_;
  GrpcConnections& connections_;
  const HandOver hand_over_;
  // The thread's own.
  std::map<int, Waiting> waiting_;
  bool starved_ = false;
  Clock::time_point next_complaint_;
  std::thread thread_;
};

}  // namespace zerocp
