// Manual pages, made from the words and options that there are.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace zerocp::cli {

// Writes zerocp.1 and a page for each word, zerocp-pools-create.1, into a directory; the exit code.
int WriteManPages(const CLI::App& app, const std::string& directory);

}  // namespace zerocp::cli
