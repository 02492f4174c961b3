#include "client/cli/man_page.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "client/cli/command_tree.h"
#include "client/cli/exit_code.h"
#include "client/cli/output.h"

namespace zerocp::cli {
namespace {

constexpr char kExamples[] = "Examples:\n";

// Text that roff prints as it is.
std::string Escaped(const std::string& text) {
  std::string escaped;
  bool at_line_begin = true;
  for (const char c : text) {
    if (at_line_begin && (c == '.' || c == '\'')) escaped += "\\&";
    if (c == '\\') {
      escaped += "\\e";
    } else if (c == '-') {
      escaped += "\\-";
    } else {
      escaped += c;
    }
    at_line_begin = c == '\n';
  }
  return escaped;
}

// What takes the lines as they are.
std::string Literal(const std::string& text) { return ".nf\n" + Escaped(text) + ".fi\n"; }

// Paragraphs, which empty lines part.
std::string Paragraphs(const std::string& text) {
  std::string roff;
  std::istringstream lines(text);
  bool parted = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) {
      parted = true;
      continue;
    }
    if (parted && !roff.empty()) roff += ".PP\n";
    parted = false;
    roff += Escaped(line) + "\n";
  }
  return roff;
}

std::string PageName(const std::string& path) {
  std::string name = path.empty() ? "zerocp" : "zerocp " + path;
  std::replace(name.begin(), name.end(), ' ', '-');
  return name;
}

std::string Upper(std::string text) {
  for (char& c : text)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  return text;
}

std::string Items(const std::vector<const CLI::Option*>& options) {
  std::string roff;
  for (const CLI::Option* option : options) {
    std::string names;
    for (const std::string& name : NamesOf(*option)) names += (names.empty() ? "" : ", ") + name;
    const std::string value = ValueOf(*option);
    roff += ".TP\n\\fB" + Escaped(names) + "\\fR" + (names.empty() || value.empty() ? "" : " ") +
            (value.empty() ? "" : "\\fI" + Escaped(value) + "\\fR") + "\n" +
            Escaped(option->get_description()) + "\n";
  }
  return roff;
}

std::string Synopsis(const std::string& path, const CLI::App& command) {
  std::string roff =
      ".B zerocp" + (path.empty() ? "" : " " + Escaped(path)) + "\n[\\fIoptions\\fR]\n";
  for (const CLI::Option* argument : PositionalsOf(command)) {
    const std::string name = "\\fI" + Escaped(argument->get_name(/*positional=*/true)) + "\\fR";
    roff += (argument->get_required() ? name : "[" + name + "]") + "\n";
  }
  if (!SubcommandsOf(command).empty()) {
    const bool needs_one = command.get_require_subcommand_min() > 0 || path.empty();
    roff += needs_one ? "\\fIword\\fR ...\n" : "[\\fIword\\fR ...]\n";
  }
  return roff;
}

std::string Page(const std::string& path, const CLI::App& command) {
  const std::string name = PageName(path);
  const std::string about = command.get_description();
  std::string summary = FirstLine(about);
  if (summary.starts_with("zerocp: ")) summary.erase(0, std::strlen("zerocp: "));
  std::string roff = ".TH " + Upper(name) + " 1 \"\" \"zerocp " ZEROCP_VERSION "\" \"zerocp\"\n";
  roff += ".SH NAME\n" + Escaped(name) + " \\- " + Escaped(summary) + "\n";
  roff += ".SH SYNOPSIS\n" + Synopsis(path, command);
  const std::string footer = command.get_footer();
  const size_t examples = footer.find(kExamples);
  const std::string notes = footer.substr(0, examples) + about.substr(FirstLine(about).size());
  if (notes.find_first_not_of('\n') != std::string::npos)
    roff += ".SH DESCRIPTION\n" + Paragraphs(notes);
  const auto commands = SubcommandsOf(command);
  if (!commands.empty()) roff += ".SH WORDS\n";
  for (const CLI::App* inner : commands)
    roff += ".TP\n\\fB" + Escaped(inner->get_name()) + "\\fR\n" +
            Escaped(FirstLine(inner->get_description())) + "\n";
  if (!PositionalsOf(command).empty()) roff += ".SH ARGUMENTS\n" + Items(PositionalsOf(command));
  roff += ".SH OPTIONS\n" + Items(OptionsOf(command));
  const std::string rest = footer.substr(examples + std::strlen(kExamples));
  const size_t end = rest.find("\n\n");
  roff += ".SH EXAMPLES\n" + Literal(rest.substr(0, end) + "\n");
  if (path.empty()) return roff + ".SH EXIT STATUS\n" + Paragraphs(rest.substr(end));
  return roff + ".SH SEE ALSO\n.BR zerocp (1),\nwhich has the options of every word\n";
}

}  // namespace

int WriteManPages(const CLI::App& app, const std::string& directory) {
  int code = kDone;
  ForEachCommand(app, [&](const std::string& path, const CLI::App& command) {
    const std::string file = directory + "/" + PageName(path) + ".1";
    std::ofstream page(file);
    page << Page(path, command);
    page.close();
    if (!page) code = Failed(kFailed, file + ": " + std::strerror(errno));
  });
  return code;
}

}  // namespace zerocp::cli
