// The command line of `zerocp`: which words and options there are.
#pragma once

namespace zerocp::cli {

// Runs the word that the arguments name; the exit code.
int RunCommandLine(int argc, char** argv);

}  // namespace zerocp::cli
