// Messages of a known size over file descriptors that carry bytes.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "tests/bench/link.h"

namespace zerocp::bench {

class ByteStream {
 public:
  // Owns both, which may be one.
  ByteStream(const LinkSpec& spec, int out, int in)
      : spec_(spec), out_(out), in_(in), buffer_(new char[spec.bytes]()) {
    if (spec.sleeping) return;
    for (int fd : {out, in}) (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  }
  ~ByteStream() {
    close(out_);
    if (in_ != out_) close(in_);
  }
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;

  void Send(uint64_t value) {
    WriteMessage(buffer_.get(), value, spec_);
    for (size_t done = 0; done < spec_.bytes;)
      done += Moved(write(out_, buffer_.get() + done, spec_.bytes - done));
  }
  bool Take(uint64_t* value) {
    size_t done = Moved(read(in_, buffer_.get(), spec_.bytes));
    if (done == 0) return false;
    while (done < spec_.bytes) done += Moved(read(in_, buffer_.get() + done, spec_.bytes - done));
    *value = ReadMessage(buffer_.get(), spec_);
    return true;
  }
  void Wait(uint64_t* value) {
    while (!Take(value)) {
    }
  }

 private:
  static size_t Moved(ssize_t count) {
    if (count > 0) return static_cast<size_t>(count);
    if (count < 0 && errno == EAGAIN) return 0;
    Die("the other end", count == 0 ? "it has gone" : std::strerror(errno));
  }

  const LinkSpec spec_;
  const int out_;
  const int in_;
  const std::unique_ptr<char[]> buffer_;
};

}  // namespace zerocp::bench
