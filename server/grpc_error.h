// absl::Status to grpc::Status: the only place that makes one.
//
// Code, message and the embedded google.rpc.Status come from one object, as clients check. An error
// without an ErrorInfo, and INTERNAL, is a bug: it is logged in full under a correlation id, and
// the caller gets only the id.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace zerocp {

// Details are dropped, last first, until the serialized google.rpc.Status has at most this size.
inline constexpr size_t kMaxStatusBytes = 3072;

grpc::Status ToGrpc(const absl::Status& status);

}  // namespace zerocp
