// A caller of ObserverService and its server streams, for tests.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp {

// A connection of its own.
inline std::unique_ptr<v1::ObserverService::Stub> Connect(const std::string& socket,
                                                          grpc::ChannelArguments arguments = {}) {
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::ObserverService::NewStub(
      grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments));
}

// A call that is cancelled at the end of its scope, or after two minutes.
template <class Message>
class Stream {
 public:
  // `open`: starts the call with the context it is given.
  template <class Open>
  explicit Stream(Open open) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(2));
    reader_ = open(&context_);
  }
  ~Stream() {
    context_.TryCancel();
    if (!finished_) reader_->Finish();
  }
  // False: the stream has ended; Finish says how.
  bool Read(Message* message) { return reader_->Read(message); }
  void Cancel() { context_.TryCancel(); }
  grpc::Status Finish() {
    finished_ = true;
    return reader_->Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<Message>> reader_;
  bool finished_ = false;
};

// The reason in the ErrorInfo of an error.
inline std::string ReasonIn(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  if (details.ParseFromString(status.error_details()) && details.details_size() > 0)
    details.details(0).UnpackTo(&info);
  return info.reason();
}

}  // namespace zerocp
