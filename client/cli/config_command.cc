#include "client/cli/config_command.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "client/cli/daemon_connection.h"
#include "client/cli/exit_code.h"
#include "client/cli/output.h"
#include "proto/config_yaml.h"
#include "shm/mutant.h"
#include "zerocp/v1/admin_service.pb.h"
#include "zerocp/v1/observer_service.pb.h"

namespace zerocp::cli {
namespace {

constexpr double kPatienceForChange_s = 300;  // memory is reserved meanwhile

std::string TextOf(const v1::ConfigChange& change) {
  switch (change.action()) {
    case v1::ConfigChange::ACTION_ADD:
      return "+ " + change.path() + "  " + change.new_value();
    case v1::ConfigChange::ACTION_REMOVE:
      return "- " + change.path() + "  " + change.old_value();
    case v1::ConfigChange::ACTION_UPDATE:
      return "~ " + change.path() + "  " + change.old_value() + " -> " + change.new_value();
    case v1::ConfigChange::ACTION_KEEP:
      return "= " + change.path() + "  " + change.old_value() + " stays, " + change.new_value() +
             " asked for";
    default:
      return "? " + change.path() + "  " + change.old_value() + " -> " + change.new_value();
  }
}

// A line, without its end.
std::string LineOf(const v1::ConfigChange& change) { return Printable(TextOf(change)); }

template <class Response>
int ShowChanges(const Response& response, Format format, bool validate_only) {
  if (format != Format::kTable) return PrintMessage(response, format);
  for (const v1::ConfigChange& change : response.changes()) Print(LineOf(change) + "\n");
  if (response.changes().empty()) {
    Print("nothing to change\n");
  } else if (validate_only) {
    Print("nothing was changed: --validate-only\n");
  }
  return kDone;
}

constexpr size_t kMostInputBytes = size_t{4} << 20;  // as much as gRPC takes in one message

// False: what is wrong was printed.
bool ReadInput(const std::string& file, std::string* text) {
  FILE* const stream = file == "-" ? stdin : std::fopen(file.c_str(), "re");
  if (stream != nullptr) {
    text->resize(kMostInputBytes + 1);
    text->resize(std::fread(text->data(), 1, text->size(), stream));
  }
  const bool failed = stream == nullptr || std::ferror(stream) != 0;
  const int error = errno;
  if (stream != nullptr && stream != stdin) std::fclose(stream);
  if (failed) {
    Failed(kFailed, "cannot read " + file + ": " + std::strerror(error));
  } else if (text->size() > kMostInputBytes) {
    Failed(kFailed, file + " has more than " + std::to_string(kMostInputBytes) +
                        " bytes, which no configuration has");
  }
  return !failed && text->size() <= kMostInputBytes;
}

bool IsKept(const v1::ConfigChange& change) {
  return change.action() == v1::ConfigChange::ACTION_KEEP ||
         (Mutant(110) && change.action() == v1::ConfigChange::ACTION_REMOVE);
}

// False: what is wrong with the file was printed.
bool ReadConfig(const std::string& file, v1::Config* config) {
  std::string text;
  if (!ReadInput(file, &text)) return false;
  const ParsedConfig parsed = ParseConfig(text);
  for (const ParsedConfig::Error& error : parsed.errors)
    Failed(kFailed, file + ":" + std::to_string(error.line) + ": " + error.text);
  *config = parsed.config;
  return parsed.errors.empty();
}

int Apply(const DaemonOptions& daemon, const v1::ApplyConfigRequest& request,
          v1::ApplyConfigResponse* response) {
  DaemonConnection admin(daemon, "AdminService", kPatienceForChange_s);
  return admin.Call("ApplyConfig", request, response) ? int{kDone} : admin.exit_code();
}

}  // namespace

int GetConfig(const DaemonOptions& daemon) {
  DaemonConnection observer(daemon, "ObserverService");
  v1::GetConfigResponse response;
  if (!observer.Call("GetConfig", v1::GetConfigRequest(), &response)) return observer.exit_code();
  if (!response.file_error().empty())
    Failed(kFailed, "the daemon's file cannot be used: " + response.file_error());
  if (!response.drift().empty()) Failed(kFailed, "zerocp config reload would change:");
  for (const v1::ConfigChange& change : response.drift()) Failed(kFailed, "  " + LineOf(change));
  if (daemon.json()) return PrintMessage(response.config(), daemon.format);
  Print(ToYaml(response.config()));
  return kDone;
}

int DiffConfig(const DaemonOptions& daemon, const ConfigOptions& options) {
  v1::ApplyConfigRequest request;
  request.set_validate_only(true);
  request.set_allow_deletion(true);
  if (!ReadConfig(options.file, request.mutable_config())) return kFailed;
  request.mutable_config()->clear_etag();  // which tells when it was read, not what is in it
  v1::ApplyConfigResponse response;
  if (Apply(daemon, request, &response) != kDone ||
      ShowChanges(response, daemon.format, /*validate_only=*/false) != kDone) {
    return kFailed;
  }
  const auto& changes = response.changes();
  return std::all_of(changes.begin(), changes.end(), IsKept) ? int{kDone} : kDiffers;
}

int ApplyConfig(const DaemonOptions& daemon, const ConfigOptions& options) {
  v1::ApplyConfigRequest request;
  request.set_validate_only(options.validate_only);
  request.set_allow_deletion(options.allow_deletion);
  request.set_persist(options.persist);
  if (!ReadConfig(options.file, request.mutable_config())) return kFailed;
  v1::ApplyConfigResponse response;
  if (const int code = Apply(daemon, request, &response); code != kDone) return code;
  return ShowChanges(response, daemon.format, options.validate_only);
}

int ReloadConfig(const DaemonOptions& daemon, const ConfigOptions& options) {
  v1::ReloadConfigRequest request;
  request.set_validate_only(options.validate_only);
  request.set_allow_deletion(options.allow_deletion);
  DaemonConnection admin(daemon, "AdminService", kPatienceForChange_s);
  v1::ReloadConfigResponse response;
  if (!admin.Call("ReloadConfig", request, &response)) return admin.exit_code();
  return ShowChanges(response, daemon.format, options.validate_only);
}

}  // namespace zerocp::cli
