#include "server/start_section.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>

namespace zerocp {
namespace {

using shm::Code;
using shm::Result;
using shm::Status;

constexpr char kSection[] = "start";

Status Invalid(const std::string& file, int line, const std::string& what) {
  return Status(Code::kInvalid, file + ":" + std::to_string(line + 1) + ": " + what);
}

// Appends the words of a value; false if it has anything else.
bool AddValues(const YAML::Node& node, std::vector<std::string>* values) {
  if (node.IsScalar()) {
    values->push_back(node.Scalar());
    return true;
  }
  if (!node.IsSequence()) return false;
  return std::all_of(node.begin(), node.end(), [&](const YAML::Node& item) {
    return item.IsScalar() && AddValues(item, values);
  });
}

Result<std::vector<StartOption>> ReadOptions(const YAML::Node& section, const std::string& file) {
  std::vector<StartOption> options;
  if (section.IsNull()) return options;
  if (!section.IsMap())
    return Invalid(file, section.Mark().line, "start must be options with values");
  std::set<std::string> names;
  for (const auto& entry : section) {
    const YAML::Node& key = entry.first;
    const int line = key.Mark().line;
    if (!key.IsScalar()) return Invalid(file, line, "start has a key that is no word");
    const std::string path = std::string(kSection) + "." + key.Scalar();
    if (!names.insert(key.Scalar()).second) return Invalid(file, line, path + " is there twice");
    StartOption option{key.Scalar(), {}, line + 1};
    if (!AddValues(entry.second, &option.values))
      return Invalid(file, line, path + " must be a value, or a list of values");
    options.push_back(std::move(option));
  }
  return options;
}

}  // namespace

Result<std::vector<StartOption>> ReadStartSection(const std::string& text,
                                                  const std::string& file) {
  try {
    const YAML::Node root = YAML::Load(text);
    std::vector<StartOption> options;
    if (!root.IsMap()) return options;  // what is wrong with the rest is said elsewhere
    for (const auto& entry : root) {
      if (entry.first.IsScalar() && entry.first.Scalar() == kSection)
        return ReadOptions(entry.second, file);
    }
    return options;
  } catch (const YAML::Exception& error) {
    return Invalid(file, std::max(error.mark.line, 0), "is not YAML: " + error.msg);
  }
}

}  // namespace zerocp
