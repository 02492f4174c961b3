#include "client/cli/doctor_checks.h"

#include <linux/magic.h>
#include <linux/membarrier.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "client/cli/table.h"
#include "shm/memory_budget.h"
#include "shm/runtime_dir.h"
#include "shm/unique_fd.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // Linux 6.5; the C library's headers may be older
#endif

namespace zerocp::cli {
namespace {

using State = Finding::State;

constexpr uint64_t kContainerShmBytes = uint64_t{64} << 20;  // what engines give by default
constexpr uid_t kFirstPersonUid = 1000;  // whose IPC logind removes; below are system users

std::string Bytes(uint64_t bytes) { return FormatBytes(static_cast<int64_t>(bytes)); }

std::string LimitText(uint64_t limit, bool is_bytes) {
  if (limit == RLIM_INFINITY) return "not limited";
  return is_bytes ? Bytes(limit) : std::to_string(limit);
}

// The largest number of descriptors of a process; none if /proc does not show it.
std::optional<uint64_t> MostFilesOf(const std::string& limits_path) {
  std::ifstream file(limits_path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("Max open files")) continue;
    std::istringstream words(line.substr(std::strlen("Max open files")));
    std::string soft, hard;
    words >> soft >> hard;
    if (hard == "unlimited") return RLIM_INFINITY;
    return std::stoull(hard);
  }
  return std::nullopt;
}

// The last word that logind's configuration has on RemoveIPC; true if it has none.
bool RemovesIpc(const std::string& root) {
  std::vector<std::string> files{root + "/etc/systemd/logind.conf"};
  for (const char* directory : {"/usr/lib", "/run", "/etc"}) {
    std::vector<std::string> drop_ins;
    std::error_code none;
    for (const auto& entry :
         std::filesystem::directory_iterator(root + directory + "/systemd/logind.conf.d", none))
      drop_ins.push_back(entry.path());
    std::sort(drop_ins.begin(), drop_ins.end());
    files.insert(files.end(), drop_ins.begin(), drop_ins.end());
  }
  bool removes = true;
  for (const std::string& path : files) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      if (!line.starts_with("RemoveIPC=")) continue;
      const std::string value = line.substr(std::strlen("RemoveIPC="));
      removes = value != "no" && value != "false" && value != "0" && value != "off";
    }
  }
  return removes;
}

// Options of the mount that a directory lies on.
std::string MountOptions(const std::string& root, const std::string& directory) {
  std::ifstream file(root + "/proc/self/mounts");
  std::string longest, found;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string device, point, type, options;
    words >> device >> point >> type >> options;
    const bool inside = directory == point || directory.starts_with(point + "/") || point == "/";
    if (!inside || point.size() < longest.size()) continue;
    longest = point;
    found = options;
  }
  return found;
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::string Octal(mode_t mode) {
  std::array<char, 8> text{};
  std::snprintf(text.data(), text.size(), "%04o", static_cast<unsigned>(mode & 07777));
  return text.data();
}

}  // namespace

Finding CheckRuntimeDir(const Patient& patient) {
  Finding finding{"runtime directory", State::kOk, patient.runtime_dir, ""};
  struct stat info {};
  if (patient.runtime_dir.empty()) {
    finding.found = "none yet: zerocpd makes it";
  } else if (lstat(patient.runtime_dir.c_str(), &info) != 0) {
    finding.state = State::kChange;
    finding.found += std::string(": ") + std::strerror(errno);
    finding.change = "name another one with --runtime-dir, or let this user in";
  } else if (!S_ISDIR(info.st_mode)) {
    finding.state = State::kChange;
    finding.found += " is no directory";
    finding.change = "remove it; zerocpd makes the directory";
  } else {
    finding.found += ": mode " + Octal(info.st_mode) + ", owner " + std::to_string(info.st_uid);
    if ((info.st_mode & 0022) == 0) return finding;
    finding.state = State::kChange;
    finding.found += ": others can replace the daemon's sockets; zerocpd does not start there";
    finding.change = "chmod go-w " + patient.runtime_dir;
  }
  return finding;
}

