// Calls to the daemon over gRPC, and what every subcommand that makes them prints alike.
#pragma once

#include <google/protobuf/message.h>
#include <google/protobuf/timestamp.pb.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "client/cli/daemon_command.h"
#include "client/cli/exit_code.h"
#include "client/cli/output.h"
#include "client/cli/stop_signal.h"
#include "client/cli/stream.h"
#include "client/internal/find_daemon.h"

namespace zerocp::cli {

// Prints "zerocp: <what>" on standard error; returns `code`.
int Failed(ExitCode code, const std::string& what);

// As grpcurl prints it, on one line or several. False: it cannot be written as JSON.
bool ToJson(const google::protobuf::Message& message, bool one_line, std::string* text);

// The same on standard output, on several lines; the exit code.
int PrintJson(const google::protobuf::Message& message);

// "pools/video" -> "video".
std::string IdOf(const std::string& name);

// "2026-01-31T12:00:00Z"
std::string TimeOf(const google::protobuf::Timestamp& time);

// "2026-01-31T12:00:00.042Z"
std::string PreciseTimeOf(const google::protobuf::Timestamp& time);

// "pool-exhausted" of "KIND_POOL_EXHAUSTED", "KIND_" and 1; the number if the value has no name.
std::string WordOf(std::string name, const std::string& prefix, int number);

// No daemon, or one that does not answer.
bool IsAbsent(const grpc::Status& status);

// Reads a stream of the daemon until it ends, `add` returns false, a signal asks to stop, or,
// looked at while nothing comes, `go_on` is false; all but the first cancel it. `start`: the call's
// Async method, bound to its stub and request.
template <class Message, class Start, class Add, class GoOn>
grpc::Status ReadStream(grpc::ClientContext& context, Start start, Add add, GoOn go_on) {
  grpc::CompletionQueue queue;
  // Waits for the operation that was started last. False: the stream has ended.
  const auto completed = [&] {
    void* tag = nullptr;
    bool ok = false;
    while (queue.AsyncNext(&tag, &ok, std::chrono::system_clock::now() + kSlice) ==
           grpc::CompletionQueue::TIMEOUT) {
      if (StopSignal() != 0 || !go_on()) context.TryCancel();
    }
    return ok && StopSignal() == 0;
  };
  const auto reader = start(&context, &queue);
  Message message;
  bool wanted = true;
  for (bool more = completed(); more && wanted;) {
    reader->Read(&message, nullptr);
    more = completed();
    if (more) wanted = add(message);
  }
  if (!wanted) context.TryCancel();
  grpc::Status status;
  reader->Finish(&status, nullptr);
  completed();
  return status;
}

// A service of the daemon at one of its sockets.
template <class Service>
class DaemonCaller {
 public:
  DaemonCaller(const DaemonOptions& options, const char* socket) : options_(options) {
    auto found = internal::FindDaemon(options.runtime_dir, socket, SOCK_STREAM);
    if (!found.ok()) {
      exit_code_ = Failed(kNotReachable, found.status().message());
      return;
    }
    path_ = found->path;
    stub_ =
        Service::NewStub(grpc::CreateChannel("unix:" + path_, grpc::InsecureChannelCredentials()));
  }

  // False: exit_code() says what to return; the reason is printed.
  template <class Request, class Response>
  bool Call(grpc::Status (Service::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
            const Request& request, Response* response) {
    if (stub_ == nullptr) return false;
    grpc::ClientContext context;
    LimitWait(&context);
    const grpc::Status status = (stub_.get()->*method)(&context, request, response);
    return status.ok() || Fail(status);
  }
  // The call ends after the time that the daemon has for each answer.
  void LimitWait(grpc::ClientContext* context) const {
    context->set_deadline(std::chrono::system_clock::now() +
                          std::chrono::duration_cast<std::chrono::system_clock::duration>(
                              std::chrono::duration<double>(options_.timeout_s)));
  }
  // Prints why a call failed; always false.
  bool Fail(const grpc::Status& status) {
    exit_code_ =
        Failed(IsAbsent(status) ? kNotReachable : kFailed,
               "the daemon at " + path_ + (IsAbsent(status) ? " does not answer: " : " says: ") +
                   status.error_message());
    return false;
  }
  int exit_code() const { return exit_code_; }
  const std::string& path() const { return path_; }
  // nullptr: there is no daemon, as exit_code() says.
  typename Service::Stub* stub() { return stub_.get(); }

 private:
  const DaemonOptions& options_;
  std::string path_;
  std::unique_ptr<typename Service::Stub> stub_;
  int exit_code_ = kDone;
};

}  // namespace zerocp::cli
