#include "client/cli/doctor.h"

#include <absl/strings/str_cat.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <sstream>
#include <vector>

#include "client/cli/doctor_checks.h"
#include "client/cli/output.h"
#include "client/cli/table.h"
#include "client/internal/find_daemon.h"
#include "shm/runtime_dir.h"
#include "zerocp/v1/observer_service.pb.h"

namespace zerocp::cli {
namespace {

using State = Finding::State;

constexpr std::array<const char*, 3> kStates{"ok", "note", "change"};
constexpr std::array<Tone, 3> kTones{Tone::kGood, Tone::kWarning, Tone::kBad};

// Which pools have no chunk for the next loan.
Finding CheckPools(DaemonConnection& connection) {
  Finding finding{"pools", State::kOk, "", ""};
  v1::GetStatsResponse response;
  const grpc::Status status = connection.CallOnce("GetStats", v1::GetStatsRequest(), &response);
  if (!status.ok()) return {"pools", State::kNote, "cannot be read", status.error_message()};
  for (const v1::PoolStats& pool : response.stats().pools()) {
    if (pool.free_chunk_count() + pool.cached_chunk_count() > 0) continue;
    const std::string name = pool.pool().substr(pool.pool().find('/') + 1);
    finding.state = State::kChange;
    const char* between = finding.found.empty() ? "" : "; ";
    absl::StrAppend(&finding.found, between, name, " has no free chunk of its ", pool.chunk_count(),
                    ", and refused ", pool.exhausted_count(), " loans since it was created");
    absl::StrAppend(&finding.change, between, "zerocp holders --pool ", name,
                    " names who has them: end that one, or zerocp pools grow ", name, " COUNT");
  }
  if (finding.state == State::kOk)
    finding.found = "all " + std::to_string(response.stats().pools_size()) + " have free chunks";
  return finding;
}

// Asks the daemon, if one answers, and completes what is known of the patient.
std::vector<Finding> CheckDaemon(const DaemonOptions& options, Patient* patient) {
  const auto found = internal::FindDaemon(options.runtime_dir, shm::kClientSocket, SOCK_STREAM);
  if (!found.ok()) {
    for (const std::string& dir : shm::CandidateRuntimeDirs(options.runtime_dir)) {
      if (patient->runtime_dir.empty() && access(dir.c_str(), F_OK) == 0)
        patient->runtime_dir = dir;
    }
    return {{"daemon", State::kNote, "none answers", found.status().message()}};
  }
  patient->runtime_dir = std::filesystem::path(found->path).parent_path();
  DaemonConnection connection(options, "ObserverService");
  v1::GetServerInfoResponse info;
  const grpc::Status status =
      connection.CallOnce("GetServerInfo", v1::GetServerInfoRequest(), &info);
  if (!status.ok()) {
    return {{"daemon", State::kChange, found->path + " is open, but: " + status.error_message(),
             "look into its log; if it hangs, kill -ABRT it and start it again: clients live on"}};
  }
  patient->segment_dir = info.segment_dir();
  patient->daemon_pid = info.pid();
  patient->max_sessions = info.max_session_count();
  Finding finding{"daemon", State::kOk,
                  "zerocpd " + info.version() + ", process " + std::to_string(info.pid()) +
                      ", at " + patient->runtime_dir,
                  ""};
  if (info.version() != ZEROCP_VERSION) {
    finding.state = State::kNote;
    finding.change =
        "this command is " ZEROCP_VERSION ": restart the daemon, or install its version";
  }
  return {finding, CheckPools(connection)};
}

// Columns of the terminal; 0: lines may have any length.
size_t TerminalWidth() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

// `text` broken at blanks for a terminal, all lines but the first behind `indent` blanks; the first
// begins there, too.
std::string Wrapped(const std::string& text, size_t indent) {
  const size_t width = TerminalWidth();
  std::string lines;
  size_t column = indent;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (width > indent && column > indent && column + 1 + word.size() > width) {
      lines += "\n" + std::string(indent, ' ');
      column = indent;
    }
    if (column > indent) lines += ' ';
    column += word.size() + (column > indent ? 1 : 0);
    lines += word;
  }
  return lines + "\n";
}

std::string TextOf(const std::vector<Finding>& findings) {
  constexpr size_t kIndent = 27;
  std::string text;
  for (const Finding& finding : findings) {
    const auto state = static_cast<size_t>(finding.state);
    std::string head = kStates[state];
    head.resize(8, ' ');
    std::string check = finding.check;
    check.resize(19, ' ');
    text += Coloured(kTones[state], head) + check + Wrapped(Printable(finding.found), kIndent);
    if (!finding.change.empty())
      text += std::string(kIndent - 3, ' ') + "-> " + Wrapped(Printable(finding.change), kIndent);
  }
  const auto changes = std::count_if(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.state == State::kChange;
  });
  return text + "\n" + std::to_string(changes) + " to change\n";
}

// YAML, or the part of it that is JSON.
std::string DocumentOf(const std::vector<Finding>& findings, Format format) {
  YAML::Emitter out;
  if (format == Format::kJson) out << YAML::Flow << YAML::DoubleQuoted;
  out << YAML::BeginMap << YAML::Key << "findings" << YAML::Value << YAML::BeginSeq;
  for (const Finding& finding : findings) {
    out << YAML::BeginMap << YAML::Key << "check" << YAML::Value << finding.check;
    out << YAML::Key << "state" << YAML::Value << kStates[static_cast<size_t>(finding.state)];
    out << YAML::Key << "found" << YAML::Value << finding.found;
    out << YAML::Key << "change" << YAML::Value << finding.change << YAML::EndMap;
  }
  out << YAML::EndSeq << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace

int Doctor(const DaemonOptions& daemon, const std::string& segment_dir) {
  Patient patient;
  std::vector<Finding> findings = CheckDaemon(daemon, &patient);
  if (!segment_dir.empty()) patient.segment_dir = segment_dir;
  struct stat info {};
  const bool known = stat(patient.runtime_dir.c_str(), &info) == 0;
  patient.daemon_uid = known ? info.st_uid : geteuid();
  const std::vector<Finding> more = Examine(patient);
  findings.insert(findings.end(), more.begin(), more.end());
  Print(daemon.format == Format::kTable ? TextOf(findings) : DocumentOf(findings, daemon.format));
  const bool healthy = std::none_of(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.state == State::kChange;
  });
  return healthy ? kDone : kFailed;
}

}  // namespace zerocp::cli
