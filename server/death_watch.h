// Whether the process behind a session is dead: only what the kernel says counts.
//
// What. One watch per session. A pidfd becomes readable when the whole process is gone, and stays
// silent while it is stopped. Where the kernel gives none, the end of the attach connection says
// when to look, and Examine() looks for a proof.
//
// Invariants. W1: kDead is said only if no instruction of the process can touch the segments any
// more: its process is gone, or it runs another program that does not map them. W2: what cannot be
// seen (another pid namespace, a hidden /proc) is kUnknown, never kDead.
//
// Threads. One at a time.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "shm/unique_fd.h"

namespace zerocp {

// How deaths are noticed. Each falls back to those after it where the kernel lacks it; naming one
// leaves out those before it, so that a new kernel can test what older ones do.
enum class DeathWatchMode {
  kAuto,       // SO_PEERPIDFD (Linux 6.5)
  kPidfdOpen,  // pidfd_open of SO_PEERCRED's pid, confirmed by the start time
  kHangup,     // the end of the connection, then a proof from /proc
};

struct ProcessIdentity {
  pid_t pid = 0;            // 0: not visible from this pid namespace
  uint64_t start_time = 0;  // clock ticks since boot, as in /proc/<pid>/stat; 0: unknown
};

// Start time of `pid`; none if /proc does not show it.
std::optional<uint64_t> StartTimeOf(pid_t pid);

class DeathWatch {
 public:
  enum class Verdict { kDead, kAlive, kUnknown };

  // Watches nothing: Examine() says kUnknown.
  DeathWatch() = default;
  // Watches the process that connected `socket`, whose SO_PEERCRED pid is `pid`.
  static DeathWatch OfPeer(int socket, pid_t pid, DeathWatchMode mode);
  // Watches a process known from an earlier run of the daemon.
  static DeathWatch OfProcess(const ProcessIdentity& process, DeathWatchMode mode);

  const ProcessIdentity& process() const { return process_; }
  // Readable once the process is gone; -1 if the kernel gave none.
  int pidfd() const { return pidfd_.get(); }
  // "peer-pidfd", "pidfd-open" or "hangup".
  const char* method() const;

  // Sends SIGKILL to the process, and to no other that has its pid by now. 0, or the errno value:
  // ESRCH if it is gone, EPERM if it cannot be signalled or named from here.
  int Kill() const;
  // True if the process is known to be stopped: by SIGSTOP or a debugger.
  bool IsStopped() const;

  // Is the process gone? A few system calls; for what has no pidfd, and for any at a restart.
  Verdict Examine() const;
  // The same, and kDead also for a process that lives but maps none of the files with these inode
  // numbers: it has run another program since. Reads all of /proc/<pid>/maps. REQUIRES: its
  // connection has ended, so that it cannot be just about to map them.
  Verdict ExamineMappings(const std::vector<ino_t>& segments) const;

 private:
  ProcessIdentity process_;
  shm::UniqueFd pidfd_;
  bool from_peer_ = false;
};

}  // namespace zerocp
