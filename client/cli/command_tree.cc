#include "client/cli/command_tree.h"

namespace zerocp::cli {

std::vector<const CLI::App*> SubcommandsOf(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* command) { return !command->get_group().empty(); });
}

void ForEachCommand(const CLI::App& app,
                    const std::function<void(const std::string& path, const CLI::App&)>& visit) {
  const std::function<void(const std::string&, const CLI::App&)> walk = [&](const std::string& path,
                                                                            const CLI::App& at) {
    visit(path, at);
    for (const CLI::App* command : SubcommandsOf(at))
      walk(path + (path.empty() ? "" : " ") + command->get_name(), *command);
  };
  walk("", app);
}

std::vector<const CLI::Option*> OptionsOf(const CLI::App& app) {
  return app.get_options([](const CLI::Option* option) {
    return option->nonpositional() && !option->get_group().empty();
  });
}

std::vector<const CLI::Option*> PositionalsOf(const CLI::App& app) {
  return app.get_options([](const CLI::Option* option) { return option->get_positional(); });
}

std::vector<std::string> NamesOf(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  return names;
}

std::string ValueOf(const CLI::Option& option) {
  if (option.get_positional() && option.get_type_name().empty())
    return option.get_name(/*positional=*/true);
  return option.get_type_size() == 0 ? "" : option.get_type_name();
}

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace zerocp::cli
