#include "server/grpc_error.h"

#include <spdlog/spdlog.h>

#include <random>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/error.h"

namespace zerocp {
namespace {

std::string NewCorrelationId() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

// What the caller learns of a bug.
google::rpc::Status Conceal(const absl::Status& status) {
  const std::string id = NewCorrelationId();
  spdlog::error("internal error {}: {}", id, status.ToString());
  google::rpc::Status concealed;
  concealed.set_code(static_cast<int>(grpc::StatusCode::INTERNAL));
  concealed.set_message("internal error " + id + ": see the daemon's log, and report it as a bug");
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(ReasonName(Reason::kInternal)));
  info.set_domain(kErrorDomain);
  concealed.add_details()->PackFrom(info);
  google::rpc::RequestInfo request;
  request.set_request_id(id);
  concealed.add_details()->PackFrom(request);
  return concealed;
}

google::rpc::Status Reveal(const absl::Status& status) {
  google::rpc::Status revealed;
  revealed.set_code(static_cast<int>(status.code()));
  revealed.set_message(std::string(status.message()));
  for (std::string_view url : ErrorDetailUrls()) {
    if (auto payload = status.GetPayload({url.data(), url.size()})) {
      google::protobuf::Any* detail = revealed.add_details();
      detail->set_type_url(std::string(url));
      detail->set_value(std::string(*payload));
    }
  }
  while (revealed.ByteSizeLong() > kMaxStatusBytes && revealed.details_size() > 1) {
    revealed.mutable_details()->RemoveLast();
  }
  return revealed;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  if (absl::IsCancelled(status)) return grpc::Status::CANCELLED;  // nobody reads it
  const bool bug = status.code() == absl::StatusCode::kInternal || !ReasonOf(status).has_value();
  const google::rpc::Status details = bug ? Conceal(status) : Reveal(status);
  return grpc::Status(static_cast<grpc::StatusCode>(details.code()), details.message(),
                      details.SerializeAsString());
}

}  // namespace zerocp
