// What `zerocp doctor` looks at: whether this machine lets a daemon and its clients work.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace zerocp::cli {

struct Finding {
  enum class State {
    kOk,
    kNote,    // works, but not all of it, or not as well as it could
    kChange,  // something does not work until this is changed
  };
  std::string check;
  State state = State::kOk;
  std::string found;
  std::string change;  // what to do; empty if there is nothing
};

// What is looked at. Without a daemon, what one that this user starts would have.
struct Patient {
  std::string runtime_dir;  // empty: there is none yet
  std::string segment_dir = "/dev/shm";
  pid_t daemon_pid = 0;  // 0: none answers
  int32_t max_sessions = 4096;
  uid_t daemon_uid = 0;
  std::string root = {};  // what stands before /proc, /sys, /etc, /run and /var
};

Finding CheckRuntimeDir(const Patient& patient);
Finding CheckSockets(const Patient& patient);
Finding CheckSegmentSpace(const Patient& patient);
Finding CheckMemory(const Patient& patient);
Finding CheckLockedMemory(const Patient& patient);
Finding CheckOpenFiles(const Patient& patient);
Finding CheckRemoveIpc(const Patient& patient);
Finding CheckHugePages(const Patient& patient);
Finding CheckPidfd();
Finding CheckPeerPidfd();
Finding CheckMembarrier();

// All of them.
std::vector<Finding> Examine(const Patient& patient);

}  // namespace zerocp::cli
