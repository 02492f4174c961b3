#include "client/cli/daemon_caller.h"

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>

#include <cctype>
#include <cstdio>

namespace zerocp::cli {

int Failed(ExitCode code, const std::string& what) {
  std::fprintf(stderr, "zerocp: %s\n", what.c_str());
  return code;
}

bool ToJson(const google::protobuf::Message& message, bool one_line, std::string* text) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = !one_line;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;  // as grpcurl prints them
  return google::protobuf::util::MessageToJsonString(message, text, options).ok();
}

int PrintJson(const google::protobuf::Message& message) {
  std::string text;
  if (!ToJson(message, /*one_line=*/false, &text))
    return Failed(kFailed, "the answer cannot be written as JSON");
  Print(text);
  return kDone;
}

std::string IdOf(const std::string& name) { return name.substr(name.rfind('/') + 1); }

std::string TimeOf(const google::protobuf::Timestamp& time) {
  google::protobuf::Timestamp seconds;
  seconds.set_seconds(time.seconds());
  return google::protobuf::util::TimeUtil::ToString(seconds);
}

std::string PreciseTimeOf(const google::protobuf::Timestamp& time) {
  std::string text = TimeOf(time);
  std::string fraction = std::to_string(1000 + time.nanos() / 1'000'000);
  fraction[0] = '.';
  return text.insert(text.size() - 1, fraction);
}

std::string WordOf(std::string name, const std::string& prefix, int number) {
  if (!name.starts_with(prefix)) return std::to_string(number);
  name.erase(0, prefix.size());
  for (char& c : name)
    c = c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

bool IsAbsent(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ||
         status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
}

}  // namespace zerocp::cli
