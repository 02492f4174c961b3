// Completion for shells, made from the words and options that there are.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace zerocp::cli {

// A script that completes `zerocp`; `shell`: bash or zsh. Names of pools, channels, sessions and
// subscribers are asked of the daemon.
std::string CompletionScript(const CLI::App& app, const std::string& shell);

}  // namespace zerocp::cli