Finding CheckSockets(const Patient& patient) {
  Finding finding{"sockets", State::kOk, "", ""};
  for (const char* name : {shm::kAttachSocket, shm::kClientSocket, shm::kAdminSocket}) {
    const std::string path = patient.runtime_dir + "/" + name;
    struct stat info {};
    if (patient.runtime_dir.empty() || stat(path.c_str(), &info) != 0) continue;
    if (access(path.c_str(), W_OK) == 0) {
      finding.found += (finding.found.empty() ? "this user may open " : ", ") + std::string(name);
      continue;
    }
    finding.state = State::kNote;
    finding.change += (finding.change.empty() ? "" : "; ") + std::string("for ") + name +
                      " join the group " + std::to_string(info.st_gid) + " (mode " +
                      Octal(info.st_mode) + "), or be root";
  }
  if (finding.found.empty())
    finding.found = finding.state == State::kOk ? "none yet" : "this user may open none";
  return finding;
}

Finding CheckSegmentSpace(const Patient& patient) {
  const std::string& directory = patient.segment_dir;
  Finding finding{"segment space", State::kOk, directory + ": ", ""};
  struct statfs info {};
  if (statfs(directory.c_str(), &info) != 0) {
    finding.state = State::kChange;
    finding.found += std::strerror(errno);
    finding.change = "mount -t tmpfs tmpfs " + directory;
    return finding;
  }
  const uint64_t block = static_cast<uint64_t>(info.f_bsize);
  const uint64_t size = info.f_blocks * block;
  const uint64_t available = info.f_bavail * block;
  finding.found += Bytes(size) + ", " + Bytes(available) + " free";
  if (info.f_type != TMPFS_MAGIC && info.f_type != RAMFS_MAGIC) {
    finding.state = State::kChange;
    finding.found += ", no tmpfs: the kernel would write chunks to a disk";
    finding.change = "zerocpd --segment-dir /dev/shm, or mount -t tmpfs tmpfs " + directory;
  } else if (size <= kContainerShmBytes) {
    finding.state = State::kChange;
    finding.found += ", what containers have by default";
    finding.change =
        "--shm-size=1g for the container; in Kubernetes an emptyDir with medium Memory";
  } else if (available < size / 10) {
    finding.state = State::kChange;
    finding.change = "zerocp cleanup, a smaller pool, or mount -o remount,size=... " + directory;
  }
  return finding;
}

Finding CheckMemory(const Patient& patient) {
  const shm::MemoryBudget budget = shm::AvailableMemory(patient.segment_dir, patient.root);
  Finding finding{
      "memory", State::kOk,
      Bytes(budget.available_bytes) + " for pools; what leaves least: " + budget.limited_by, ""};
  if (budget.available_bytes >= kContainerShmBytes) return finding;
  finding.state = State::kChange;
  finding.change = budget.limited_by.starts_with("memory cgroup")
                       ? "raise the limit (MemoryMax= of the unit, --memory of the container): "
                         "pools count against it"
                       : "end what needs the memory, or delete a pool";
  return finding;
}

Finding CheckLockedMemory(const Patient& /*patient*/) {
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  Finding finding{"locked memory", State::kOk,
                  "RLIMIT_MEMLOCK of this user: " + LimitText(limit.rlim_cur, true), ""};
  if (limit.rlim_cur == RLIM_INFINITY || geteuid() == 0) return finding;
  finding.state = State::kNote;
  finding.change =
      "a client that calls mlockall locks every pool: LimitMEMLOCK=infinity in its unit, or "
      "`* - memlock unlimited` in /etc/security/limits.conf";
  return finding;
}

Finding CheckOpenFiles(const Patient& patient) {
  rlimit own{};
  getrlimit(RLIMIT_NOFILE, &own);
  const std::string path = patient.root + "/proc/" + std::to_string(patient.daemon_pid) + "/limits";
  const std::optional<uint64_t> of_daemon =
      patient.daemon_pid == 0 ? std::nullopt : MostFilesOf(path);
  const uint64_t most = of_daemon.value_or(own.rlim_max);
  constexpr uint64_t kOwn = 64;  // sockets, files and connections of operators
  const uint64_t wanted = static_cast<uint64_t>(patient.max_sessions) * 2 + kOwn;
  Finding finding{"open files", State::kOk,
                  (of_daemon ? "RLIMIT_NOFILE of zerocpd: " : "RLIMIT_NOFILE of this user: ") +
                      LimitText(most, false),
                  ""};
  if (most >= wanted) return finding;
  const uint64_t clients = most < kOwn ? 0 : (most - kOwn) / 2;
  finding.state = clients < 64 ? State::kChange : State::kNote;
  finding.found += ", enough for " + std::to_string(clients) + " clients of " +
                   std::to_string(patient.max_sessions);
  finding.change = "LimitNOFILE=" + std::to_string(wanted) +
                   " in the unit, or ulimit -Hn before zerocpd starts; or a smaller --max-sessions";
  return finding;
}

