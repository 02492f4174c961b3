// Finding a daemon's socket.
#pragma once

#include <string>

#include "shm/status.h"
#include "shm/unique_fd.h"

namespace zerocp::internal {

struct DaemonSocket {
  shm::UniqueFd fd;  // connected, close-on-exec
  std::string path;
};

// Connects to the socket called `name` (shm/runtime_dir.h), of type SOCK_STREAM or SOCK_SEQPACKET,
// of the daemon that answers in the first of the directories where clients look. kUnavailable: none
// does; kDenied: none does, and this user may not connect to one that may be there. The message
// lists every path tried.
shm::Result<DaemonSocket> FindDaemon(const std::string& runtime_dir, const std::string& name,
                                     int type);

// Connects to the socket at `path`. kUnavailable, kDenied.
shm::Result<DaemonSocket> ConnectToDaemon(const std::string& path, int type);

}  // namespace zerocp::internal
