// The configuration file that the daemon was started with.
//
// Never cached: what it says is read anew for each use. Messages name it without its folder: they
// go to remote callers too.
//
// Threads. All functions from any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/config_yaml.h"
#include "server/config_plan.h"
#include "server/whole_file.h"

namespace zerocp {

class ConfigFile {
 public:
  // `over`: pools and channels of the command line, which wins over the file wherever that is used.
  ConfigFile(std::string path, Config over);

  struct Content {
    ParsedConfig parsed;
    Config config;
  };
  // CONFIG_FILE_UNUSABLE with what is wrong, "zerocp.yaml:7: pools[1].chunk_count ...".
  absl::StatusOr<Content> Read() const;
  // CONFIG_FILE_UNUSABLE for what turned out to be wrong with a content.
  absl::Status Refuse(const Content& content, const std::vector<shm::Violation>& violations) const;
  // The file as it would be with `config`; its `start` section stays. CONFIG_FILE_UNUSABLE.
  absl::StatusOr<FileReplacement> Prepare(const Config& config) const;

  const std::string& path() const { return path_; }
  // CONFIG_FILE_UNUSABLE; without the file's folder, if that is in the text.
  absl::Status Unusable(std::string what) const;

 private:
  const std::string path_;
  const std::string name_;
  const Config over_;
};

}  // namespace zerocp