Finding CheckRemoveIpc(const Patient& patient) {
  Finding finding{"RemoveIPC", State::kOk, "", ""};
  if (!Exists(patient.root + "/run/systemd/system")) {
    finding.found = "no systemd here, whose logind would remove segments";
  } else if (patient.daemon_uid < kFirstPersonUid) {
    finding.found = "segments of system users are left alone";
  } else if (!RemovesIpc(patient.root)) {
    finding.found = "is off in logind.conf";
  } else {
    finding.state = State::kChange;
    finding.found = "logind removes the segments of uid " + std::to_string(patient.daemon_uid) +
                    " under its daemon when that user's last session ends";
    finding.change =
        "RemoveIPC=no in /etc/systemd/logind.conf (then systemctl restart systemd-logind), or run "
        "zerocpd as a system user";
  }
  return finding;
}

Finding CheckHugePages(const Patient& patient) {
  const std::string options = MountOptions(patient.root, patient.segment_dir);
  const size_t at = options.find("huge=");
  const std::string huge =
      at == std::string::npos ? "never" : options.substr(at + 5, options.find(',', at) - at - 5);
  Finding finding{"huge pages", State::kOk, "of " + patient.segment_dir + ": huge=" + huge, ""};
  if (huge == "never" || huge == "deny") {
    finding.state = State::kNote;
    finding.change =
        "pools of large chunks may be faster with them, which is to be measured: mount "
        "-o remount,huge=within_size " +
        patient.segment_dir;
  }
  return finding;
}

Finding CheckPidfd() {
  const shm::UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (fd) return {"pidfd_open", State::kOk, "is there", ""};
  return {"pidfd_open", State::kNote,
          std::string(std::strerror(errno)) +
              ": deaths are noticed by the end of connections and proved from /proc",
          "Linux 5.3 or later has it; a sandbox has to let it through"};
}

Finding CheckPeerPidfd() {
  int ends[2] = {-1, -1};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return {"SO_PEERPIDFD", State::kNote, std::strerror(errno), "raise RLIMIT_NOFILE"};
  const shm::UniqueFd one(ends[0]), other(ends[1]);
  int peer = -1;
  socklen_t size = sizeof(peer);
  const int failed = getsockopt(one.get(), SOL_SOCKET, SO_PEERPIDFD, &peer, &size);
  const std::string why = std::strerror(errno);
  const shm::UniqueFd pidfd(peer);
  if (failed == 0) return {"SO_PEERPIDFD", State::kOk, "is there", ""};
  return {"SO_PEERPIDFD", State::kNote,
          why +
              ": a client in a container whose processes zerocpd cannot see is never proved "
              "dead; its chunks wait for `zerocp sessions terminate`",
          "Linux 6.5 or later has it; or run zerocpd in the host's pid namespace"};
}

Finding CheckMembarrier() {
  const long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
  const long wanted = MEMBARRIER_CMD_GLOBAL_EXPEDITED | MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED;
  if (commands >= 0 && (commands & wanted) == wanted)
    return {"membarrier", State::kOk, "is there", ""};
  return {"membarrier", State::kNote,
          (commands < 0 ? std::strerror(errno) : std::string("has no global expedited barrier")) +
              ": deleting a pool and detaching a subscriber take 10 ms to seconds",
          "Linux 4.16 or later has it; a sandbox has to let it through"};
}

std::vector<Finding> Examine(const Patient& patient) {
  return {CheckRuntimeDir(patient), CheckSockets(patient),      CheckSegmentSpace(patient),
          CheckMemory(patient),     CheckLockedMemory(patient), CheckOpenFiles(patient),
          CheckRemoveIpc(patient),  CheckHugePages(patient),    CheckPidfd(),
          CheckPeerPidfd(),         CheckMembarrier()};
}

}  // namespace zerocp::cli
