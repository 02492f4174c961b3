#include <google/protobuf/descriptor.h>

#include <charconv>
#include <limits>
#include <memory>
#include <string>

#include "client/cli/output.h"
#include "client/cli/words.h"
#include "shm/byte_size.h"

namespace zerocp::cli {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MessageFactory;
using google::protobuf::MethodDescriptor;

const MethodDescriptor& MethodOf(const Word& word) {
  return *DescriptorPool::generated_pool()->FindMethodByName(
      std::string("zerocp.v1.").append(word.service).append(".").append(word.method));
}

std::unique_ptr<Message> New(const Descriptor* type) {
  return std::unique_ptr<Message>(MessageFactory::generated_factory()->GetPrototype(type)->New());
}

const FieldDescriptor& FieldAt(const Descriptor& type, const std::string& path) {
  const size_t dot = path.find('.');
  const FieldDescriptor& field = *type.FindFieldByName(path.substr(0, dot));
  return dot == std::string::npos ? field : FieldAt(*field.message_type(), path.substr(dot + 1));
}

// The message that has the last field of the path.
Message* OwnerOf(Message* message, const std::string& path) {
  const size_t dot = path.find('.');
  if (dot == std::string::npos) return message;
  const auto* field = message->GetDescriptor()->FindFieldByName(path.substr(0, dot));
  return OwnerOf(message->GetReflection()->MutableMessage(message, field), path.substr(dot + 1));
}

std::string SetEnum(Message* owner, const FieldDescriptor& field, const std::string& text) {
  const EnumDescriptor& type = *field.enum_type();
  std::string choices;
  for (int i = 1; i < type.value_count(); ++i) {  // 0 is UNSPECIFIED
    const std::string word = WordOf(type, type.value(i)->number());
    if (!text.empty() && word.starts_with(text)) {  // "drop" is drop-oldest
      owner->GetReflection()->SetEnum(owner, &field, type.value(i));
      return {};
    }
    choices += (choices.empty() ? "" : ", ") + word;
  }
  return text + " is none of " + choices;
}

// As the API has it: a whole name, but for one that is created, whose collection is known.
std::string ResourceName(const FieldDescriptor& field, const std::string& collection,
                         const std::string& text) {
  if (field.name().ends_with("_id"))
    return text.starts_with(collection) ? text.substr(collection.size()) : text;
  for (const char* whole : {"pools/", "channels/", "sessions/"})
    if (text.starts_with(whole)) return text;
  return collection + text;
}

std::string SetNumber(Message* owner, const FieldDescriptor& field, const Argument& argument,
                      const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_plain = error == std::errc() && end == text.data() + text.size();
  const bool wide = field.cpp_type() == FieldDescriptor::CPPTYPE_INT64;
  const int64_t of_type =
      wide ? std::numeric_limits<int64_t>::max() : int64_t{std::numeric_limits<int32_t>::max()};
  const int64_t most = argument.most != 0 ? argument.most : of_type;
  if (!is_plain && field.name().ends_with("_bytes")) {
    const auto bytes = shm::ParseBytes(text);
    if (!bytes.ok()) return bytes.status().message();
    if (*bytes > static_cast<uint64_t>(most)) return text + " is more than " + std::to_string(most);
    value = static_cast<int64_t>(*bytes);
  } else if (!is_plain) {
    return text + " is no whole number";
  }
  if (value < argument.least || value > most)
    return text + " must be from " + std::to_string(argument.least) + " to " + std::to_string(most);
  if (wide) {
    owner->GetReflection()->SetInt64(owner, &field, value);
  } else {
    owner->GetReflection()->SetInt32(owner, &field, static_cast<int32_t>(value));
  }
  return {};
}

}  // namespace

std::unique_ptr<Message> NewRequest(const Word& word) { return New(MethodOf(word).input_type()); }

const FieldDescriptor& FieldOf(const Word& word, const Argument& argument) {
  return FieldAt(*MethodOf(word).input_type(), argument.field);
}

std::vector<std::string> ChoicesOf(const FieldDescriptor& field) {
  std::vector<std::string> choices;
  if (field.cpp_type() != FieldDescriptor::CPPTYPE_ENUM) return choices;
  for (int i = 1; i < field.enum_type()->value_count(); ++i)  // 0 is UNSPECIFIED
    choices.push_back(WordOf(*field.enum_type(), field.enum_type()->value(i)->number()));
  return choices;
}

std::string SetField(Message* message, const Argument& argument, const std::string& text) {
  const FieldDescriptor& field = FieldAt(*message->GetDescriptor(), argument.field);
  Message* const owner = OwnerOf(message, argument.field);
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      owner->GetReflection()->SetString(owner, &field,
                                        ResourceName(field, argument.collection, text));
      return {};
    case FieldDescriptor::CPPTYPE_BOOL:
      owner->GetReflection()->SetBool(owner, &field, true);
      return {};
    case FieldDescriptor::CPPTYPE_ENUM:
      return SetEnum(owner, field, text);
    default:
      return SetNumber(owner, field, argument, text);
  }
}

std::string TextOf(const Word& word, const Message& request, const Message& response) {
  std::string text;
  for (const Section& section : word.sections) {
    const std::string table = TableText(response, section);
    text += (text.empty() || table.empty() ? "" : "\n") + table;
  }
  const std::string last = word.summary == nullptr ? "" : word.summary(request, response);
  if (last.empty()) return text;
  return text + (text.empty() ? "" : "\n") + last + "\n";
}

int Show(const Word& word, const Message& request, const Message& response, Format format) {
  const int code = word.verdict == nullptr ? kDone : word.verdict(response);
  if (format != Format::kTable)
    return PrintMessage(response, format) == kDone ? code : int{kFailed};
  Print(TextOf(word, request, response));
  return code;
}

int Run(const Word& word, const Message& request, const DaemonOptions& daemon) {
  DaemonConnection connection(daemon, word.service, word.patience_s);
  const std::unique_ptr<Message> response = New(MethodOf(word).output_type());
  if (!connection.Call(word.method, request, response.get())) return connection.exit_code();
  return Show(word, request, *response, daemon.format);
}

}  // namespace zerocp::cli
