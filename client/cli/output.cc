#include "client/cli/output.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "client/cli/stop_signal.h"

namespace zerocp::cli {
namespace {

int g_print_error = 0;  // the first; stdio forgets it

// Length of the first character of `text`, in UTF-8, that a terminal shows; 0: it is none.
size_t ShownLength(std::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return byte(0) >= 0x20 && byte(0) != 0x7f ? 1 : 0;
  const size_t length = byte(0) < 0xc2 ? 0 : byte(0) < 0xe0 ? 2 : byte(0) < 0xf0 ? 3 : 4;
  if (length == 0 || byte(0) > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  const bool is_overlong =
      (byte(0) == 0xe0 && byte(1) < 0xa0) || (byte(0) == 0xf0 && byte(1) < 0x90);
  const bool is_control = byte(0) == 0xc2 && byte(1) < 0xa0;
  return is_overlong || is_control ? 0 : length;
}

}  // namespace

std::string Printable(const std::string& text) {
  std::string printable;
  for (size_t at = 0; at < text.size();) {
    const std::string_view rest = std::string_view(text).substr(at);
    const size_t length = ShownLength(rest);
    printable += length == 0 ? "?" : rest.substr(0, length);
    at += std::max<size_t>(length, 1);
  }
  return printable;
}

int Failed(ExitCode code, const std::string& what) {
  std::fprintf(stderr, "zerocp: %s\n", Printable(what).c_str());
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
