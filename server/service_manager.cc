#include "server/service_manager.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

namespace zerocp {
namespace {

using shm::Code;
using shm::Result;
using shm::Status;
using shm::UniqueFd;

constexpr int kFirstPassed = 3;  // SD_LISTEN_FDS_START

// A variable, which no child of this process then sees.
std::optional<std::string> TakeVariable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr) return std::nullopt;
  std::string taken = value;
  unsetenv(name);
  return taken;
}

// A number from 0 to `most`; nullopt: the text is none.
std::optional<int64_t> Number(const std::string& text, int64_t most) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0 || number > most)
    return std::nullopt;
  return number;
}

// Whether a variable with a process id names this one.
bool IsThisProcess(const std::optional<std::string>& pid) {
  return pid && Number(*pid, std::numeric_limits<pid_t>::max()) == getpid();
}

int SocketOption(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof(value);
  return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

// Empty if it is no Unix socket with a file.
std::string PathOf(int fd) {
  sockaddr_un address{};
  socklen_t size = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      address.sun_family != AF_UNIX || size <= offsetof(sockaddr_un, sun_path)) {
    return {};
  }
  return {address.sun_path, strnlen(address.sun_path, size - offsetof(sockaddr_un, sun_path))};
}

bool AreOneFile(const std::string& a, const std::string& b) {
  struct stat of_a {
  }, of_b{};
  return stat(a.c_str(), &of_a) == 0 && stat(b.c_str(), &of_b) == 0 && of_a.st_dev == of_b.st_dev &&
         of_a.st_ino == of_b.st_ino;
}

}  // namespace

Result<ServiceManager> ServiceManager::FromEnvironment() {
  ServiceManager manager;
  if (Status status = manager.TakeNotifySocket(); !status.ok()) return status;
  if (Status status = manager.TakeWatchdog(); !status.ok()) return status;
  if (Status status = manager.TakePassedSockets(); !status.ok()) return status;
  return manager;
}

Status ServiceManager::TakeNotifySocket() {
  const std::optional<std::string> path = TakeVariable("NOTIFY_SOCKET");
  if (!path) return Status();
  const bool known = path->size() > 1 && (path->front() == '/' || path->front() == '@');
  if (!known || path->size() >= sizeof(address_.sun_path)) {
    return Status(Code::kInvalid, "NOTIFY_SOCKET=" + *path +
                                      " is neither an absolute path nor an abstract name of at "
                                      "most 107 bytes: unset it, or start by systemd");
  }
  address_.sun_family = AF_UNIX;
  path->copy(address_.sun_path, path->size());
  if (path->front() == '@') address_.sun_path[0] = '\0';
  address_size_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path->size());
  notify_ = UniqueFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!notify_) return Status::FromErrno(Code::kInternal, "cannot make a socket", errno);
  return Status();
}

Status ServiceManager::TakeWatchdog() {
  const std::optional<std::string> limit = TakeVariable("WATCHDOG_USEC");
  const std::optional<std::string> pid = TakeVariable("WATCHDOG_PID");
  if (!limit || (pid && !IsThisProcess(pid))) return Status();
  const std::optional<int64_t> microseconds =
      Number(*limit, std::numeric_limits<int64_t>::max() / 1000);  // as nanoseconds, too
  if (!microseconds || *microseconds < 2) {
    return Status(Code::kInvalid, "WATCHDOG_USEC=" + *limit +
                                      " is no number of microseconds: unset it, or start by "
                                      "systemd");
  }
  ping_interval_ = std::chrono::microseconds(*microseconds / 2);  // as sd_watchdog_enabled(3) says
  return Status();
}

Status ServiceManager::TakePassedSockets() {
  const std::optional<std::string> pid = TakeVariable("LISTEN_PID");
  const std::optional<std::string> count_text = TakeVariable("LISTEN_FDS");
  const std::string names = TakeVariable("LISTEN_FDNAMES").value_or("");
  if (!count_text || !IsThisProcess(pid)) return Status();
  const std::optional<int64_t> count = Number(*count_text, 1024);
  if (!count) {
    return Status(Code::kInvalid, "LISTEN_FDS=" + *count_text +
                                      " is no number of sockets: unset it, or start by systemd");
  }
  size_t at = 0;
  for (int fd = kFirstPassed; fd < kFirstPassed + *count; ++fd) {
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0) {
      return Status::FromErrno(
          Code::kInvalid, "LISTEN_FDS=" + *count_text + ", but descriptor " + std::to_string(fd),
          errno);
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    const size_t end = std::min(names.find(':', at), names.size());
    passed_.push_back({names.substr(at, end - at), PathOf(fd), UniqueFd(fd)});
    at = std::min(end + 1, names.size());
  }
  return Status();
}

Result<UniqueFd> ServiceManager::TakeSocket(const std::string& path, int type) {
  const auto passed = std::find_if(passed_.begin(), passed_.end(),
                                   [&](const Passed& one) { return AreOneFile(one.path, path); });
  if (passed == passed_.end()) return UniqueFd();
  const int fd = passed->fd.get();
  if (SocketOption(fd, SO_TYPE) != type || SocketOption(fd, SO_ACCEPTCONN) != 1) {
    return Status(Code::kInvalid,
                  "the socket " + passed->name + " at " + path +
                      ", made by the service manager, is not a listening one of its type: the "
                      "unit needs " +
                      (type == SOCK_STREAM ? "ListenStream=" : "ListenSequentialPacket=") + path);
  }
  UniqueFd taken = std::move(passed->fd);
  passed_.erase(passed);
  return taken;
}

Status ServiceManager::CheckAllTaken() const {
  if (passed_.empty()) return Status();
  const Passed& left = passed_.front();
  return Status(Code::kInvalid,
                "the service manager made a socket " + left.name + " at " +
                    (left.path.empty() ? "no path" : left.path) +
                    ", which is none of admin.sock, client.sock and attach.sock of the runtime "
                    "directory: let the socket unit and --runtime-dir agree");
}

void ServiceManager::Notify(const std::string& state, std::string status) const {
  std::replace(status.begin(), status.end(), '\n', ' ');
  Send((state.empty() ? "" : state + "\n") + "STATUS=" + status);
}

void ServiceManager::Ping() const { Send("WATCHDOG=1"); }

void ServiceManager::Send(const std::string& text) const {
  if (!notify_) return;
  const auto* address = reinterpret_cast<const sockaddr*>(&address_);
  ssize_t sent = 0;
  do {
    sent = sendto(notify_.get(), text.data(), text.size(), MSG_NOSIGNAL, address, address_size_);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) spdlog::warn("the service manager does not hear: {}", std::strerror(errno));
}

}  // namespace zerocp
