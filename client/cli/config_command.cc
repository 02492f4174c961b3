#include "client/cli/config_command.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>

#include "client/cli/daemon_caller.h"
#include "client/cli/exit_code.h"
#include "client/cli/output.h"
#include "proto/config_yaml.h"
#include "shm/runtime_dir.h"
#include "zerocp/v1/admin_service.grpc.pb.h"
#include "zerocp/v1/observer_service.grpc.pb.h"

namespace zerocp::cli {
namespace {

using Observer = v1::ObserverService;
using Admin = v1::AdminService;

// A line, without its end.
std::string LineOf(const v1::ConfigChange& change) {
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

template <class Response>
int Show(const Response& response, bool json, bool validate_only) {
  if (json) return PrintJson(response);
  for (const v1::ConfigChange& change : response.changes()) Print(LineOf(change) + "\n");
  if (response.changes().empty()) {
    Print("nothing to change\n");
  } else if (validate_only) {
    Print("nothing was changed: --validate-only\n");
  }
  return kDone;
}

// False: what is wrong was printed.
bool ReadInput(const std::string& file, std::string* text) {
  if (file == "-") {
    text->assign(std::istreambuf_iterator<char>(std::cin), {});
    return true;
  }
  std::ifstream stream(file, std::ios::binary);
  text->assign(std::istreambuf_iterator<char>(stream), {});
  if (stream.is_open() && !stream.bad()) return true;
  Failed(kFailed, "cannot read " + file + ": " + std::strerror(errno));
  return false;
}

}  // namespace

int GetConfig(const DaemonOptions& daemon) {
  DaemonCaller<Observer> observer(daemon, shm::kClientSocket);
  v1::GetConfigResponse response;
  if (!observer.Call(&Observer::Stub::GetConfig, v1::GetConfigRequest(), &response))
    return observer.exit_code();
  if (!response.file_error().empty())
    std::fprintf(stderr, "zerocp: the daemon's file cannot be used: %s\n",
                 response.file_error().c_str());
  if (!response.drift().empty())
    std::fprintf(stderr, "zerocp: zerocp config reload would change:\n");
  for (const v1::ConfigChange& change : response.drift())
    std::fprintf(stderr, "zerocp:   %s\n", LineOf(change).c_str());
  if (daemon.json) return PrintJson(response.config());
  Print(ToYaml(response.config()));
  return kDone;
}

int ApplyConfig(const DaemonOptions& daemon, const ConfigOptions& options) {
  std::string text;
  if (!ReadInput(options.file, &text)) return kFailed;
  const ParsedConfig parsed = ParseConfig(text);
  for (const ParsedConfig::Error& error : parsed.errors)
    Failed(kFailed, options.file + ":" + std::to_string(error.line) + ": " + error.text);
  if (!parsed.errors.empty()) return kFailed;
  v1::ApplyConfigRequest request;
  *request.mutable_config() = parsed.config;
  request.set_validate_only(options.validate_only);
  request.set_allow_deletion(options.allow_deletion);
  request.set_persist(options.persist);
  DaemonCaller<Admin> admin(daemon, shm::kAdminSocket);
  v1::ApplyConfigResponse response;
  if (!admin.Call(&Admin::Stub::ApplyConfig, request, &response)) return admin.exit_code();
  return Show(response, daemon.json, options.validate_only);
}

int ReloadConfig(const DaemonOptions& daemon, const ConfigOptions& options) {
  v1::ReloadConfigRequest request;
  request.set_validate_only(options.validate_only);
  request.set_allow_deletion(options.allow_deletion);
  DaemonCaller<Admin> admin(daemon, shm::kAdminSocket);
  v1::ReloadConfigResponse response;
  if (!admin.Call(&Admin::Stub::ReloadConfig, request, &response)) return admin.exit_code();
  return Show(response, daemon.json, options.validate_only);
}

}  // namespace zerocp::cli
