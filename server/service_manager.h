// The service manager that started the daemon, if one did: systemd, or another that speaks its
// protocols (sd_notify(3), sd_listen_fds(3)). It hears how the daemon does, and may have made the
// sockets.
//
// Threads. Notify from any; the others from one.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <string>
#include <vector>

#include "shm/status.h"
#include "shm/unique_fd.h"

namespace zerocp {

class ServiceManager {
 public:
  // Takes what the manager said out of the environment. kInvalid: that makes no sense. REQUIRES: no
  // other thread runs yet.
  static shm::Result<ServiceManager> FromEnvironment();

  // The listening socket of `type` that the manager made at `path`, non-blocking; empty: none.
  // kInvalid: it is of another type, or does not listen.
  shm::Result<shm::UniqueFd> TakeSocket(const std::string& path, int type);
  // kInvalid: the manager made a socket that nobody has taken.
  shm::Status CheckAllTaken() const;

  // `state` as in sd_notify(3), "READY=1", or none, with a line for people. A manager that cannot
  // be reached is logged.
  void Notify(const std::string& state, std::string status) const;
  // "WATCHDOG=1": the daemon lives. To be called every ping_interval(); zero: nobody listens.
  void Ping() const;
  std::chrono::microseconds ping_interval() const { return ping_interval_; }

 private:
  struct Passed {
    std::string name;  // as the manager calls it
    std::string path;
    shm::UniqueFd fd;
  };
  ServiceManager() = default;
  shm::Status TakeNotifySocket();
  shm::Status TakeWatchdog();
  shm::Status TakePassedSockets();
  void Send(const std::string& text) const;

  // Opened early: a daemon without free descriptors can still say that it lives.
  shm::UniqueFd notify_;
  sockaddr_un address_{};
  socklen_t address_size_ = 0;
  std::chrono::microseconds ping_interval_{0};
  std::vector<Passed> passed_;
};

}  // namespace zerocp
