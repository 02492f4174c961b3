// What the generated documents and completions read of the command line's tree.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

namespace zerocp::cli {

// The subcommands that are shown.
std::vector<const CLI::App*> SubcommandsOf(const CLI::App& app);
// Calls `visit` for an app and all below it, with the words that lead there: "", "pools",
// "pools create".
void ForEachCommand(const CLI::App& app,
                    const std::function<void(const std::string& path, const CLI::App&)>& visit);

// The options, or the positional arguments, that are shown.
std::vector<const CLI::Option*> OptionsOf(const CLI::App& app);
std::vector<const CLI::Option*> PositionalsOf(const CLI::App& app);
// "-o", "--output"
std::vector<std::string> NamesOf(const CLI::Option& option);
// What its value is: "FILE", "POOL", "table|json|yaml"; empty: a flag. Of a positional its name,
// unless it is a choice.
std::string ValueOf(const CLI::Option& option);
// The description before its first line that ends.
std::string FirstLine(const std::string& text);

}  // namespace zerocp::cli
