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
  bool only_full = false;  // left out by --quick, unless it is asked for by name
};

// The peers that do it.
template <class Spec>
std::vector<Subject> Everybody(const Site& site, std::function<Subject(const Spec&)> Peer::*kind,
                               const Spec& spec) {
  std::vector<Subject> subjects;
  for (const Peer& peer : site.peers) {
    if (!(peer.*kind)) continue;
    if (peer.missing.empty())
      subjects.push_back((peer.*kind)(spec));
    else
      subjects.push_back({peer.name, 0, static_cast<int64_t>(spec.bytes), {}, peer.missing});
  }
  return subjects;
}

std::vector<Work> AllWorks();

}  // namespace zerocp::bench
