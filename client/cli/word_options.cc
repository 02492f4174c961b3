#include "client/cli/word_options.h"

#include <google/protobuf/descriptor.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <limits>
#include <memory>
#include <system_error>
#include <utility>

namespace zerocp::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// CLI11's own checks name the largest number there is, in 300 digits, and take nan.
CLI::Validator NumberFrom(double least, double most, const std::string& rule) {
  const auto check = [=](const std::string& text) {
    double number = 0;
    const bool is_number =
        std::from_chars(text.data(), text.data() + text.size(), number).ec == std::errc();
    return is_number && number >= least && number <= most
               ? std::string()
               : text + " does not do: it must be " + rule;
  };
  return CLI::Validator(check, "");
}

constexpr double kUnlimited = std::numeric_limits<double>::max();

std::string TypeNameOf(const FieldDescriptor& field, const std::string& collection) {
  std::string choices;
  for (const std::string& choice : ChoicesOf(field))
    choices += (choices.empty() ? "" : "|") + choice;
  if (!choices.empty()) return choices;
  if (collection == "pools/") return "POOL";
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) return "NAME";
  return field.name().ends_with("_bytes") ? "SIZE" : "N";
}

void AddArgument(CLI::App* command, const Word& word, const Argument& argument,
                 const std::shared_ptr<Message>& request) {
  const FieldDescriptor& field = FieldOf(word, argument);
  std::string name = argument.name;
  const bool may_be_left_out = name.starts_with("[");
  if (may_be_left_out) name = name.substr(1, name.size() - 2);
  const auto set = [request, &argument](const std::string& text) {
    if (const std::string wrong = SetField(request.get(), argument, text); !wrong.empty())
      throw CLI::ValidationError(argument.name, wrong);
  };
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) {
    command->add_flag_callback(
        name, [set] { set(""); }, argument.about);
    return;
  }
  CLI::Option* option = command->add_option_function<std::string>(name, set, argument.about);
  const bool positional = !name.starts_with("-");
  option->type_name(
      positional && ChoicesOf(field).empty() ? "" : TypeNameOf(field, argument.collection));
  option->required(argument.required || (positional && !may_be_left_out));
}

}  // namespace

CLI::Validator NotNegative() { return NumberFrom(0, kUnlimited, "0 or more"); }
CLI::Validator Positive() {
  return NumberFrom(std::numeric_limits<double>::denorm_min(), kUnlimited, "more than 0");
}
CLI::Validator Between(double least, double most) {
  std::array<char, 64> rule{};
  std::snprintf(rule.data(), rule.size(), "from %.10g to %.10g", least, most);
  return NumberFrom(least, most, rule.data());
}

CLI::App* AddSubcommand(CLI::App& root, const std::string& path, const std::string& about,
                        const std::vector<const char*>& examples, const std::string& notes) {
  const size_t blank = path.find(' ');
  CLI::App* parent = &root;
  if (blank != std::string::npos) parent = root.get_subcommand(path.substr(0, blank));
  CLI::App* command =
      parent->add_subcommand(blank == std::string::npos ? path : path.substr(blank + 1), about);
  std::string footer = notes + (notes.empty() ? "" : "\n\n") + "Examples:\n";
  for (const char* example : examples) footer += "  zerocp " + std::string(example) + "\n";
  command->footer(footer + "\nOptions of every word: zerocp --help");
  return command;
}

CLI::App* AddWord(CLI::App& root, const Word& word, const DaemonOptions* daemon, Chosen* chosen) {
  CLI::App* command = AddSubcommand(root, word.path, word.about, word.examples, word.notes);
  command->require_subcommand(0, 1);
  const std::shared_ptr<Message> request = NewRequest(word);
  for (const Argument& argument : word.arguments) AddArgument(command, word, argument, request);
  command->callback([&word, daemon, chosen, request] {
    if (!*chosen) *chosen = [&word, daemon, request] { return Run(word, *request, *daemon); };
  });
  return command;
}

}  // namespace zerocp::cli
