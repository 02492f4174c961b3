#include "client/cli/render.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/timestamp.pb.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <set>
#include <tuple>
#include <utility>

#include "client/cli/exit_code.h"
#include "client/cli/output.h"

namespace zerocp::cli {
namespace {

using google::protobuf::Duration;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Timestamp;

// "a.b.c" -> "a", "b.c"
std::pair<std::string, std::string> SplitPath(const std::string& path) {
  const size_t dot = path.find('.');
  return {path.substr(0, dot), dot == std::string::npos ? "" : path.substr(dot + 1)};
}

const FieldDescriptor* FieldOf(const Message& message, const std::string& name) {
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
  if (field == nullptr) {
    Failed(kFailed, message.GetDescriptor()->full_name() + " has no field " + name);
    std::abort();
  }
  return field;
}

// The name of a pool, channel or session without its collection; others are given as they are, but
// for what a terminal would take for commands.
std::string StringText(const FieldDescriptor& field, const std::string& text) {
  static const std::set<std::string> kIds{"name", "pool", "channel", "session"};
  const std::string value = Printable(text);
  const size_t slash = value.find('/');
  const bool is_id = kIds.contains(field.name()) && slash == value.rfind('/');
  return is_id && slash != std::string::npos ? value.substr(slash + 1) : value;
}

std::string NumberText(const FieldDescriptor& field, int64_t value) {
  return field.name().ends_with("_bytes") ? FormatBytes(value) : std::to_string(value);
}

bool IsNumber(const FieldDescriptor& field) {
  return field.is_repeated() || field.cpp_type() == FieldDescriptor::CPPTYPE_INT32 ||
         field.cpp_type() == FieldDescriptor::CPPTYPE_INT64 ||
         field.message_type() == Duration::descriptor();
}

std::string FieldText(const Message& message, const FieldDescriptor& field) {
  const auto* reflection = message.GetReflection();
  if (field.is_repeated()) return std::to_string(reflection->FieldSize(message, &field));
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return StringText(field, reflection->GetString(message, &field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(message, &field) ? "yes" : "no";
    case FieldDescriptor::CPPTYPE_ENUM:
      return WordOf(*field.enum_type(), reflection->GetEnumValue(message, &field));
    case FieldDescriptor::CPPTYPE_INT32:
      return NumberText(field, reflection->GetInt32(message, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return NumberText(field, reflection->GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      const Message& inner = reflection->GetMessage(message, &field);
      return field.message_type() == Duration::descriptor() ? DurationText(inner) : TimeText(inner);
    }
    default:
      return message.ShortDebugString();
  }
}

void EmitYaml(YAML::Emitter& out, const Message& message);

// A value of a field, the `index`th if it is repeated.
void EmitValue(YAML::Emitter& out, const Message& message, const FieldDescriptor& field,
               int index) {
  const auto* r = message.GetReflection();
  const bool many = field.is_repeated();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      out << YAML::DoubleQuoted
          << (many ? r->GetRepeatedString(message, &field, index) : r->GetString(message, &field));
      return;
    case FieldDescriptor::CPPTYPE_BOOL:
      out << (many ? r->GetRepeatedBool(message, &field, index) : r->GetBool(message, &field));
      return;
    case FieldDescriptor::CPPTYPE_ENUM:
      out << (many ? r->GetRepeatedEnum(message, &field, index) : r->GetEnum(message, &field))
                 ->name();
      return;
    case FieldDescriptor::CPPTYPE_INT32:
      out << (many ? r->GetRepeatedInt32(message, &field, index) : r->GetInt32(message, &field));
      return;
    case FieldDescriptor::CPPTYPE_INT64:
      out << (many ? r->GetRepeatedInt64(message, &field, index) : r->GetInt64(message, &field));
      return;
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return EmitYaml(out, many ? r->GetRepeatedMessage(message, &field, index)
                                : r->GetMessage(message, &field));
    default:
      out << YAML::Null;
  }
}

void EmitYaml(YAML::Emitter& out, const Message& message) {
  if (message.GetDescriptor() == Timestamp::descriptor()) {
    out << PreciseTimeText(message);
    return;
  }
  if (message.GetDescriptor() == Duration::descriptor()) {
    Duration duration;
    duration.CopyFrom(message);
    out << google::protobuf::util::TimeUtil::ToString(duration);
    return;
  }
  const auto* reflection = message.GetReflection();
  out << YAML::BeginMap;
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    if (field.has_presence() && !reflection->HasField(message, &field)) continue;
    out << YAML::Key << field.name() << YAML::Value;
    if (!field.is_repeated()) {
      EmitValue(out, message, field, 0);
      continue;
    }
    out << YAML::BeginSeq;
    for (int k = 0; k < reflection->FieldSize(message, &field); ++k)
      EmitValue(out, message, field, k);
    out << YAML::EndSeq;
  }
  out << YAML::EndMap;
}

void AddRows(const Message& message, const std::string& path, std::vector<const Message*>* rows) {
  if (path.empty()) return rows->push_back(&message);
  const auto [name, rest] = SplitPath(path);
  const FieldDescriptor* field = FieldOf(message, name);
  const auto* reflection = message.GetReflection();
  if (!field->is_repeated()) {
    if (reflection->HasField(message, field))
      AddRows(reflection->GetMessage(message, field), rest, rows);
    return;
  }
  for (int i = 0; i < reflection->FieldSize(message, field); ++i)
    AddRows(reflection->GetRepeatedMessage(message, field, i), rest, rows);
}

// Whether a field has what it has when nobody has set it.
bool IsZero(const Message& message, const FieldDescriptor& field) {
  std::vector<const FieldDescriptor*> set;
  message.GetReflection()->ListFields(message, &set);
  return std::find(set.begin(), set.end(), &field) == set.end();
}

}  // namespace

std::vector<const Message*> RowsOf(const Message& message, const std::string& path) {
  std::vector<const Message*> rows;
  AddRows(message, path, &rows);
  return rows;
}

std::string ValueText(const Message& message, const Column& column) {
  const FieldDescriptor& field = *FieldOf(message, column.field);
  if (IsZero(message, field)) {
    if (column.zero != nullptr) return column.zero;
    if (field.has_presence() && field.message_type() != Duration::descriptor()) return {};
  }
  return FieldText(message, field);
}

std::string TableText(const Message& response, const Section& section) {
  if (std::string(section.rows).empty()) {
    Table table({section.columns[0].heading, ValueText(response, section.columns[0])});
    for (size_t i = 1; i < section.columns.size(); ++i)
      table.Add({section.columns[i].heading, ValueText(response, section.columns[i])});
    return table.ToString();
  }
  std::vector<const Message*> rows = RowsOf(response, section.rows);
  if (rows.empty() && section.left_out_if_empty) return {};
  if (section.before != nullptr) {
    std::stable_sort(rows.begin(), rows.end(),
                     [&](const auto* a, const auto* b) { return section.before(*a, *b); });
  }
  // The type of the rows, also when there are none.
  const google::protobuf::Descriptor* type = response.GetDescriptor();
  for (std::string rest = section.rows, name; !rest.empty();) {
    std::tie(name, rest) = SplitPath(rest);
    type = type->FindFieldByName(name)->message_type();
  }
  std::vector<std::string> headings;
  for (const Column& column : section.columns)
    headings.push_back((IsNumber(*type->FindFieldByName(column.field)) ? ">" : "") +
                       std::string(column.heading));
  Table table(std::move(headings));
  for (const Message* row : rows) {
    std::vector<std::string> cells;
    for (const Column& column : section.columns) cells.push_back(ValueText(*row, column));
    table.Add(std::move(cells), section.tone == nullptr ? Tone::kPlain : section.tone(*row));
  }
  return table.ToString();
}

bool ToJson(const Message& message, bool one_line, std::string* text) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = !one_line;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;  // as grpcurl prints them
  return google::protobuf::util::MessageToJsonString(message, text, options).ok();
}

std::string ToYamlText(const Message& message) {
  YAML::Emitter out;
  EmitYaml(out, message);
  return std::string(out.c_str()) + "\n";
}

int PrintMessage(const Message& message, Format format) {
  std::string text;
  if (format == Format::kYaml) {
    text = ToYamlText(message);
  } else if (!ToJson(message, /*one_line=*/false, &text)) {
    return Failed(kFailed, "the answer cannot be written as JSON");
  }
  Print(text);
  return kDone;
}

std::string WordOf(const EnumDescriptor& type, int number) {
  const auto* value = type.FindValueByNumber(number);
  if (value == nullptr) return std::to_string(number);
  const std::string first = type.value(0)->name();  // PREFIX_UNSPECIFIED
  std::string word = value->name().substr(first.rfind('_') + 1);
  for (char& c : word)
    c = c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return word;
}

std::string DurationText(const Message& message) {
  Duration duration;
  duration.CopyFrom(message);
  const int64_t tenths = duration.seconds() * 10 + duration.nanos() / 100'000'000;
  return tenths == 0 ? "-" : std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " s";
}

std::string TimeText(const Message& message) {
  Timestamp time;
  time.CopyFrom(message);
  time.set_nanos(0);
  return google::protobuf::util::TimeUtil::ToString(time);
}

std::string PreciseTimeText(const Message& message) {
  Timestamp time;
  time.CopyFrom(message);
  std::string text = TimeText(message);
  std::string fraction = std::to_string(1000 + time.nanos() / 1'000'000);
  fraction[0] = '.';
  return text.insert(text.size() - 1, fraction);
}

}  // namespace zerocp::cli
