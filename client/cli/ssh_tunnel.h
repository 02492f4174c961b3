// A daemon's socket on another machine, by ssh.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "shm/unique_fd.h"

namespace zerocp::cli {

// A running `ssh -L`, in a private directory. It ends with this object and, as its standard input
// does, with this process, however that ends.
class SshTunnel {
 public:
  // `host`: ssh://[USER@]HOST[:PORT]; `socket`: a path there. Waits until the socket is forwarded;
  // ssh asks for what it needs on the terminal. Catches signals that ask to stop. nullptr: the
  // reason is printed, and *exit_code says what to return.
  static std::unique_ptr<SshTunnel> Open(const std::string& host, const std::string& socket,
                                         int* exit_code);
  ~SshTunnel();
  SshTunnel(const SshTunnel&) = delete;
  SshTunnel& operator=(const SshTunnel&) = delete;

  // The socket's path on this machine.
  const std::string& socket() const { return socket_; }

 private:
  SshTunnel() = default;
  bool Start(const std::string& destination, const std::string& port, const std::string& remote);
  bool AwaitSocket();

  std::string directory_;
  std::string socket_;
  shm::UniqueFd input_;  // ssh reads the other end
  pid_t pid_ = 0;        // 0: it does not run
};

}  // namespace zerocp::cli
