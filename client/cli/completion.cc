#include "client/cli/completion.h"

#include <algorithm>
#include <functional>

#include "client/cli/command_tree.h"

namespace zerocp::cli {
namespace {

using Write = std::function<std::string(const std::string& candidate, const std::string& about)>;

// `text` as one word of a shell.
std::string Quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

// What completes a value: "table|json|yaml" -> "choices table json yaml", "FILE" -> "files",
// "POOL" -> "names pools"; empty: nothing can be said.
std::string CompleterOf(const std::string& value) {
  if (value == "FILE") return "files";
  if (value == "DIR") return "directories";
  for (const char* named : {"POOL", "CHANNEL", "SESSION", "SUBSCRIBER"}) {
    if (value != named) continue;
    std::string collection = value + "S";
    std::transform(collection.begin(), collection.end(), collection.begin(),
                   [](char c) { return static_cast<char>(c - 'A' + 'a'); });
    return "names " + collection;
  }
  if (value.find('|') == std::string::npos) return {};
  std::string choices = value;
  std::replace(choices.begin(), choices.end(), '|', ' ');
  return "choices " + choices;
}

// What "$command/$previous" is in the scripts, quoted.
std::string Place(std::string path, const std::string& word) {
  return Quoted(path.append("/").append(word));
}

// The path of a word behind another one's.
std::string Behind(std::string path, const std::string& word) {
  return path.empty() ? word : path.append(" ").append(word);
}

// A line for each word: where it is a word and not something else.
std::string PathCases(const CLI::App& app) {
  std::string cases;
  ForEachCommand(app, [&](const std::string& path, const CLI::App& command) {
    for (const CLI::App* inner : SubcommandsOf(command)) {
      cases.append("      ").append(Place(path, inner->get_name()));
      cases.append(") command=").append(Quoted(Behind(path, inner->get_name()))).append(" ;;\n");
    }
  });
  return cases;
}

// A line for each option that takes a value: what completes that. Those of every word come last.
std::string ValueCases(const CLI::App& app) {
  std::string cases, of_every_word;
  ForEachCommand(app, [&](const std::string& path, const CLI::App& command) {
    for (const CLI::Option* option : OptionsOf(command)) {
      const std::string value = ValueOf(*option);
      if (value.empty()) continue;
      std::string completer = CompleterOf(value);
      if (completer.empty()) completer = "nothing";
      for (const std::string& name : NamesOf(*option)) {
        std::string& lines = path.empty() ? of_every_word : cases;
        lines += path.empty() ? "    *" : "    ";
        lines.append(Place(path, name)).append(") _zerocp_").append(completer);
        lines.append("; return ;;\n");
      }
    }
  });
  return cases + of_every_word;
}

// Matches an option, behind its command, whose next word is its value.
std::string ValuePattern(const CLI::App& app) {
  std::string pattern;
  ForEachCommand(app, [&](const std::string& path, const CLI::App& command) {
    for (const CLI::Option* option : OptionsOf(command)) {
      if (ValueOf(*option).empty()) continue;
      for (const std::string& name : NamesOf(*option))
        pattern += (pattern.empty() ? "" : " | ") + std::string(path.empty() ? "*" : "") +
                   Place(path, name);
    }
  });
  return pattern;
}

std::string OptionNames(const CLI::App& command, const Write& write) {
  std::string all;
  for (const CLI::Option* option : OptionsOf(command)) {
    for (const std::string& name : NamesOf(*option))
      all += write(name, option->get_description()) + " ";
  }
  return all;
}

// A line for each command: its words, options, and what completes its arguments.
std::string CandidateCases(const CLI::App& app, const Write& write) {
  std::string cases;
  ForEachCommand(app, [&](const std::string& path, const CLI::App& command) {
    cases += "    " + Quoted(path) + ")\n";
    for (const CLI::Option* argument : PositionalsOf(command)) {
      const std::string completer = CompleterOf(ValueOf(*argument));
      if (!completer.empty()) cases += "      _zerocp_" + completer + "\n";
    }
    cases += "      candidates+=(";
    for (const CLI::App* inner : SubcommandsOf(command))
      cases += write(inner->get_name(), FirstLine(inner->get_description())) + " ";
    cases += ")\n      options+=(" + OptionNames(command, write);
    cases += ")\n      ;;\n";
  });
  return cases;
}

std::string Replaced(std::string text, const std::string& mark, const std::string& by) {
  return text.replace(text.find(mark), mark.size(), by);
}

constexpr char kBash[] = R"sh(# Completion of zerocp for bash, made by `zerocp completion bash`.
_zerocp_choices() { candidates+=("$@"); }
_zerocp_nothing() { :; }
# Of these words those that begin with $current, as they are: compgen -W would expand them.
_zerocp_matching() {
  local word
  for word in "$@"; do
    if [[ $word == "$current"* ]]; then COMPREPLY+=("$word"); fi
  done
}
_zerocp_files() { mapfile -t COMPREPLY < <(compgen -f -- "$current"); }
_zerocp_directories() { mapfile -t COMPREPLY < <(compgen -d -- "$current"); }
_zerocp_names() {
  local name
  while read -r name _; do candidates+=("$name"); done < <(zerocp "$1" --timeout 1 2>/dev/null | tail -n +2)
}
_zerocp_value() {
  case "$command/$previous" in
@VALUES@  esac
  return 1
}
_zerocp() {
  local current=${COMP_WORDS[COMP_CWORD]} previous='' command='' index
  local -a candidates=() options=()
  COMPREPLY=()
  for ((index = 1; index < COMP_CWORD; ++index)); do
    previous=${COMP_WORDS[index]}
    case "$command/$previous" in
      @TAKES_VALUE@) if ((++index < COMP_CWORD)); then previous=''; fi ;;
@PATHS@    esac
  done
  if _zerocp_value; then
    _zerocp_matching "${candidates[@]}"
    return
  fi
  case "$command" in
@CANDIDATES@  esac
  options+=(@GLOBAL@)
  if [[ $current == -* ]]; then candidates=("${options[@]}"); fi
  _zerocp_matching "${candidates[@]}"
}
complete -o filenames -F _zerocp zerocp
)sh";

