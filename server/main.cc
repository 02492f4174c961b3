// zerocpd.
#include <cstdio>

#include "server/daemon.h"
#include "server/options.h"

int main(int argc, char** argv) {
  const zerocp::ParsedOptions parsed = zerocp::ParseOptions(argc, argv);
  if (!parsed.options) {
    std::fputs(parsed.output.c_str(), parsed.exit_code == zerocp::kExitOk ? stdout : stderr);
    return parsed.exit_code;
  }
  return zerocp::RunDaemon(*parsed.options);
}
