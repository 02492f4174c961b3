#include "server/grpc_error.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <memory>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/error.h"
#include "server/mutex.h"
#include "server/session_tokens.h"
#include "server/token_bucket.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// A caller that does nothing but wrong does not fill the log.
class ErrorLog {
 public:
  static ErrorLog& Instance() {
    static ErrorLog log;
    return log;
  }
  void Add(const absl::Status& status, const ErrorContext& context, bool bug) {
    const auto level = bug                                ? spdlog::level::err
                       : absl::IsPermissionDenied(status) ? spdlog::level::warn
                                                          : spdlog::level::info;
    uint64_t missing = 0;
    {
      MutexLock lock(mutex_);
      if (!bucket_.Take(TokenBucket::Clock::now())) {
        ++missing_;
        return;
      }
      missing = std::exchange(missing_, 0);
    }
    if (missing != 0) spdlog::warn("{} errors of calls were not logged: too many", missing);
    const std::string text = bug ? status.ToString() : std::string(status.message());
    spdlog::log(level, "{} {}: {}: {}", bug ? "internal error" : "error", context.id,
                context.method.empty() ? "stream" : context.method,
                bug ? text : ReasonOf(status).value_or("") + ": " + text);
  }

 private:
  Mutex mutex_;
  TokenBucket bucket_ ZEROCP_GUARDED_BY(mutex_){100, 20};
  uint64_t missing_ ZEROCP_GUARDED_BY(mutex_) = 0;
};

// What the caller learns of a bug.
google::rpc::Status Conceal(const std::string& id) {
  google::rpc::Status concealed;
  concealed.set_code(static_cast<int>(grpc::StatusCode::INTERNAL));
  concealed.set_message("internal error " + id + ": see the daemon's log, and report it as a bug");
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(ReasonName(Reason::kInternal)));
  info.set_domain(kErrorDomain);
  concealed.add_details()->PackFrom(info);
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
  return revealed;
}

// Absolute paths become "(path)". Resource names, methods and URIs have no slash at a word's begin.
std::string WithoutPaths(const std::string& text) {
  constexpr std::string_view kBefore = " \"'(=,";
  constexpr std::string_view kAfter = " \"'),;";
  std::string clean;
  for (size_t i = 0; i < text.size();) {
    const bool begins = i == 0 || kBefore.find(text[i - 1]) != std::string_view::npos;
    if (!begins || text[i] != '/') {
      clean += text[i++];
      continue;
    }
    clean += "(path)";
    i = std::min(text.find_first_of(kAfter, i), text.size());
  }
  return clean;
}

// In every string of a message.
void RemovePaths(Message* message) {
  const auto* reflection = message->GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(*message, &fields);
  for (const FieldDescriptor* field : fields) {
    const int size = field->is_repeated() ? reflection->FieldSize(*message, field) : 1;
    for (int i = 0; i < size; ++i) {
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        RemovePaths(field->is_repeated() ? reflection->MutableRepeatedMessage(message, field, i)
                                         : reflection->MutableMessage(message, field));
      } else if (field->type() == FieldDescriptor::TYPE_STRING && field->is_repeated()) {
        reflection->SetRepeatedString(
            message, field, i, WithoutPaths(reflection->GetRepeatedString(*message, field, i)));
      } else if (field->type() == FieldDescriptor::TYPE_STRING) {
        reflection->SetString(message, field, WithoutPaths(reflection->GetString(*message, field)));
      }
    }
  }
}

void HideThisMachine(google::rpc::Status* status) {
  status->set_message(WithoutPaths(status->message()));
  for (google::protobuf::Any& detail : *status->mutable_details()) {
    const auto* type = google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(
        detail.type_url().substr(detail.type_url().rfind('/') + 1));
    const std::unique_ptr<Message> message(
        google::protobuf::MessageFactory::generated_factory()->GetPrototype(type)->New());
    message->ParseFromString(detail.value());
    RemovePaths(message.get());
    detail.PackFrom(*message);
  }
}

void Number(const std::string& id, google::rpc::Status* status) {
  google::rpc::RequestInfo request;
  request.set_request_id(id);
  status->add_details()->PackFrom(request);
  status->mutable_details()->SwapElements(1, status->details_size() - 1);  // after the ErrorInfo
}

void Fit(google::rpc::Status* status) {
  while (status->ByteSizeLong() > kMaxStatusBytes && status->details_size() > 2)
    status->mutable_details()->RemoveLast();
  google::rpc::ErrorInfo info;
  if (status->ByteSizeLong() > kMaxStatusBytes && status->details(0).UnpackTo(&info)) {
    info.clear_metadata();
    status->mutable_details(0)->PackFrom(info);
  }
}

}  // namespace

std::string NewCorrelationId() {
  uint64_t bits = 0;
  FillRandom(&bits, sizeof(bits));
  return fmt::format("{:016x}", bits);
}

grpc::Status ToGrpc(const absl::Status& status, const ErrorContext& context) {
  if (status.ok()) return grpc::Status::OK;
  if (absl::IsCancelled(status)) return grpc::Status::CANCELLED;  // nobody reads it
  const bool bug = status.code() == absl::StatusCode::kInternal || !ReasonOf(status).has_value();
  ErrorLog::Instance().Add(status, context, bug);
  google::rpc::Status details = bug ? Conceal(context.id) : Reveal(status);
  if (context.remote && !Mutant(64)) HideThisMachine(&details);
  Number(context.id, &details);
  Fit(&details);
  return grpc::Status(static_cast<grpc::StatusCode>(details.code()),
                      Mutant(53) ? std::string() : details.message(), details.SerializeAsString());
}

}  // namespace zerocp