constexpr char kZsh[] = R"sh(#compdef zerocp
# Completion of zerocp for zsh, made by `zerocp completion zsh`.
_zerocp_choices() { candidates+=("$@"); }
_zerocp_nothing() { :; }
_zerocp_files() { _files; }
_zerocp_directories() { _files -/; }
_zerocp_names() {
  local name rest
  zerocp $1 --timeout 1 2>/dev/null | tail -n +2 | while read -r name rest; do candidates+=("$name"); done
}
_zerocp_value() {
  case "$command/$previous" in
@VALUES@  esac
  return 1
}
_zerocp() {
  local previous='' command='' index
  local -a candidates options
  for ((index = 2; index < CURRENT; ++index)); do
    previous=${words[index]}
    case "$command/$previous" in
      @TAKES_VALUE@) if ((++index < CURRENT)); then previous=''; fi ;;
@PATHS@    esac
  done
  if _zerocp_value; then
    _describe 'value' candidates
    return
  fi
  case "$command" in
@CANDIDATES@  esac
  options+=(@GLOBAL@)
  if [[ ${words[CURRENT]} == -* ]]; then candidates=("${options[@]}"); fi
  _describe 'word or option' candidates
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _zerocp "$@"; else compdef _zerocp zerocp; fi
)sh";

}  // namespace

std::string CompletionScript(const CLI::App& app, const std::string& shell) {
  const bool is_zsh = shell == "zsh";
  const Write write = [is_zsh](const std::string& candidate, const std::string& about) {
    return Quoted(is_zsh && !about.empty() ? candidate + ":" + about : candidate);
  };
  std::string script = is_zsh ? kZsh : kBash;
  script = Replaced(script, "@VALUES@", ValueCases(app));
  script = Replaced(script, "@TAKES_VALUE@", ValuePattern(app));
  script = Replaced(script, "@PATHS@", PathCases(app));
  script = Replaced(script, "@CANDIDATES@", CandidateCases(app, write));
  return Replaced(script, "@GLOBAL@", OptionNames(app, write));
}

}  // namespace zerocp::cli
