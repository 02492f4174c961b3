#include "server/grpc_connections.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <charconv>

namespace zerocp {
GrpcConnections::Connection GrpcConnections::Describe(int fd) {
  Connection connection;
  struct stat info {};
  if (fstat(fd, &info) != 0) return connection;
  connection.device = info.st_dev;
  connection.inode = info.st_ino;
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return connection;
  if (address.ss_family == AF_UNIX) {
    ucred credentials{};
    socklen_t credentials_size = sizeof(credentials);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &credentials_size) != 0)
      return connection;
    connection.peer = {credentials.uid, credentials.pid};
    connection.key = "uid " + std::to_string(credentials.uid);
    return connection;
  }
  char host[NI_MAXHOST] = "";
  getnameinfo(reinterpret_cast<sockaddr*>(&address), size, host, sizeof(host), nullptr, 0,
              NI_NUMERICHOST);
  connection.key = "address " + std::string(host);
  return connection;
}

bool GrpcConnections::IsOpen(int fd, const Connection& connection) {
  struct stat info {};
  return fstat(fd, &info) == 0 && info.st_dev == connection.device &&
         info.st_ino == connection.inode;
}

std::string GrpcConnections::Add(int fd) {
  Connection connection = Describe(fd);
  MutexLock lock(mutex_);
  if (!LimitReached(connection.key).empty()) ForgetClosed();
  if (std::string reached = LimitReached(connection.key); !reached.empty()) return reached;
  Connection& place = connections_[fd];
  if (place.inode != 0 && --by_key_[place.key] == 0) by_key_.erase(place.key);  // it is closed
  place = std::move(connection);
  ++by_key_[place.key];
  return "";
}

std::string GrpcConnections::LimitReached(const std::string& key) {
  if (connections_.size() >= limits_.all)
    return "all " + std::to_string(limits_.all) + " connections are in use";
  const auto of_peer = by_key_.find(key);
  if (of_peer != by_key_.end() && of_peer->second >= limits_.per_peer)
    return key + " has its " + std::to_string(limits_.per_peer) + " connections";
  return "";
}

void GrpcConnections::ForgetClosed() {
  by_key_.clear();
  for (auto next = connections_.begin(); next != connections_.end();) {
    const auto connection = next++;
    if (IsOpen(connection->first, connection->second)) {
      ++by_key_[connection->second.key];
    } else {
      connections_.erase(connection);
    }
  }
}

std::optional<UnixPeer> GrpcConnections::PeerOf(const std::string& peer) {
  constexpr std::string_view kPrefix = "fd:";
  if (peer.compare(0, kPrefix.size(), kPrefix) != 0) return std::nullopt;
  int fd = -1;
  const auto parsed = std::from_chars(peer.data() + kPrefix.size(), peer.data() + peer.size(), fd);
  if (parsed.ec != std::errc()) return std::nullopt;
  MutexLock lock(mutex_);
  const auto connection = connections_.find(fd);
  return connection == connections_.end() ? std::nullopt : connection->second.peer;
}

size_t GrpcConnections::count() {
  MutexLock lock(mutex_);
  ForgetClosed();
  return connections_.size();
}

}  // namespace zerocp
