// The command `zerocp`.
#include <cstdio>

#include "client/cli/command_line.h"
#include "client/cli/exit_code.h"
#include "client/cli/output.h"

namespace zerocp::cli {
namespace {

// `code`, but kFailed if all seems done and what was printed cannot be written.
int Finish(int code) {
  const int error = code == kDone ? FlushOutput() : 0;
  if (error == 0) return code;
  return Failed(kFailed, WriteErrorText(error));
}

}  // namespace
}  // namespace zerocp::cli

int main(int argc, char** argv) {
  return zerocp::cli::Finish(zerocp::cli::RunCommandLine(argc, argv));
}
