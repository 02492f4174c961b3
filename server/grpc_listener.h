// Accepts connections on a listening descriptor of ours and hands them to a gRPC server.
//
// gRPC's own listener goes deaf for ever after one EMFILE, and unlinks whatever socket it finds at
// its path; this one waits for a free descriptor and never touches a path.
//
// Threads. One of its own.
#pragma once

#include <grpcpp/server_builder.h>

#include <memory>
#include <string>
#include <thread>

#include "shm/unique_fd.h"

namespace zerocp {

class GrpcListener {
 public:
  using Acceptor = grpc::experimental::ExternalConnectionAcceptor;

  // `name` is for the log. REQUIRES: the server of `acceptor` runs, and outlives this.
  GrpcListener(std::string name, shm::UniqueFd listening, std::unique_ptr<Acceptor> acceptor);
  // Stops.
  ~GrpcListener();
  GrpcListener(const GrpcListener&) = delete;
  GrpcListener& operator=(const GrpcListener&) = delete;

  // Accepts no more, and returns when the thread has ended. To be called before the server's
  // shutdown: gRPC drops what it is handed later.
  void Stop();

 private:
  void Run();
  // False if the process cannot have another descriptor now.
  bool AcceptAll();
  // True if the listener was told to stop within the time; -1: no limit.
  bool WaitForStop(int timeout_ms, bool for_connection);

  const std::string name_;
  shm::UniqueFd listening_;
  shm::UniqueFd stop_;  // eventfd
  const std::unique_ptr<Acceptor> acceptor_;
  std::thread thread_;
};

}  // namespace zerocp
