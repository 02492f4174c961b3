#include "server/death_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // Linux 6.5; the C library's headers may be older
#endif

namespace zerocp {
namespace {

struct ProcessStat {
  char state = '?';
  uint64_t thread_count = 0;
  uint64_t start_time = 0;
};

// Not by a stream: reading the file of a process that has just gone fails in the middle. None then.
std::optional<std::string> ReadProcFile(pid_t pid, const char* name) {
  const std::string path = "/proc/" + std::to_string(pid) + "/" + name;
  shm::UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return std::nullopt;
  std::string text;
  char buffer[65536];
  ssize_t got = 0;
  while ((got = read(fd.get(), buffer, sizeof(buffer))) > 0) {
    text.append(buffer, static_cast<size_t>(got));
  }
  if (got < 0) return std::nullopt;
  return text;
}

// Fields 3, 20 and 22 of /proc/<pid>/stat. The second field, the name, may contain anything: what
// counts comes after the last parenthesis.
std::optional<ProcessStat> ReadStat(pid_t pid) {
  const std::optional<std::string> text = ReadProcFile(pid, "stat");
  const size_t end_of_name = text ? text->rfind(')') : std::string::npos;
  if (end_of_name == std::string::npos) return std::nullopt;
  std::istringstream fields(text->substr(end_of_name + 1));
  ProcessStat stat;
  if (!(fields >> stat.state)) return std::nullopt;
  std::string skipped;
  for (int field = 4; field < 20; ++field) fields >> skipped;
  fields >> stat.thread_count >> skipped >> stat.start_time;
  if (!fields) return std::nullopt;
  return stat;
}

bool IsGone(int pidfd) {
  pollfd poll_fd{pidfd, POLLIN, 0};
  return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLIN) != 0;
}

shm::UniqueFd OpenPidfd(const ProcessIdentity& process) {
  if (process.pid <= 0 || process.start_time == 0) return {};
  shm::UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, process.pid, 0)));
  // The pid may have become another process's between the two looks.
  if (pidfd && StartTimeOf(process.pid) != process.start_time) return {};
  return pidfd;
}

// The inode number is field 5 of a line of maps. Files of other file systems may carry the same
// number: then the answer is "mapped", which is the safe one.
std::optional<bool> MapsAnyOf(pid_t pid, const std::vector<ino_t>& inodes) {
  const std::optional<std::string> maps = ReadProcFile(pid, "maps");
  // A process without any mapping is on its way out, or has lost its first thread while others run.
  if (!maps || maps->empty()) return std::nullopt;
  std::istringstream lines(*maps);
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::string skipped;
    uint64_t inode = 0;
    fields >> skipped >> skipped >> skipped >> skipped >> inode;
    for (ino_t wanted : inodes) {
      if (inode == wanted) return true;
    }
  }
  return false;
}

}  // namespace

std::optional<uint64_t> StartTimeOf(pid_t pid) {
  std::optional<ProcessStat> stat = ReadStat(pid);
  if (!stat) return std::nullopt;
  return stat->start_time;
}

DeathWatch DeathWatch::OfPeer(int socket, pid_t pid, DeathWatchMode mode) {
  DeathWatch watch;
  watch.process_ = {pid, StartTimeOf(pid).value_or(0)};
  if (mode == DeathWatchMode::kAuto) {
    int fd = -1;
    socklen_t size = sizeof(fd);
    if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) == 0) {
      watch.pidfd_ = shm::UniqueFd(fd);
      watch.from_peer_ = true;
      return watch;
    }
  }
  if (mode != DeathWatchMode::kHangup) watch.pidfd_ = OpenPidfd(watch.process_);
  return watch;
}

DeathWatch DeathWatch::OfProcess(const ProcessIdentity& process, DeathWatchMode mode) {
  DeathWatch watch;
  watch.process_ = process;
  if (mode != DeathWatchMode::kHangup) watch.pidfd_ = OpenPidfd(process);
  return watch;
}

const char* DeathWatch::method() const {
  if (!pidfd_) return "hangup";
  return from_peer_ ? "peer-pidfd" : "pidfd-open";
}

int DeathWatch::Kill() const {
  shm::UniqueFd opened;
  if (!pidfd_) opened = OpenPidfd(process_);
  const int pidfd = pidfd_ ? pidfd_.get() : opened.get();
  if (pidfd < 0) return Examine() == Verdict::kDead ? ESRCH : EPERM;
  return syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0) == 0 ? 0 : errno;
}

bool DeathWatch::IsStopped() const {
  const std::optional<ProcessStat> stat =
      process_.pid > 0 ? ReadStat(process_.pid) : std::optional<ProcessStat>();
  return stat && stat->start_time == process_.start_time &&
         (stat->state == 'T' || stat->state == 't');
}

DeathWatch::Verdict DeathWatch::Examine() const {
  if (pidfd_) return IsGone(pidfd_.get()) ? Verdict::kDead : Verdict::kAlive;
  if (process_.pid <= 0) return Verdict::kUnknown;
  if (kill(process_.pid, 0) != 0 && errno == ESRCH) return Verdict::kDead;
  const std::optional<ProcessStat> stat = ReadStat(process_.pid);
  if (!stat || process_.start_time == 0) return Verdict::kUnknown;
  if (stat->start_time != process_.start_time) return Verdict::kDead;
  // A zombie's other threads may still run.
  const bool zombie = stat->state == 'Z' || stat->state == 'X';
  return zombie && stat->thread_count <= 1 ? Verdict::kDead : Verdict::kAlive;
}

DeathWatch::Verdict DeathWatch::ExamineMappings(const std::vector<ino_t>& segments) const {
  const Verdict before = Examine();
  if (before != Verdict::kAlive || process_.pid <= 0) return before;
  const std::optional<bool> mapped = MapsAnyOf(process_.pid, segments);
  // Whatever was read is about this process only if it is still there.
  const Verdict after = Examine();
  if (after != Verdict::kAlive) return after;
  if (!mapped) return Verdict::kUnknown;
  return *mapped ? Verdict::kAlive : Verdict::kDead;
}

}  // namespace zerocp
