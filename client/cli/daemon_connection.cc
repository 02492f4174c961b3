#include "client/cli/daemon_connection.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/security/credentials.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "client/cli/output.h"
#include "client/internal/find_daemon.h"
#include "shm/runtime_dir.h"

namespace zerocp::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

const char* SocketOf(const std::string& service) {
  return service == "AdminService" ? shm::kAdminSocket : shm::kClientSocket;
}

// False: it cannot be read; the reason is printed.
bool ReadPem(const char* option, const std::string& path, std::string* pem) {
  if (path.empty()) {
    Failed(kUsage, std::string("--address HOST:PORT is TLS, which needs ") + option +
                       " too: the daemon and the command show each other a certificate");
    return false;
  }
  std::ifstream file(path, std::ios::binary);
  std::getline(file, *pem, '\0');
  if (!pem->empty() && !file.bad()) return true;
  Failed(kUsage, std::string(option) + " " + path + ": " +
                     (file.is_open() && !file.bad() ? "is empty" : std::strerror(errno)));
  return false;
}

// Lets `response` have all that `page` has; the token of the next page goes to `request`. False: it
// was the last.
bool AddPage(const Message& page, Message* request, Message* response) {
  response->MergeFrom(page);
  const FieldDescriptor* next = page.GetDescriptor()->FindFieldByName("next_page_token");
  if (next == nullptr) return false;
  const std::string token = page.GetReflection()->GetString(page, next);
  response->GetReflection()->ClearField(response, next);
  request->GetReflection()->SetString(
      request, request->GetDescriptor()->FindFieldByName("page_token"), token);
  return !token.empty();
}

}  // namespace

bool IsAbsent(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ||
         (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED &&
          status.error_details().empty());  // else the daemon says that time is over for something
}

DaemonConnection::DaemonConnection(const DaemonOptions& options, std::string service,
                                   double patience_s)
    : service_(std::move(service)), timeout_s_(options.timeout_s.value_or(patience_s)) {
  const bool is_path = options.address.starts_with("/") || options.address.starts_with("unix:");
  if (!options.address.empty() && !is_path) {
    ConnectByTls(options);
    return;
  }
  const size_t scheme = options.address.starts_with("unix:") ? 5 : 0;
  const auto found =
      is_path ? internal::ConnectToDaemon(options.address.substr(scheme), SOCK_STREAM)
              : internal::FindDaemon(options.runtime_dir, SocketOf(service_), SOCK_STREAM);
  if (!found.ok()) {
    exit_code_ = Failed(kNotReachable, found.status().message());
    return;
  }
  address_ = found->path;
  channel_ = grpc::CreateChannel("unix:" + address_, grpc::InsecureChannelCredentials());
}

void DaemonConnection::ConnectByTls(const DaemonOptions& options) {
  grpc::SslCredentialsOptions files;
  if (!ReadPem("--tls-ca", options.tls_ca, &files.pem_root_certs) ||
      !ReadPem("--tls-cert", options.tls_cert, &files.pem_cert_chain) ||
      !ReadPem("--tls-key", options.tls_key, &files.pem_private_key)) {
    exit_code_ = kUsage;
    return;
  }
  address_ = options.address;
  channel_ = grpc::CreateChannel(address_, grpc::SslCredentials(files));
}

grpc::Status DaemonConnection::CallOnce(const std::string& method, const Message& request,
                                        Message* response) {
  if (channel_ == nullptr) return {grpc::StatusCode::UNAVAILABLE, "there is no connection"};
  grpc::ClientContext context;
  LimitWait(&context);
  grpc::CompletionQueue queue;
  grpc::TemplatedGenericStub<Message, Message> stub(channel_);
  const auto call =
      stub.PrepareUnaryCall(&context, "/zerocp.v1." + service_ + "/" + method, request, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  while (queue.AsyncNext(&tag, &ok, std::chrono::system_clock::now() + kSlice) ==
         grpc::CompletionQueue::TIMEOUT) {
    if (StopSignal() != 0) context.TryCancel();
  }
  return status;
}

bool DaemonConnection::Call(const std::string& method, const Message& request, Message* response) {
  if (channel_ == nullptr) return false;
  const std::unique_ptr<Message> next(request.New());
  next->CopyFrom(request);
  const std::unique_ptr<Message> page(response->New());
  do {
    const grpc::Status status = CallOnce(method, *next, page.get());
    if (!status.ok()) return Fail(status);
  } while (AddPage(*page, next.get(), response));
  return true;
}

void DaemonConnection::LimitWait(grpc::ClientContext* context) const {
  context->set_deadline(std::chrono::system_clock::now() +
                        std::chrono::duration_cast<std::chrono::system_clock::duration>(
                            std::chrono::duration<double>(timeout_s_)));
}

bool DaemonConnection::Fail(const grpc::Status& status) {
  if (StopSignal() != 0) {
    exit_code_ = kSignal + StopSignal();
    return false;
  }
  const bool absent = IsAbsent(status);
  exit_code_ = Failed(absent ? kNotReachable : kFailed,
                      "the daemon at " + address_ + (absent ? " does not answer: " : " says: ") +
                          status.error_message());
  return false;
}

}  // namespace zerocp::cli
