// The connection to a daemon that the subcommands ask over gRPC.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "client/cli/exit_code.h"
#include "client/cli/render.h"
#include "client/cli/stop_signal.h"
#include "client/cli/stream.h"

namespace zerocp::cli {

// Which daemon, and how to talk to it: the options of every word.
struct DaemonOptions {
  std::string runtime_dir;
  std::string address;  // a socket's path, or HOST:PORT for TLS, which needs the three files
  std::string tls_ca;
  std::string tls_cert;
  std::string tls_key;
  std::optional<double> timeout_s;  // for each answer; unset: what the word has for it
  Format format = Format::kTable;

  bool json() const { return format == Format::kJson; }
};

inline constexpr double kPatience_s = 5;

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

class DaemonConnection {
 public:
  // To one service of zerocp.v1, at the socket that serves it. Without a daemon the reason is
  // printed and channel() is nullptr.
  DaemonConnection(const DaemonOptions& options, std::string service,
                   double patience_s = kPatience_s);

  // Calls a method of the service, e.g. "ListPools"; gets all pages of a list. False: exit_code()
  // says what to return; the reason is printed.
  bool Call(const std::string& method, const google::protobuf::Message& request,
            google::protobuf::Message* response);
  // The same, of one page, without printing anything. UNAVAILABLE if there is no channel(); a
  // signal to stop cancels it.
  grpc::Status CallOnce(const std::string& method, const google::protobuf::Message& request,
                        google::protobuf::Message* response);
  // The call ends after the time that the daemon has for each answer.
  void LimitWait(grpc::ClientContext* context) const;
  // Prints why a call failed, unless a signal asked to stop; always false.
  bool Fail(const grpc::Status& status);
  int exit_code() const { return exit_code_; }
  // The socket's path, or HOST:PORT.
  const std::string& address() const { return address_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

 private:
  void ConnectByTls(const DaemonOptions& options);

  const std::string service_;
  const double timeout_s_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  int exit_code_ = kDone;
};

}  // namespace zerocp::cli
