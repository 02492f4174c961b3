#include "proto/config_yaml.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <set>
#include <sstream>
#include <string_view>

#include "shm/byte_size.h"
#include "shm/mutant.h"

namespace zerocp {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

int LineOf(const YAML::Node& node) { return node.Mark().line + 1; }

std::string Join(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

// Reads a tree into a message and notes lines and errors by path.
class Reader {
 public:
  explicit Reader(ParsedConfig* parsed) : parsed_(*parsed) {}

  void ReadMap(const YAML::Node& node, const std::string& path, Message* message) {
    if (node.IsNull()) return;
    if (!node.IsMap()) return Fail(node, path, "must be keys with values");
    std::set<std::string> seen;
    for (const auto& entry : node) {
      const YAML::Node& key_node = entry.first;
      if (!key_node.IsScalar()) {
        Fail(key_node, path, "has a key that is no word");
        continue;
      }
      const std::string& key = key_node.Scalar();
      const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(key);
      if (field == nullptr) field = message->GetDescriptor()->FindFieldByCamelcaseName(key);
      if (!seen.insert(field == nullptr ? key : field->name()).second && !Mutant(60)) {
        Fail(key_node, Join(path, key), "is there twice");
      } else if (path.empty() && key == kStartSection) {
        continue;
      } else if (field != nullptr) {
        const std::string inner = Join(path, field->name());
        parsed_.lines[inner] = LineOf(key_node);
        ReadField(entry.second, inner, message, field);
      } else {
        Fail(key_node, Join(path, key),
             "is unknown; possible are " + KeysOf(*message, path.empty()));
      }
    }
  }

 private:
  void Fail(const YAML::Node& node, const std::string& path, const std::string& what) {
    parsed_.errors.push_back({LineOf(node), path + (path.empty() ? "the file " : " ") + what});
  }

  static std::string KeysOf(const Message& message, bool top) {
    std::string keys = top ? kStartSection : "";
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i)
      keys += (keys.empty() ? "" : ", ") + message.GetDescriptor()->field(i)->name();
    return keys;
  }

  void ReadField(const YAML::Node& node, const std::string& path, Message* message,
                 const FieldDescriptor* field) {
    if (!field->is_repeated()) return ReadValue(node, path, message, field);
    if (node.IsNull()) return;
    if (!node.IsSequence()) return Fail(node, path, "must be a list");
    for (size_t i = 0; i < node.size(); ++i) {
      const std::string inner = path + "[" + std::to_string(i) + "]";
      parsed_.lines[inner] = LineOf(node[i]);
      ReadMap(node[i], inner, message->GetReflection()->AddMessage(message, field));
    }
  }

  void ReadValue(const YAML::Node& node, const std::string& path, Message* message,
                 const FieldDescriptor* field) {
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE)
      return Fail(node, path, "is output only: leave it out");
    if (!node.IsScalar()) return Fail(node, path, "must be a single value");
    const std::string& text = node.Scalar();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        return message->GetReflection()->SetString(message, field, text);
      case FieldDescriptor::CPPTYPE_BOOL:
        if (text != "true" && text != "false") return Fail(node, path, "must be true or false");
        return message->GetReflection()->SetBool(message, field, text == "true");
      case FieldDescriptor::CPPTYPE_ENUM:
        return ReadEnum(node, path, message, field);
      case FieldDescriptor::CPPTYPE_INT32:
      case FieldDescriptor::CPPTYPE_INT64:
        return ReadInteger(node, path, message, field);
      default:
        return Fail(node, path, "has a type that a file cannot have");
    }
  }

  void ReadEnum(const YAML::Node& node, const std::string& path, Message* message,
                const FieldDescriptor* field) {
    if (const auto* value = field->enum_type()->FindValueByName(node.Scalar()))
      return message->GetReflection()->SetEnum(message, field, value);
    std::string possible;
    for (int i = 1; i < field->enum_type()->value_count(); ++i)  // 0 is UNSPECIFIED
      possible += (i > 1 ? ", " : "") + field->enum_type()->value(i)->name();
    Fail(node, path, "is \"" + node.Scalar() + "\", which is none of " + possible);
  }

  void ReadInteger(const YAML::Node& node, const std::string& path, Message* message,
                   const FieldDescriptor* field) {
    const bool wide = field->cpp_type() == FieldDescriptor::CPPTYPE_INT64;
    const int64_t most =
        wide ? std::numeric_limits<int64_t>::max() : std::numeric_limits<int32_t>::max();
    const int64_t least =
        wide ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int32_t>::min();
    const std::string& text = node.Scalar();
    const bool is_size = field->name().ends_with("_bytes");
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size()) {
      const auto bytes = shm::ParseBytes(text);
      if (!is_size || !bytes.ok() ||
          *bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Fail(node, path,
                    "is \"" + text + "\", which is no " +
                        (is_size ? "size: bytes, or a number with KiB, MiB or GiB" : "integer"));
      }
      value = static_cast<int64_t>(*bytes);
    }
    if (value > most || value < least)
      return Fail(node, path, "is " + text + ", more than " + std::to_string(most));
    if (wide) {
      message->GetReflection()->SetInt64(message, field, value);
    } else {
      message->GetReflection()->SetInt32(message, field, static_cast<int32_t>(value));
    }
  }

  ParsedConfig& parsed_;
};

