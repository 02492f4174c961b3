#include "client/cli/stream.h"

#include <cstdio>
#include <utility>

#include "client/cli/exit_code.h"
#include "client/cli/output.h"

namespace zerocp::cli {

void Meter::Report(const char* command) const {
  const double seconds =
      start_ ? std::chrono::duration<double>(std::chrono::steady_clock::now() - *start_).count()
             : 0.0;
  const double rate =
      seconds > 0 ? static_cast<double>(byte_count_) / seconds / double{1 << 30} : 0.0;
  std::fprintf(stderr, "%s: %llu bytes in %llu chunks, %.3f s, %.3f GiB/s\n", command,
               static_cast<unsigned long long>(byte_count_),
               static_cast<unsigned long long>(chunk_count_), seconds, rate);
}

WaitLimit::WaitLimit(std::optional<double> seconds) {
  if (!seconds) return;
  end_ = std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::nanoseconds>(
                                                std::chrono::duration<double>(*seconds));
}

int Failed(const char* command, const std::string& what) {
  std::fprintf(stderr, "zerocp %s: %s\n", command, Printable(what).c_str());
  return kFailed;
}

std::optional<Client> ConnectOrSay(const char* command, const std::string& runtime_dir,
                                   bool read_only, int* exit_code) {
  auto client = Client::Connect({.name = std::string("zerocp ") + command,
                                 .runtime_dir = runtime_dir,
                                 .read_only = read_only});
  if (client) return std::move(*client);
  Failed(command, client.message());
  *exit_code = client.code() == Code::kUnavailable ? kNotReachable : kFailed;
  return std::nullopt;
}

}  // namespace zerocp::cli
