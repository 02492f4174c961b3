// zerocp.v1.Config as YAML, which JSON is too: the configuration file of zerocpd, and what
// `zerocp config apply` takes.
//
// One schema: the keys are the fields of the message, read by its descriptor, in either spelling of
// JSON (chunk_count, chunkCount). Integers of fields
// whose name ends with _bytes may be sizes (64KiB). Beside them a file may have a section `start`,
// which is the daemon's command line and of which nothing is read here.
//
// Threads. All functions from any thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "zerocp/v1/resources.pb.h"

namespace zerocp {

inline constexpr char kStartSection[] = "start";

struct ParsedConfig {
  // Something that is wrong: an unknown or repeated key, a value of another type.
  struct Error {
    int line = 0;  // from 1
    std::string text;
  };
  v1::Config config;
  std::map<std::string, int> lines;  // of what is there, by path: "pools[1].chunk_size_bytes"
  std::vector<Error> errors;         // in the text's order; the config is of no use unless empty

  // Line of the path, or of what contains it.
  int LineOf(std::string path) const;
};
ParsedConfig ParseConfig(const std::string& text);

// `config` as YAML, without what is 0 or empty.
std::string ToYaml(const v1::Config& config);
// The text of a configuration file with all but its `start` section replaced by `config`. The
// section stays as it is written, with the comments in it and before it. REQUIRES: the text can be
// parsed.
std::string ReplaceConfig(const std::string& text, const v1::Config& config);

}  // namespace zerocp
