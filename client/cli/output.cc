#include "client/cli/output.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "client/cli/stop_signal.h"

namespace zerocp::cli {
namespace {

int g_print_error = 0;  // the first; stdio forgets it

}  // namespace

int Failed(ExitCode code, const std::string& what) {
  std::fprintf(stderr, "zerocp: %s\n", what.c_str());
  return code;
}

void Print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() && g_print_error == 0)
    g_print_error = errno;
}

int FlushOutput() {
  if (std::fflush(stdout) != 0 && g_print_error == 0) g_print_error = errno;
  if (std::ferror(stdout) != 0 && g_print_error == 0) g_print_error = EIO;
  return g_print_error;
}

bool WriteAll(int fd, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t count = write(fd, data.data(), data.size());
    if (count < 0 && errno != EINTR) return false;
    if (count > 0) data = data.subspan(static_cast<size_t>(count));
    if (!data.empty() && StopSignal() != 0) {
      errno = EINTR;
      return false;
    }
  }
  return true;
}

std::string WriteErrorText(int error) {
  return error == EPIPE ? std::string("the reader of the output is gone")
                        : std::string("write: ") + std::strerror(error);
}

bool ReaderIsGone() {
  pollfd output{STDOUT_FILENO, 0, 0};
  return poll(&output, 1, 0) == 1 && (output.revents & (POLLERR | POLLHUP)) != 0;
}

}  // namespace zerocp::cli
