// Two named pipes: each message is copied into the kernel and out of it.
#include <fcntl.h>
#include <sys/stat.h>

#include "tests/bench/link.h"
#include "tests/bench/peers/byte_stream.h"
#include "tests/bench/peers/peers.h"

namespace zerocp::bench {
namespace {

// For both directions, so that opening waits for nobody.
int Open(const LinkSpec& spec, int from) {
  const std::string path = spec.place + "/peer.pipe" + std::to_string(from);
  (void)mkfifo(path.c_str(), 0600);  // the other end may have made it
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) Die(path.c_str(), std::strerror(errno));
  return fd;
}

class Link : public ByteStream {
 public:
  Link(const LinkSpec& spec, int end) : ByteStream(spec, Open(spec, end), Open(spec, 1 - end)) {}
};

}  // namespace

Peer PipePeer() {
  Peer peer{"pipe", "a named pipe in each direction, the kernel's default buffers"};
  AddLink<Link>(peer);
  return peer;
}

}  // namespace zerocp::bench
