#include "client/internal/find_daemon.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "shm/runtime_dir.h"

namespace zerocp::internal {
namespace {

using shm::Code;
using shm::Result;
using shm::Status;
using shm::UniqueFd;

// How long a daemon may leave connections waiting before it counts as not answering.
constexpr timeval kConnectTimeout{.tv_sec = 10, .tv_usec = 0};

// Returns 0 or the errno value.
int Connect(const std::string& path, int type, UniqueFd* out) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return ENAMETOOLONG;
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!socket) return errno;
  if (setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kConnectTimeout, sizeof(timeval)) != 0) {
    return errno;
  }
  // An interrupted connect of a Unix socket was not made: it can be tried again.
  while (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno != EINTR) return errno;
  }
  *out = std::move(socket);
  return 0;
}

std::string WhyNot(int error) {
  switch (error) {
    case ENOENT:
      return "does not exist";
    case ECONNREFUSED:
      return "is there, but its daemon is gone";
    case EAGAIN:
      return "is there, but its daemon does not answer";
    default:
      return std::strerror(error);
  }
}

}  // namespace

Result<DaemonSocket> ConnectToDaemon(const std::string& path, int type) {
  UniqueFd socket;
  if (const int error = Connect(path, type, &socket); error != 0) {
    const Code code = error == EACCES || error == EPERM ? Code::kDenied : Code::kUnavailable;
    return Status(code, "no zerocp daemon answers: " + path + " " + WhyNot(error));
  }
  return DaemonSocket{std::move(socket), path};
}

Result<DaemonSocket> FindDaemon(const std::string& runtime_dir, const std::string& name, int type) {
  std::string tried;
  bool denied = false;
  for (const std::string& dir : shm::CandidateRuntimeDirs(runtime_dir)) {
    std::string path(dir);
    path.append("/").append(name);
    UniqueFd socket;
    const int error = Connect(path, type, &socket);
    if (error == 0) return DaemonSocket{std::move(socket), std::move(path)};
    if (!tried.empty()) tried += "; ";
    tried.append(path).append(" ").append(WhyNot(error));
    denied |= error == EACCES || error == EPERM;
  }
  if (denied) {
    return Status(Code::kDenied, "no zerocp daemon lets this user in: " + tried +
                                     "; join the group of its socket, or start one of your own "
                                     "with `zerocpd --runtime-dir`");
  }
  return Status(Code::kUnavailable,
                "no zerocp daemon answers: " + tried +
                    "; start one with `zerocpd`, or say in ZEROCP_RUNTIME_DIR where it is");
}

}  // namespace zerocp::internal
