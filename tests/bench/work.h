// What is measured: works, each of several subjects.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/bench/report.h"
#include "tests/bench/subject.h"
#include "tests/system/daemon_process.h"

namespace zerocp::bench {

struct Site {
  testing::DaemonProcess& daemon;  // the work's own
  const std::vector<Peer>& peers;
};

struct Work {
  std::string name;  // KIND or KIND/variant
  std::string about;
  int rounds;  // of --quick a tenth
  std::vector<Goal> goals;
  std::vector<std::string> daemon_arguments;
  // zerocp first.
  std::function<std::vector<Subject>(const Site&)> subjects;
};

std::vector<Work> AllWorks();

}  // namespace zerocp::bench
