// Words on the command line.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "client/cli/words.h"

namespace zerocp::cli {

// What was found on the command line: run when all of it was read.
using Chosen = std::function<int()>;

// A subcommand at a path such as "pools create", with examples, which are what follows "zerocp ".
CLI::App* AddSubcommand(CLI::App& root, const std::string& path, const std::string& about,
                        const std::vector<const char*>& examples, const std::string& notes = {});

// One that is a call of the daemon.
CLI::App* AddWord(CLI::App& root, const Word& word, const DaemonOptions* daemon, Chosen* chosen);

CLI::Validator NotNegative();
CLI::Validator Positive();
CLI::Validator Between(double least, double most);

// More than 30 years; clocks can count it.
inline constexpr double kMostSeconds = 1e9;

}  // namespace zerocp::cli
