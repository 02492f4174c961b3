// The connections of one gRPC listener: who is at the other end, and how many there are.
//
// gRPC tells neither. A connection is known by its descriptor's number, which gRPC names as the
// peer of a call ("fd:17") and keeps open until the last call over it has ended: as long as a call
// is there to ask, its number is not used again. Whether a connection is still there tells the
// inode behind the number.
//
// Threads. Functions from any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "server/mutex.h"

namespace zerocp {

// The process that connected to a Unix socket, as the kernel told it.
struct UnixPeer {
  uid_t uid = 0;
  pid_t pid = 0;  // 0: in another pid namespace
};

class GrpcConnections {
 public:
  struct Limits {
    size_t all = 1024;
    size_t per_peer = 256;  // of one user, or of one address
  };

  GrpcConnections() : GrpcConnections(Limits()) {}
  explicit GrpcConnections(Limits limits) : limits_(limits) {}

  // Empty, and the connection is known from here on; else which limit is reached, of whom.
  // REQUIRES: `fd` is a connected socket that gRPC does not have yet.
  std::string Add(int fd);
  // nullopt: not a Unix peer of this listener. `peer`: as gRPC names it.
  std::optional<UnixPeer> PeerOf(const std::string& peer);
  size_t count();

 private:
  struct Connection {
    dev_t device = 0;
    ino_t inode = 0;  // 0: no connection
    std::string key;  // whose limit it counts for: "uid 1000", "address 192.0.2.1"
    std::optional<UnixPeer> peer;
  };
  static Connection Describe(int fd);
  static bool IsOpen(int fd, const Connection& connection);
  void ForgetClosed() ZEROCP_REQUIRES(mutex_);
  std::string LimitReached(const std::string& key) ZEROCP_REQUIRES(mutex_);

  const Limits limits_;
  Mutex mutex_;
  std::map<int, Connection> connections_ ZEROCP_GUARDED_BY(mutex_);
  std::map<std::string, size_t> by_key_ ZEROCP_GUARDED_BY(mutex_);
};

}  // namespace zerocp