void Emit(YAML::Emitter& out, const Message& message) {
  std::vector<const FieldDescriptor*> fields;
  const auto* reflection = message.GetReflection();
  reflection->ListFields(message, &fields);
  out << YAML::BeginMap;
  for (const FieldDescriptor* field : fields) {
    out << YAML::Key << field->name() << YAML::Value;
    if (field->is_repeated()) {
      out << YAML::BeginSeq;
      for (int i = 0; i < reflection->FieldSize(message, field); ++i)
        Emit(out, reflection->GetRepeatedMessage(message, field, i));
      out << YAML::EndSeq;
      continue;
    }
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        out << reflection->GetString(message, field);
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        out << reflection->GetBool(message, field);
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        out << reflection->GetEnum(message, field)->name();
        break;
      case FieldDescriptor::CPPTYPE_INT32:
        out << reflection->GetInt32(message, field);
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        out << reflection->GetInt64(message, field);
        break;
      default:  // a Config has no other
        out << YAML::Null;
    }
  }
  out << YAML::EndMap;
}

// The lines of the section `start` with the comments above them; empty if there is none.
std::string StartSectionOf(const std::string& text) {
  const YAML::Node root = YAML::Load(text);
  if (!root.IsMap() || !root[kStartSection]) return {};
  if (root.Style() == YAML::EmitterStyle::Flow) {  // JSON
    YAML::Emitter out;
    out << YAML::BeginMap << YAML::Key << kStartSection << YAML::Value << root[kStartSection]
        << YAML::EndMap;
    return std::string(out.c_str()) + "\n";
  }
  int first = 0;
  int end = std::numeric_limits<int>::max();  // line of the key that follows
  bool found = false;
  for (const auto& entry : root) {
    const int line = entry.first.Mark().line;
    if (entry.first.Scalar() == kStartSection) {
      found = true;
      first = line;
    } else if (found) {
      end = std::min(end, line);
    }
  }
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  const auto is_comment = [&](int line) {
    return lines[static_cast<size_t>(line)].empty() || lines[static_cast<size_t>(line)][0] == '#';
  };
  end = std::min(end, static_cast<int>(lines.size()));
  while (first > 0 && is_comment(first - 1)) --first;
  while (end > first && is_comment(end - 1)) --end;
  std::string section;
  for (int line = first; line < end; ++line) section += lines[static_cast<size_t>(line)] + "\n";
  return section;
}

}  // namespace

int ParsedConfig::LineOf(std::string path) const {
  for (;;) {
    if (const auto found = lines.find(path); found != lines.end()) return found->second;
    const size_t cut = path.find_last_of(".[");
    if (cut == std::string::npos) return 1;
    path.resize(cut);
  }
}

ParsedConfig ParseConfig(const std::string& text) {
  ParsedConfig parsed;
  try {
    const YAML::Node root = YAML::Load(text);
    Reader(&parsed).ReadMap(root, "", &parsed.config);
  } catch (const YAML::Exception& error) {
    parsed.errors.push_back({std::max(error.mark.line, 0) + 1, "is not YAML: " + error.msg});
  }
  return parsed;
}

std::string ToYaml(const v1::Config& config) {
  YAML::Emitter out;
  Emit(out, config);
  return std::string(out.c_str()) + "\n";
}

std::string ReplaceConfig(const std::string& text, const v1::Config& config) {
  const std::string start = StartSectionOf(text);
  return start + (start.empty() ? "" : "\n") + ToYaml(config);
}

}  // namespace zerocp
