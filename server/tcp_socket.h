// Listening on a TCP address of ours: one owner per port, found out at the start.
#pragma once

#include <string>
#include <string_view>

#include "shm/status.h"
#include "shm/unique_fd.h"

namespace zerocp {

struct TcpListener {
  shm::UniqueFd fd;
  std::string address;  // with the port that the kernel chose if 0 was asked for
};

// "127.0.0.1:7747", "[::1]:0": a numeric address and a port; "0.0.0.0" and "[::]" mean all.
// kInvalid: no such form; kUnavailable: the kernel refuses. SO_REUSEPORT stays off, so that a
// second daemon cannot take the same port.
shm::Result<TcpListener> ListenTcp(std::string_view address);
// kInvalid. Nothing is opened.
shm::Status CheckTcpAddress(std::string_view address);

}  // namespace zerocp
