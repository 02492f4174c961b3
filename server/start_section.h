// The section `start` of a configuration file: options of the command line, by their long names.
//
//   start:
//     runtime-dir: /run/zerocp
//     system: true
//     pool: [video=1MiBx64]
//
// Here only its form is known; which options there are knows ParseOptions.
#pragma once

#include <string>
#include <vector>

#include "shm/status.h"

namespace zerocp {

struct StartOption {
  std::string name;                 // "runtime-dir"
  std::vector<std::string> values;  // several if the option is a list
  int line = 0;                     // from 1
};

// In the file's order; none if there is no such section. `file` is for messages, which begin with
// "<file>:<line>: ". kInvalid: not YAML, a key twice, a value that is neither a word nor a list of
// words.
shm::Result<std::vector<StartOption>> ReadStartSection(const std::string& text,
                                                       const std::string& file);

}  // namespace zerocp
