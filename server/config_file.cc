#include "server/config_file.h"

#include <spdlog/fmt/fmt.h>

#include <utility>

#include "server/convert.h"
#include "server/error.h"

namespace zerocp {

ConfigFile::ConfigFile(std::string path, Config over)
    : path_(std::move(path)), name_(path_.substr(path_.rfind('/') + 1)), over_(std::move(over)) {}

absl::Status ConfigFile::Unusable(std::string what) const {
  const std::string folder = path_.substr(0, path_.size() - name_.size());
  for (size_t at; !folder.empty() && (at = what.find(folder)) != std::string::npos;)
    what.erase(at, folder.size());
  return MakeError(Reason::kConfigFileUnusable, what, {{"resource", name_}});
}

absl::StatusOr<ConfigFile::Content> ConfigFile::Read() const {
  const shm::Result<std::string> text = ReadWholeFile(path_);
  if (!text.ok()) return Unusable(text.status().message());
  Content content;
  content.parsed = ParseConfig(*text);
  if (!content.parsed.errors.empty()) {
    std::string what;
    for (const ParsedConfig::Error& error : content.parsed.errors)
      what += fmt::format("{}{}:{}: {}", what.empty() ? "" : "; ", name_, error.line, error.text);
    return Unusable(what);
  }
  Violations violations;
  content.config = ToConfig(content.parsed.config, violations);
  if (violations.empty()) {
    content.config = Overlay(std::move(content.config), over_);
    (void)MakePlan({}, content.config, violations);
  }
  if (!violations.empty()) return Refuse(content, violations);
  return content;
}

absl::Status ConfigFile::Refuse(const Content& content,
                                const std::vector<shm::Violation>& violations) const {
  std::string what;
  for (const shm::Violation& violation : violations) {
    what +=
        fmt::format("{}{}:{}: {} {}", what.empty() ? "" : "; ", name_,
                    content.parsed.LineOf(violation.field), violation.field, violation.description);
  }
  return Unusable(what);
}

absl::StatusOr<FileReplacement> ConfigFile::Prepare(const Config& config) const {
  const shm::Result<std::string> text = ReadWholeFile(path_);
  if (!text.ok() && text.code() != shm::Code::kNotFound) return Unusable(text.status().message());
  if (text.ok() && !ParseConfig(*text).errors.empty())
    return Unusable(
        fmt::format("{} cannot be read, so its start section would be lost: repair it", name_));
  shm::Result<FileReplacement> file =
      FileReplacement::Prepare(path_, ReplaceConfig(text.ok() ? *text : "", ToProto(config)));
  if (!file.ok()) return Unusable(file.status().message());
  return std::move(*file);
}

}  // namespace zerocp
