// absl::Status to grpc::Status: the only place that makes one.
//
// Code, message and the embedded google.rpc.Status come from one object, as clients check. Every
// error carries the correlation id under which the log tells of it (RequestInfo). An error without
// an ErrorInfo, and INTERNAL, is a bug: it is logged in full, and the caller gets only the id.
//
// Threads. Functions from any thread.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"

namespace zerocp {

// The serialized google.rpc.Status has at most this size: details are dropped, the last first, and
// then what is dynamic in the ErrorInfo.
inline constexpr size_t kMaxStatusBytes = 3072;

// 16 hexadecimal digits, random.
std::string NewCorrelationId();

struct ErrorContext {
  std::string id = NewCorrelationId();
  std::string method = {};  // for the log
  bool remote = false;      // the caller is on another machine: it gets no paths of this one
};
grpc::Status ToGrpc(const absl::Status& status, const ErrorContext& context = {});

}  // namespace zerocp
