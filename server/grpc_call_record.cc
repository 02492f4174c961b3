#include "server/grpc_call_record.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>
#include <spdlog/fmt/fmt.h>

#include <chrono>
#include <ctime>

#include "server/error.h"
#include "shm/mutant.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Of the request, and of the changes.
constexpr size_t kMaxJson = size_t{64} << 10;

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      quoted += fmt::format("\\u{:04x}", static_cast<int>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

std::string Now() {
  const auto now = std::chrono::system_clock::now();
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  return fmt::format("{}.{:03}Z", text, ms);
}

std::string StringField(const Message& message, const char* name) {
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
  if (field == nullptr || field->cpp_type() != FieldDescriptor::CPPTYPE_STRING ||
      field->is_repeated()) {
    return "";
  }
  return message.GetReflection()->GetString(message, field);
}

// What a request is about, by the names that all requests of the API use.
std::string ResourceOf(const Message& request) {
  if (std::string name = StringField(request, "name"); !name.empty()) return name;
  if (const std::string id = StringField(request, "pool_id"); !id.empty()) return "pools/" + id;
  if (const std::string id = StringField(request, "channel_id"); !id.empty())
    return "channels/" + id;
  const FieldDescriptor* pool = request.GetDescriptor()->FindFieldByName("pool");
  if (pool != nullptr && pool->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE)
    return StringField(request.GetReflection()->GetMessage(request, pool), "name");
  return "";
}

std::string JsonOf(const Message& request) {
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(request, &json).ok()) return "null";
  if (json.size() <= kMaxJson) return json;
  return fmt::format(R"({{"omittedBytes":{}}})", json.size());
}

std::string JsonOf(const Changes& changes) {
  std::string json;
  for (size_t i = 0; i < changes.size(); ++i) {
    if (json.size() > kMaxJson) {
      json += fmt::format(R"(,"and {} more")", changes.size() - i);
      break;
    }
    json += (i == 0 ? "" : ",") + Quoted(Describe(changes[i]));
  }
  return "[" + json + "]";
}

bool IsAudited(const google::protobuf::MethodDescriptor* method) {
  return method == nullptr ||
         method->service()->full_name() != v1::ObserverService::service_full_name();
}

}  // namespace

CallRecord::CallRecord(const Access& access, AuditLog* audit, const grpc::ServerContextBase& call,
                       const google::protobuf::MethodDescriptor* method, const Message* request)
    : access_(access),
      audit_(audit),
      method_(method),
      request_(request),
      caller_(access.Identify(call)),
      allowed_(CheckRole(caller_, method_)) {}

grpc::Status CallRecord::End(const absl::Status& status, const Changes& changes) const {
  const bool audited = audit_ != nullptr && IsAudited(method_) && !(Mutant(63) && !status.ok());
  if (status.ok() && !audited) return grpc::Status::OK;
  const std::string id = NewCorrelationId();
  if (audited) audit_->Write(AuditLine(id, status, changes));
  return ToGrpc(status, {id, MethodName(method_), access_.remote()});
}

std::string CallRecord::AuditLine(const std::string& id, const absl::Status& status,
                                  const Changes& changes) const {
  std::string line = fmt::format(R"({{"time":"{}","id":"{}","listener":"{}","role":"{}")", Now(),
                                 id, access_.listener(), RoleName(caller_.role));
  if (!caller_.identity.empty()) line += ",\"identity\":" + Quoted(caller_.identity);
  if (caller_.user)
    line += fmt::format(R"(,"uid":{},"pid":{})", caller_.user->uid, caller_.user->pid);
  if (!caller_.address.empty()) line += ",\"address\":" + Quoted(caller_.address);
  line += fmt::format(R"(,"method":"{}","resource":{},"code":"{}")", MethodName(method_),
                      Quoted(request_ == nullptr ? "" : ResourceOf(*request_)),
                      absl::StatusCodeToString(status.code()));
  if (const auto reason = ReasonOf(status)) line += ",\"reason\":" + Quoted(*reason);
  if (!changes.empty()) line += ",\"diff\":" + JsonOf(changes);
  return line + ",\"request\":" + (request_ == nullptr ? "null" : JsonOf(*request_)) + "}";
}

}  // namespace zerocp
