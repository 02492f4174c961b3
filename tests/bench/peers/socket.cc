// A Unix stream socket: each message is copied into the kernel and out of it.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <thread>

#include "tests/bench/link.h"
#include "tests/bench/peers/byte_stream.h"
#include "tests/bench/peers/peers.h"

namespace zerocp::bench {
namespace {

int Connect(const std::string& path, int end) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (end == 1) {
    while (connect(fd, generic, sizeof(address)) != 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // until the other end listens
    return fd;
  }
  if (bind(fd, generic, sizeof(address)) != 0 || listen(fd, 1) != 0)
    Die(path.c_str(), strerror(errno));
  const int accepted = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
  close(fd);
  unlink(path.c_str());
  return accepted;
}

class Link : public ByteStream {
 public:
  Link(const LinkSpec& spec, int end) : Link(spec, Connect(spec.place + "/peer.socket", end), 0) {}

 private:
  Link(const LinkSpec& spec, int fd, int) : ByteStream(spec, fd, fd) {}
};

}  // namespace

Peer SocketPeer() {
  Peer peer{"socket", "Unix stream socket, the kernel's default buffers"};
  AddLink<Link>(peer);
  return peer;
}

}  // namespace zerocp::bench
