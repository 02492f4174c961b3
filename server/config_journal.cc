#include "server/config_journal.h"

#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <cerrno>
#include <sstream>
#include <utility>

#include "server/convert.h"
#include "server/whole_file.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

using google::protobuf::util::JsonStringToMessage;
using google::protobuf::util::MessageToJsonString;
using shm::Code;
using shm::Result;
using shm::Status;

// Its lines: this, the instance, whether to persist, the old and the new configuration in JSON.
constexpr char kTitle[] = "zerocp configuration journal 1";
constexpr char kPersist[] = "persist";

Result<std::string> ToLine(const Config& config) {
  std::string line;
  if (!MessageToJsonString(ToProto(config), &line).ok())
    return Status(Code::kInternal, "the configuration cannot be written as JSON");
  return line;
}

bool FromLine(const std::string& line, Config* config) {
  v1::Config proto;
  Violations violations;
  if (!JsonStringToMessage(line, &proto).ok()) return false;
  *config = ToConfig(proto, violations);
  return violations.empty();
}

}  // namespace

ConfigJournal::ConfigJournal(std::string path, std::string instance)
    : path_(std::move(path)), instance_(std::move(instance)) {}

Status ConfigJournal::Write(const Entry& entry) {
  const Result<std::string> old_line = ToLine(entry.old_config);
  const Result<std::string> new_line = ToLine(entry.new_config);
  if (!old_line.ok()) return old_line.status();
  if (!new_line.ok()) return new_line.status();
  std::ostringstream text;
  text << kTitle << "\n"
       << instance_ << "\n"
       << (entry.persist ? kPersist : "") << "\n"
       << *old_line << "\n"
       << *new_line << "\n";
  Result<FileReplacement> file = FileReplacement::Prepare(path_, text.str());
  return file.ok() ? file->Commit() : file.status();
}

Result<std::optional<ConfigJournal::Entry>> ConfigJournal::Read() const {
  const Result<std::string> text = ReadWholeFile(path_);
  if (text.code() == Code::kNotFound) return std::optional<Entry>();
  if (!text.ok()) return text.status();
  std::istringstream lines(*text);
  std::string title, instance, persist, old_line, new_line;
  std::getline(lines, title);
  std::getline(lines, instance);
  std::getline(lines, persist);
  std::getline(lines, old_line);
  std::getline(lines, new_line);
  Entry entry;
  entry.persist = persist == kPersist;
  if (title == kTitle && instance != instance_ && !Mutant(95)) return std::optional<Entry>();
  if (title != kTitle || !FromLine(old_line, &entry.old_config) ||
      !FromLine(new_line, &entry.new_config))
    return Status(Code::kDamaged, path_ + " is no journal of this version, or damaged");
  return std::optional(std::move(entry));
}

Status ConfigJournal::Remove() {
  if (unlink(path_.c_str()) != 0) {
    if (errno == ENOENT) return Status();
    return Status::FromErrno(Code::kDenied, "cannot remove " + path_, errno);
  }
  return SyncDirectoryOf(path_);
}

}  // namespace zerocp
